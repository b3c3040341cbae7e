"""Ranges and globs stand for columns, and roles have defaults."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ctrdist.config.parse import parse
from ctrdist.errors import ConfigError
from preprocessing.config.settings import ColumnConfig, FormatConfig, PreprocessConfig
from preprocessing.pipeline import check

CRITEO = str(Path(__file__).resolve().parents[4] / "jobs/configs/data/criteo.yaml")


def read(tmp_path: Path, text: str, *options: str) -> PreprocessConfig:
    (tmp_path / "data.yaml").write_text(text)
    return parse(PreprocessConfig, ["--config", str(tmp_path / "data.yaml"), *options])[0]


def names(config: PreprocessConfig) -> list[str]:
    return [column.name for column in config.columns]


def test_criteo_yaml_means_its_forty_columns():
    short, _ = parse(PreprocessConfig, ["--config", CRITEO])
    columns = [{"name": "label", "role": "label"}]
    columns += [{"name": f"I{i}", "role": "numeric", "type": "integer"} for i in range(1, 14)]
    columns += [{"name": f"C{i}", "role": "categorical"} for i in range(1, 27)]
    argv = ["--config", CRITEO, "--columns", json.dumps(columns)]
    assert short == parse(PreprocessConfig, argv)[0]
    assert "defaults" not in short.for_manifest()


def test_a_range_keeps_the_zeros_of_its_first_number(tmp_path):
    text = "columns: [{name: y, role: label}, {name: d_08..d_10}, {name: a9..11, role: numeric}]"
    config = read(tmp_path, text)
    assert names(config) == ["y", "d_08", "d_09", "d_10", "a9", "a10", "a11"]
    assert config.columns[-1].role == "numeric"


def test_what_a_column_says_goes_before_the_defaults_of_its_role(tmp_path):
    text = """
defaults: {categorical: {min_count: 10, missing: unknown}, numeric: {type: integer}}
columns:
  - {name: y, role: label}
  - {name: a}
  - {name: b, min_count: 3, missing: token}
  - {name: x, role: numeric, type: number}
  - {name: z, role: numeric}
joins: [{file: f, key: a, columns: [{name: a, role: ignore}, {name: c1..c2}]}]
"""
    config = read(tmp_path, text)
    by_name = {column.name: column for column in config.all_columns}
    assert (by_name["a"].min_count, by_name["a"].missing) == (10, "unknown")
    assert (by_name["b"].min_count, by_name["b"].missing) == (3, "token")
    assert [by_name[n].type for n in "xz"] == ["number", "integer"]
    assert [by_name[n].min_count for n in ("c1", "c2")] == [10, 10]
    over = read(tmp_path, text, "--defaults", "{categorical: {min_count: 4}}")
    assert over.columns[1].min_count == 4 and over.columns[1].missing == "unknown"


def test_the_printed_config_is_the_same_config(tmp_path, capsys):
    text = (
        "{defaults: {numeric: {type: integer}}, "
        "columns: [{name: y, role: label}, {name: I1..I3, role: numeric}]}"
    )
    with pytest.raises(SystemExit):
        read(tmp_path, text, "--print_config")
    printed = capsys.readouterr().out
    assert len(yaml.safe_load(printed)["columns"]) == 4
    assert read(tmp_path, printed) == read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: [{name: C3..C1}]", "C3..C1 is a range of 0 columns"),
        ("columns: [{name: C1..C9000000}]", "a range of 9,000,000 columns"),
        ("columns: [{name: C1..D3}]", "two different names"),
        ("columns: [{name: a}]\ndefaults: {category: {min_count: 1}}", "category is no role"),
        ("columns: [{name: a}]\ndefaults: {numeric: {name: b}}", "other than name and role"),
        ("columns: [{name: a}]\ndefaults: {numeric: {tipe: integer}}",
         "defaults.numeric: unknown key 'tipe'; the nearest is 'type'"),
        ("columns: [{name: a}]\ndefaults: {categorical: {min_count: few}}",
         "defaults.categorical: min_count: got 'few'"),
        ("columns: [{name: C1..C3, rolle: numeric}]", r"unknown key 'columns\[0\].rolle'"),
        ("columns: [{role: label}]", "name"),
    ],
)  # fmt: skip
def test_what_stands_for_no_columns_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def columns(*given: str) -> list[ColumnConfig]:
    return [ColumnConfig(name="y", role="label"), *(ColumnConfig(name=name) for name in given)]


def checked(tmp_path: Path, file: str, *given: str, header: bool = False) -> PreprocessConfig:
    kind = file.rpartition(".")[2]
    layout = FormatConfig(type=kind, header=header)  # type: ignore[arg-type]
    log, output = str(tmp_path / file), str(tmp_path / "out")
    return check(
        PreprocessConfig(input=[log], output=output, format=layout, columns=columns(*given))
    ).config


@pytest.fixture(params=["csv", "parquet"])
def log(request, tmp_path) -> str:
    header = ["C1", "y", "site", "C[2]", "C3", "C*b"]
    if request.param == "csv":
        (tmp_path / "log.csv").write_text("\ufeff" + ",".join(header) + "\n1,1,a,2,3,4\n")
    else:
        pq.write_table(pa.table({name: ["1"] for name in header}), tmp_path / "log.parquet")
    return f"log.{request.param}"


def test_a_glob_is_every_column_that_has_no_entry_of_its_own(tmp_path, log):
    assert names(checked(tmp_path, log, "C*", "site", "C3", header=True)) == [
        "y", "C1", "C[2]", "C*b", "site", "C3",
    ]  # fmt: skip
    assert names(checked(tmp_path, log, "C*b", "*te", header=True)) == ["y", "C*b", "site"]
    assert names(checked(tmp_path, log, "*", header=True))[1:] == [
        "C1", "site", "C[2]", "C3", "C*b",
    ]  # fmt: skip


def test_a_glob_of_nothing_or_twice_is_refused(tmp_path, log):
    with pytest.raises(ConfigError, match=r"D\* matches no column of .*log.* \(it has C1, y"):
        checked(tmp_path, log, "D*", header=True)
    with pytest.raises(ConfigError, match=r"C\* and \*3 both match the column C3"):
        checked(tmp_path, log, "C*", "*3", header=True)


def test_a_glob_needs_names(tmp_path):
    (tmp_path / "log.csv").write_text("1,2\n")
    (tmp_path / "log.jsonl").write_text("{}\n")
    for file in ("log.csv", "log.jsonl"):
        with pytest.raises(ConfigError, match="does not begin with names"):
            checked(tmp_path, file, "C*")
