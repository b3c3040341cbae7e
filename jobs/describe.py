"""Drafts the YAML of a data set from a sample of a raw log: format, columns, roles and split.

python jobs/describe.py --input logs/day_*.csv > clicks.yaml
"""

from __future__ import annotations

import glob
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.parse import parse
from ctrdist.errors import ConfigError
from jobs.console.cli import call, required, run
from preprocessing.config.describe import DescribeConfig
from preprocessing.config.settings import PreprocessConfig, join_paths

if TYPE_CHECKING:  # it is slow to import
    from preprocessing.describe.draft import Guesses


def main(config: DescribeConfig) -> dict[str, Any]:
    """Drafts the YAML, and says what to do next."""
    required(config, input="LOG")
    if config.output and os.path.exists(config.output):
        raise ConfigError(f"--output {config.output}: the file exists. Give another, or remove it.")
    from preprocessing.describe.draft import draft
    from preprocessing.describe.log import describe_log

    _say("reading a sample …")
    guesses, inputs = describe_log(config)
    text = draft(guesses)
    if config.output:
        Path(config.output).write_text(text, encoding="utf-8")
    else:
        print(text, end="", flush=True)
    _show(guesses, _refusal(text), config, inputs)
    return {
        "yaml": text,
        "output": config.output,
        "rows_sampled": guesses.sample.sampled,
        "rows": round(guesses.sample.rows),
        "label": guesses.label.name,
        "roles": {c.name: c.role for c in guesses.choices if c.written},
        "settings": {c.name: c.settings for c in guesses.choices if c.written},
        "split": guesses.split.settings,
        "doubts": guesses.doubts,
    }


def _refusal(text: str) -> str:
    """Why preprocessing does not take the YAML; empty where it does."""
    from preprocessing.config.checks import check_config

    try:
        check_config(parse(PreprocessConfig, ["--config", text])[0])
    except ConfigError as error:
        return str(error)
    return ""


def _show(guesses: Guesses, refusal: str, config: DescribeConfig, inputs: Sequence[str]) -> None:
    """Prints a summary, the doubts, and the next commands."""
    sample = guesses.sample
    files = f"{guesses.files:,} file{'s' if guesses.files > 1 else ''}"
    _say(
        f"{sample.sampled:,} of about {sample.rows:,.0f} rows in {files}, "
        f"{sample.layout.type}: {'; '.join(sample.reasons)}"
    )
    roles = Counter(c.role for c in guesses.choices if c.written)
    label = guesses.label
    _say(f"label: {f'{label.name} ({label.reason})' if label.name else 'not known'}")
    _say(", ".join(f"{count} {role}" for role, count in roles.items() if role != "label"))
    for doubt in guesses.doubts:
        _say(f"? {doubt}")
    file = _file(config, guesses.name)
    if refusal and guesses.label.name:
        _say(f"? preprocessing will refuse the YAML: {refusal}")
    first = [] if os.path.isfile(file) else [f"save the YAML as {file}"]
    if not guesses.label.name:
        first.append(f"write `role: label` at one column of {file}")
    _say(f"next: {' and '.join(first)}, then" if first else "next:")
    data, run_name = shlex.quote(f"data/{guesses.name}"), shlex.quote(guesses.name)
    paths = _as_typed(inputs)
    _say(
        f"  python jobs/preprocess.py --config {shlex.quote(file)} --input {paths} --output {data}"
    )
    _say(f"  python jobs/train_dlf.py --data {data} --run-name {run_name}")


def _file(config: DescribeConfig, name: str) -> str:
    """The file of the YAML: --output, or that to which the shell sends stdout."""
    if config.output:
        return _short(config.output)
    try:
        there = os.readlink(f"/proc/self/fd/{sys.stdout.fileno()}")
    except OSError:
        there = ""
    return _short(there) if os.path.isfile(there) else f"{name}.yaml"


def _as_typed(inputs: Sequence[str]) -> str:
    """The inputs for a command line; a glob where they are all that it matches."""
    folder, ending = os.path.split(inputs[0])[0], "".join(Path(inputs[0]).suffixes)
    pattern = f"{glob.escape(folder)}/*{glob.escape(ending)}"
    if len(inputs) > 1 and sorted(glob.glob(pattern)) == sorted(inputs):
        return f"{shlex.quote(_short(folder))}/*{shlex.quote(ending)}"
    return " ".join(shlex.quote(_short(path)) for path in inputs)


def _short(path: str) -> str:
    """A local path as seen from the working directory, where it lies below it."""
    if "://" in path or not os.path.isabs(path):
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    arguments = join_paths(sys.argv[1:])
    run(lambda: call(main, DescribeConfig, __doc__, argv=arguments))
