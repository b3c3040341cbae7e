"""Checks of the settings of a data set."""

from collections import Counter
from datetime import UTC, datetime

from ctrdist.errors import ConfigError
from ctrdist.features.columns import FEATURE_ROLES, USER, WEIGHT, bucket_name, is_iso8601
from ctrdist.schema import FIRST_VALUE_ID, LABEL, file_stem
from preprocessing.config.rows import conditions
from preprocessing.config.settings import INPUT_FORMATS, PreprocessConfig

JOINED_ROLES = ("numeric", "categorical", "multi_valued", "ignore")
MOST_NAME_BYTES = 200
"""File systems allow 255 bytes, some of which are the suffix and those of files being written."""
MOST_BUCKETS = 2**31 - 1 - FIRST_VALUE_ID
"""Ids are int32."""
_LEAST = {"num_buckets": 1, "max_size": 1, "min_count": 1, "max_length": 1, "num_quantiles": 2}
"""Numbers of a column → the least that each may be."""


def check_config(config: PreprocessConfig) -> None:
    """Refuses settings that cannot work; raises ConfigError."""
    _check_joins(config)
    _check_format(config)
    _check_columns(config)
    _check_values(config)
    _check_split(config)
    _check_rows(config)
    _check_encodings(config)
    for name in ("min_count", "row_group_size", "shard_bytes"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be at least 1.")
    if config.workers < 0:
        raise ConfigError(
            f"workers is {config.workers}; give 0 for one per CPU, or a positive number."
        )


def _check_format(config: PreprocessConfig) -> None:
    for layout in (config.format, *(join.format for join in config.joins if join.format)):
        given = [name for name in ("escape", "skip_blank") if getattr(layout, name)]
        if given and not INPUT_FORMATS[layout.type].separator:
            raise ConfigError(
                f"format.{given[0]} is given, and format.type is {layout.type}: it is for text "
                "with separators. Remove it."
            )


def _check_columns(config: PreprocessConfig) -> None:
    if not config.columns:
        raise ConfigError(
            "no columns: give --config a data-set YAML, such as jobs/configs/data/criteo.yaml. "
            "`python jobs/describe.py --input LOG > clicks.yaml` drafts one from the log."
        )
    if not config.of_role("label"):
        raise ConfigError(
            "columns: none has the role label. Write `role: label` at the column that says whether "
            "the row is a click (jobs/describe.py names those that may be it)."
        )
    for kind in ("user", "timestamp", "weight"):
        given = [c.name for c in config.columns if c.role == kind]
        if len(given) > 1:
            raise ConfigError(
                f"columns: {len(given)} with role {kind} ({', '.join(given)}); "
                "a data set has at most one."
            )
    if not config.of_role(*FEATURE_ROLES):
        raise ConfigError(
            "columns: no feature; one at least must be numeric, categorical, multi_valued or user."
        )
    if not (config.categorical or config.derived):
        raise ConfigError(
            "columns: all features are numbers, and a model needs at least one categorical field. "
            "Set numeric_as to both, of the data set or of one column: then the number is also "
            "there as a category, in buckets."
        )
    crosses = [c.name for c in config.crosses]
    names = Counter(c.name for c in (*config.columns, *config.joined))
    bucketed = [c for c in config.of_role("numeric") if config.numeric_of(c) != "number"]
    names.update([*config.derived, *crosses, *(bucket_name(c.name) for c in bucketed)])
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise ConfigError(f"columns: each name may occur once, repeated: {', '.join(repeated)}.")
    columns = *config.numeric, *config.categorical, *config.of_role("timestamp")
    columns = *columns, *config.of_role("label")[1:]
    written = [*(c.name for c in columns), *crosses]
    for name in written:
        _check_name(name)
    reserved = [name for name in (LABEL, USER, WEIGHT) if name in written]
    if reserved:
        raise ConfigError(
            f"columns: a field or a further label may not be called {reserved[0]}: "
            "the output has a column of that name."
        )


def _check_name(name: str) -> None:
    """Any text may name a column that can be stored, and whose files can have its name."""
    try:
        size = len(file_stem(name).encode()) if name else 0
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"columns: the name {name!r} has half of a surrogate pair. Correct it in the YAML."
        ) from error
    if not 0 < size <= MOST_NAME_BYTES:
        raise ConfigError(
            f"columns: the name {name[:50]!r} takes {size} bytes in a file's name; give one of 1 "
            f"to {MOST_NAME_BYTES}."
        )


def _check_joins(config: PreprocessConfig) -> None:
    for join in config.joins:
        names = [c.name for c in config.columns], [c.name for c in join.columns]
        if not all(join.key in one for one in names):
            raise ConfigError(
                f"joins: the key {join.key} must be a column of the log and of {join.file}."
            )
        if any(column.source == "partition" for column in join.columns):
            raise ConfigError(
                f"joins: a column of {join.file} has `source: partition`, which is for columns of "
                "the log. Remove it."
            )
        wrong = [c for c in join.columns if c.role not in JOINED_ROLES and c.name != join.key]
        if wrong:
            raise ConfigError(
                f"joins: column {wrong[0].name} of {join.file} has role {wrong[0].role}; "
                f"a joined column is one of {', '.join(JOINED_ROLES)}."
            )


def _check_values(config: PreprocessConfig) -> None:
    """Settings of how a value is read belong to one role each."""
    for column in (*config.columns, *(c for join in config.joins for c in join.columns)):
        of_role = {
            "positive": ("label", bool(column.positive)),
            "format": ("timestamp", column.format is not None),
            "text": ("multi_valued", column.text != "separated"),
        }
        for name, (role, given) in of_role.items():
            if given and column.role != role:
                raise ConfigError(
                    f"columns: {column.name} has `{name}`, which is for the role {role}, and its "
                    f"role is {column.role}. Correct one of them."
                )
        if column.positive and column.threshold is not None:
            raise ConfigError(
                f"columns: {column.name} has both `positive` and `threshold`; give one of them."
            )
        if column.format is not None:
            _check_time_format(column.name, column.format)


def _check_time_format(name: str, form: str) -> None:
    if is_iso8601(form):
        return
    try:
        if "%" not in form:
            raise ValueError("it has no directive such as %Y")
        datetime.strptime(datetime(2001, 2, 3, tzinfo=UTC).strftime(form), form)
    except ValueError as error:
        raise ConfigError(
            f"columns: the format of {name} is {form!r}, which cannot be read ({error}). Give "
            "iso8601, or a format of Python's strptime such as %Y-%m-%d %H:%M:%S."
        ) from error


def _check_encodings(config: PreprocessConfig) -> None:
    for column in config.all_columns:
        if column.encoding == "hash" and column.num_buckets is None:
            raise ConfigError(
                f"columns: {column.name} has `encoding: hash` and no num_buckets; "
                "say into how many ids it is hashed."
            )
        for name, least in _LEAST.items():
            _check_number("columns", column.name, name, getattr(column, name), least)
    crossable = [c.name for c in config.of_role("categorical", "user")]
    for cross in config.crosses:
        wrong = [name for name in cross.columns if name not in crossable]
        if wrong or len(set(cross.columns)) < 2:
            raise ConfigError(
                f"crosses: {cross.name} is made of {', '.join(cross.columns) or 'nothing'}; "
                "give two or more different categorical or user columns "
                f"({', '.join(crossable)})."
            )
        _check_number("crosses", cross.name, "num_buckets", cross.num_buckets, 1)
    if not 0 <= config.bad_rows.limit <= 1:
        raise ConfigError(
            f"bad_rows.limit is {config.bad_rows.limit}; give a share between 0 and 1."
        )


def _check_number(kind: str, of: str, name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ConfigError(f"{kind}: {name} of {of} is {value}; it must be at least {least}.")
    if value is not None and name == "num_buckets" and value > MOST_BUCKETS:
        raise ConfigError(
            f"{kind}: {name} of {of} is {value:,}; ids are 32-bit integers, so give at most "
            f"{MOST_BUCKETS:,}."
        )


def _check_rows(config: PreprocessConfig) -> None:
    """Checks which rows are taken."""
    names = [column.name for column in config.columns]
    names += [column.name for join in config.joins for column in join.columns]
    for condition in conditions(config.where):
        if condition.column not in names:
            raise ConfigError(
                f"where: there is no column {condition.column}; `columns` has {', '.join(names)}. "
                "A column that is no feature may have the role ignore."
            )
    sample, labels = config.sample, [column.name for column in config.of_role("label")]
    if not 0 < sample.negatives <= 1 or not sample.splits:
        raise ConfigError(
            f"sample: negatives is {sample.negatives} and splits is {sample.splits}; give a share "
            "above 0 and at most 1, and at least one split."
        )
    if sample.draws and len(labels) > 1:
        raise ConfigError(
            f"sample: the labels {', '.join(labels)} have different rows with label 0, so no "
            "correction of probabilities would be exact for all. Give one of them the role label, "
            "and ignore the others."
        )


def _check_split(config: PreprocessConfig) -> None:
    split = config.split
    if split.by == "time":
        if not config.of_role("timestamp"):
            raise ConfigError("split.by is time; one column must have the role timestamp.")
        if split.times and (len(split.times) != 2 or split.times[0] > split.times[1]):
            raise ConfigError(
                f"split.times is {split.times}; give the first second of valid and then that "
                "of test, or nothing."
            )
    for name, user in (("times", "time"), ("valid", "file"), ("test", "file")):
        if getattr(split, name) and split.by != user:
            raise ConfigError(
                f"split.{name} is given, and split.by is {split.by}, which does not use it; "
                f"set split.by to {user}, or remove it."
            )
    if split.key and split.by != "hash":
        raise ConfigError(
            f"split.key is given, and split.by is {split.by}, which does not use it; set split.by "
            "to hash, or remove it."
        )
    names = [column.name for column in config.columns]
    lacking = [name for name in split.key if name not in names]
    if lacking:
        raise ConfigError(
            f"split.key names {', '.join(lacking)}; it may name these of `columns`: "
            f"{', '.join(names)}. A column that is no feature may have the role ignore."
        )
    fractions, total = split.fractions, sum(split.fractions)
    if len(fractions) != 3 or min(fractions) < 0 or abs(total - 1) > 1e-6 or not fractions[0]:
        raise ConfigError(
            f"split.fractions is {fractions}; give three parts, of train, valid and test, "
            "none negative, train above 0, with the sum 1."
        )
