"""Requests to S3 outlast a server that is away for a while: started anew, or cut off for a moment.

botocore tries a request five times within about ten seconds. s3fs tries again what botocore gives
up, but not where nobody answers at all, which is what a server that starts anew looks like.
"""

from __future__ import annotations

from functools import lru_cache


@lru_cache
def outlast_outages() -> None:
    """From now on, this process tries S3 requests that find no server for half a minute or more.

    Reading a file goes on for some three minutes. Not for the first look at an input or output,
    where an address that is wrong should be told soon.
    """
    import s3fs.core
    from botocore import exceptions as boto

    def passing(error: Exception) -> bool:
        if isinstance(error, boto.ClientError):
            return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
        lasting = isinstance(error, (FileNotFoundError, PermissionError))
        return not lasting and isinstance(
            error, (boto.ConnectionError, boto.HTTPClientError, OSError)
        )

    s3fs.core.set_custom_error_handler(passing)
