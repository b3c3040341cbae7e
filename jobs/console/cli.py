"""What all jobs share: how they end, and their last line with --json."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ctrdist.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs a job and leaves with its exit code.

    An error that the user can mend becomes one message on stderr and exit code 2, without a
    traceback. Ctrl-C gives 130 and SIGTERM (`ray job stop`) 143, both after the job has cleaned up.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = main() or 0
    except UserError as error:
        code = _say(f"error: {error}", USER_ERROR)
    except KeyboardInterrupt:
        code = _say("interrupted", INTERRUPTED)
    sys.stdout.flush()
    sys.exit(code)


def print_json(values: Mapping[str, Any]) -> None:
    """Prints one JSON object on one line: the job's last on stdout under --json."""
    print(json.dumps(values), flush=True)


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return code


def _terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)
