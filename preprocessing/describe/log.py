"""Describes a log: from a sample to the guesses of which a YAML is drafted."""

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from ctrdist.features.columns import USER, WEIGHT
from ctrdist.schema import LABEL
from preprocessing.config.describe import DescribeConfig
from preprocessing.config.patterns import names_of_range
from preprocessing.describe.draft import Guesses
from preprocessing.describe.facts import Facts, facts_of
from preprocessing.describe.labels import LabelGuess, find_label
from preprocessing.describe.roles import Choice, choose_roles
from preprocessing.describe.splits import choose_split
from preprocessing.describe.table import Sample, read_sample
from preprocessing.sources.shards import NO_VALUE, ByteRange, find_input_files, folder_values

_NEW_NAMES = {"label": "label", "timestamp": "time", "user": "user"}
"""Role → name of its column in a log that names none."""


def describe_log(config: DescribeConfig) -> tuple[Guesses, list[str]]:
    """The guesses about a log, and the inputs to which they apply.

    Raises:
        DataError: files that cannot be read, or that are not one log.
        ConfigError: the label that was asked for cannot be it.
    """
    files = [file for file in find_input_files(config.input) if file.end]
    inputs, notes = list(config.input), []
    sample, facts, label = _examined(files, config)
    lacking = sample.absent.get(label.name, [])
    if lacking:  # for instance the test file of a competition
        shown = ", ".join([*lacking[:3], "…"] if len(lacking) > 3 else lacking)
        notes.append(f"left out, as without the label {label.name}: {shown}")
        files = [file for file in files if file.name not in set(lacking)]
        inputs = [file.url for file in files]
        sample, facts, label = _examined(files, config)
    named = is_named(sample)
    choices = choose_roles(facts, label, sample.absent, is_named=named)
    choices = [c if c.name in sample.columns else _from_partition(c) for c in choices]
    times = [len(facts[c.name].values) for c in choices if c.role == "timestamp"]
    split = choose_split(files, choices, times[0] if times else 0)
    if not named:
        new = {c.name: _NEW_NAMES.get(c.role, c.name) for c in choices}
        facts = {new[name]: replace(f, name=new[name]) for name, f in facts.items()}
        choices = [replace(c, name=new[c.name]) for c in choices]
    guesses = Guesses(
        name=config.name or _name_of(config.input),
        files=len(files),
        sample=sample,
        facts=facts,
        label=label,
        choices=[_writable(c) for c in choices],
        split=split,
        notes=notes,
    )
    return guesses, inputs


def is_named(sample: Sample) -> bool:
    """The log names its columns."""
    return sample.layout.header or sample.layout.type not in ("csv", "tsv")


def _examined(
    files: Sequence[ByteRange], config: DescribeConfig
) -> tuple[Sample, dict[str, Facts], LabelGuess]:
    """A sample of the files, the facts about its columns, and the label."""
    sample = read_sample(files, config.sample_bytes)
    columns = sample.columns | _partition_columns(files, sample.columns)
    facts = {name: facts_of(name, array) for name, array in columns.items()}
    return sample, facts, find_label(facts, config.label, is_named=is_named(sample))


def _partition_columns(
    files: Sequence[ByteRange], columns: Mapping[str, pa.Array]
) -> dict[str, pa.Array]:
    """Columns of NAME=VALUE in the paths of all files that the files themselves lack.

    Each file counts as a row. A value that all files share tells nothing.
    """
    pairs = [folder_values(file) for file in files]
    found = {}
    for name in pairs[0]:
        if name not in columns and all(name in pair for pair in pairs):
            values = [pair[name] for pair in pairs]
            known = [None if value == NO_VALUE else value for value in values]
            if len(set(known)) > 1:
                found[name] = pa.array(known, pa.string())
    return found


def _from_partition(choice: Choice) -> Choice:
    if choice.role == "ignore":
        return replace(choice, written=False)
    return replace(choice, settings=choice.settings | {"source": "partition"})


def _writable(choice: Choice) -> Choice:
    """The choice; without an entry where the YAML cannot name its column."""
    name = choice.name.split("\0")[0]
    if not name:
        reason = "it has no name"
    elif name != choice.name:
        reason = "the header has its name twice"
    elif choice.written and names_of_range(name) != [name]:
        reason = "its name reads as a range"
    elif choice.role not in ("label", "ignore") and name in (LABEL, USER, WEIGHT):
        reason = "a data set has a column of its own with this name"
    else:
        return choice
    return Choice(name or "''", "ignore", reason, written=False)


def _name_of(paths: Sequence[str]) -> str:
    """A name for the data set of a file or a folder, or of several files of one folder."""
    path = paths[0] if len(paths) == 1 else posixpath.dirname(paths[0])
    parts = [part for part in path.split("/") if part and not re.search(r"[*?[]|:$", part)]
    name = re.sub(r"\W+", "_", parts[-1].split(".")[0]) if parts else ""
    return name.strip("_") or "log"
