"""The frame of all jobs: command line, exit codes, missing options and the JSON line."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ctrdist.config.parse import parse
from ctrdist.config.paths import IS_PATH, runs_directory
from ctrdist.errors import ConfigError, UserError
from ctrdist.strict_json import to_text

USER_ERROR = 2
INTERRUPTED = 130


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a job and exits with its code.

    A UserError is printed to stderr as one message without a traceback, and the code is 2. Ctrl-C
    gives 130 and SIGTERM (`ray job stop`) 143, both after the job has cleaned up.
    """
    signal.signal(signal.SIGTERM, _terminate)
    code = 0
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        code = INTERRUPTED
    sys.stdout.flush()
    sys.exit(code)


def call(
    main: Callable[..., Mapping[str, Any] | None],
    cls: type,
    description: str | None,
    *,
    argv: Sequence[str] | None = None,
    dry_run: str = "",
    prog: str = "",
) -> None:
    """Calls a job with its settings, and prints its results where --json asks for them.

    Args:
        main: the job: main(config), or main(config, switches) if it has a dry run.
        cls: dataclass of the settings.
        description: shown by --help.
        argv: arguments; sys.argv[1:] when None.
        dry_run: help of the switch --dry-run; empty: the job has none.
        prog: name in the usage line; by default that of the script.
    """
    flags = {"json": "The last line on stdout is one JSON object with the results."}
    if dry_run:
        flags["dry_run"] = dry_run
    prog = prog or f"jobs/{Path(sys.argv[0]).name}"
    config: Any
    config, switches = parse(cls, argv, description=description or "", flags=flags, prog=prog)
    result = main(config, switches) if dry_run else main(config)
    if switches["json"] and result is not None:
        print_json(result)


def print_json(values: Mapping[str, Any]) -> None:
    """Prints one JSON object on one line, the last on stdout under --json; nan becomes null."""
    print(to_text(values), flush=True)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Settings of a job that trains many runs."""

    study: str = ""
    """YAML file of the study: see jobs/configs/studies."""
    data: str = field(default="", metadata=IS_PATH)
    """Directory that jobs/preprocess.py wrote: local or s3://."""
    name: str = ""
    """Name of the study; by default the name of its file."""
    runs: str = field(default_factory=runs_directory, metadata=IS_PATH)
    """Directory of all runs; CTRDIST_RUNS replaces the default, runs."""
    set: dict[str, Any] = field(default_factory=dict)
    """Settings of all runs, by dotted name: '{train.epochs: 1}'."""
    cores: int = 1
    """Cores of each run."""
    parallel: int = 0
    """Most runs at a time; 0: limited by the cores or GPUs only."""


def required(config: Any, **options: str) -> None:
    """Refuses a config that lacks a value for one of the options, given as name="KIND".

    Raises:
        ConfigError: names the option.
    """
    for name, kind in options.items():
        if not getattr(config, name):
            raise ConfigError(f"--{name} {kind} is missing; see --help.")


def _terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)
