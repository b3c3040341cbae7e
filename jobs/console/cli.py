"""Exit codes, missing options and the JSON line: the same for all jobs."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ctrdist.errors import ConfigError, UserError

USER_ERROR = 2
INTERRUPTED = 130


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs a job and exits with its code.

    A UserError is printed to stderr as one message without a traceback, and the code is 2. Ctrl-C
    gives 130 and SIGTERM (`ray job stop`) 143, both after the job has cleaned up.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = main() or 0
    except UserError as error:
        code = _fail(f"error: {error}", USER_ERROR)
    except KeyboardInterrupt:
        code = _fail("interrupted", INTERRUPTED)
    sys.stdout.flush()
    sys.exit(code)


def required(config: Any, **options: str) -> None:
    """Refuses a config that lacks a value for one of the options, given as name="KIND".

    Raises:
        ConfigError: names the option.
    """
    for name, kind in options.items():
        if not getattr(config, name):
            raise ConfigError(f"--{name} {kind} is missing; see --help.")


def print_json(values: Mapping[str, Any]) -> None:
    """Prints one JSON object on one line, the last on stdout under --json."""
    print(json.dumps(values), flush=True)


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return code


def _terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)
