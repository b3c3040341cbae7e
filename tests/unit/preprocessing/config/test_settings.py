"""A data-set YAML that cannot work is refused with what to change; the presets are read."""

from pathlib import Path

import pytest

from ctrdist.config.parse import parse
from ctrdist.errors import ConfigError
from preprocessing.config.checks import check_config
from preprocessing.config.rows import SampleConfig
from preprocessing.config.settings import (
    ColumnConfig,
    CrossConfig,
    JoinConfig,
    PreprocessConfig,
    SplitConfig,
    join_paths,
)

ROOT = Path(__file__).resolve().parents[4]
LABEL = ColumnConfig(name="label", role="label")
C = ColumnConfig(name="c")


@pytest.mark.parametrize(
    "preset", sorted((ROOT / "jobs/configs/data").glob("*.yaml")), ids=lambda p: p.stem
)
def test_presets_are_read(preset):
    config, _ = parse(PreprocessConfig, ["--config", str(preset)])
    assert config.name == preset.stem


def test_paths_after_one_flag_become_a_list():
    argv = join_paths(["--input", "a.tsv", "b,c.tsv", "--output", "d", "--input=e"])
    assert argv == ["--input", '["a.tsv", "b,c.tsv"]', "--output", "d", "--input", '["e"]']
    config, _ = parse(
        PreprocessConfig, ["--config", str(ROOT / "jobs/configs/data/criteo.yaml"), *argv[:4]]
    )
    assert config.input == [str(Path.cwd() / "a.tsv"), str(Path.cwd() / "b,c.tsv")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": []}, "no columns"),
        ({"columns": [C]}, "none has the role label"),
        ({"columns": [LABEL]}, "no feature"),
        ({"columns": [LABEL, ColumnConfig(name="x", role="numeric")]}, "numeric_as to both"),
        ({"columns": [LABEL, C, C]}, "repeated: c"),
        ({"columns": [ColumnConfig(name="y", role="label"), ColumnConfig(name="label")]},
         "may not be called label"),
        ({"columns": [LABEL, C], "split": SplitConfig(fractions=[0.5, 0.1, 0.1])}, "fractions"),
        ({"columns": [LABEL, C], "split": SplitConfig(key=["c"])}, "split.by to hash"),
        ({"columns": [LABEL, C], "split": SplitConfig(by="hash", key=["d"])}, "label, c"),
        ({"columns": [LABEL, C], "where": [{"column": "c"}]}, "is no condition"),
        ({"columns": [LABEL, C], "where": [{"column": "c", "is": [1]}]}, "is no condition"),
        ({"columns": [LABEL, C], "where": [{"column": "c", "in": 1}]}, "give a list"),
        ({"columns": [LABEL, C], "where": [{"column": "c", "in": [1], "min": 1}]}, "for each"),
        ({"columns": [LABEL, C], "where": [{"column": "c", "min": "a"}]}, "give a number"),
        ({"columns": [LABEL, C], "where": [{"column": "d", "min": 1}]}, "has label, c"),
        ({"columns": [LABEL, C], "sample": SampleConfig(negatives=0)}, "above 0 and at most 1"),
        ({"columns": [LABEL, C, ColumnConfig(name="z", role="label")],
          "sample": SampleConfig(negatives=0.5)}, "the labels label, z"),
        ({"columns": [LABEL, C, *(ColumnConfig(name=n, role="weight") for n in "wv")]},
         "2 with role weight"),
        ({"columns": [ColumnConfig(name="z", role="label"), C, LABEL]}, "may not be called label"),
        ({"columns": [LABEL, C], "min_count": 0}, "min_count"),
        ({"columns": [LABEL, C], "joins": [JoinConfig(file="f", key="k", columns=[C])]}, "key k"),
        ({"columns": [LABEL, C], "joins": [JoinConfig(file="f", key="c", columns=[C, LABEL])]},
         "role label"),
        ({"columns": [LABEL, C, ColumnConfig(name="d")],
          "joins": [JoinConfig(file="f", key="c", columns=[C, ColumnConfig(name="d")])]},
         "repeated: d"),
        ({"columns": [LABEL, ColumnConfig(name="")]}, "takes 0 bytes"),
        ({"columns": [LABEL, ColumnConfig(name="n" * 201)]}, "takes 201 bytes"),
        ({"columns": [LABEL, ColumnConfig(name="/" * 100)]}, "takes 301 bytes"),
        ({"columns": [LABEL, ColumnConfig(name="\ud800")]}, "surrogate"),
        ({"columns": [LABEL, ColumnConfig(name="h", encoding="hash", num_buckets=2**31)]},
         "num_buckets of h is 2,147,483,648"),
        ({"columns": [LABEL, ColumnConfig(name="h", num_buckets=2**31 - 2)]}, "num_buckets of h"),
        ({"columns": [LABEL, C, ColumnConfig(name="d")],
          "crosses": [CrossConfig(name="cd", columns=["c", "d"], num_buckets=2**32)]},
         "num_buckets of cd"),
        ({"columns": [LABEL, ColumnConfig(name="x", role="numeric"), ColumnConfig(name="x_bucket")],
          "numeric_as": "both"}, "repeated: x_bucket"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_config(PreprocessConfig(**settings))


def test_columns_that_are_not_read_may_have_any_name():
    unread = [ColumnConfig(name=name, role="ignore") for name in ("", "n" * 1000)]
    assert PreprocessConfig(columns=[LABEL, C, *unread]).categorical == (C,)


def test_the_manifest_holds_no_place():
    there = PreprocessConfig(columns=[LABEL, C], input=["/a/day_0.tsv"], output="/a/out", workers=3)
    here = PreprocessConfig(
        columns=[LABEL, C], input=["s3://b/day_0.tsv"], output="out", overwrite=True
    )
    assert there.for_manifest() == here.for_manifest()
    assert there.for_manifest()["input"] == ["day_0.tsv"]
