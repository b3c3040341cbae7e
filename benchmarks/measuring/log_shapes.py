"""Made-up logs in the shapes of well-known ones, with what is true of their columns."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq

_START = 1_506_000_000  # a second in September 2017


@dataclass(frozen=True)
class Truth:
    """The guesses that are right for a log."""

    roles: dict[str, str]
    """Column, as the YAML names it → role."""
    split: str
    """The value of split.by."""
    layout: dict[str, Any] = field(default_factory=dict)
    """Settings of the format."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Column → settings that it needs."""
    label: str = ""
    """The label where it can be told by nobody: to be given by --label."""


Shape = Callable[[Path, np.random.Generator, int], Truth]


def _clicks(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    """Users, items and clicks that follow from them; in the order of time."""
    users, items = rng.permutation(200) + 1, rng.permutation(300) + 1
    frame = pd.DataFrame(
        {
            "user": users[rng.zipf(1.3, rows) % 200],
            "item": items[rng.zipf(1.2, rows) % 300],
            "time": np.sort(rng.integers(_START, _START + 9 * 86400, rows)),
        }
    )
    logit = rng.normal(0, 1, 201)[frame.user] + rng.normal(0, 1.5, 301)[frame.item] - 1
    frame["click"] = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    return frame


def _hex(values: Any, salt: int, digits: int = 8) -> list[str]:
    mixed = (np.asarray(values, np.uint64) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    return [f"{int(v) % 16**digits:0{digits}x}" for v in mixed >> np.uint64(8)]


def _counts(rng: np.random.Generator, rows: int, missing: float = 0.3) -> list[str]:
    values = np.floor(rng.lognormal(1.5, 1.8, rows)).astype(int)
    return [
        "" if lost else str(v) for v, lost in zip(values, rng.random(rows) < missing, strict=True)
    ]


def _criteo(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    clicks = _clicks(rng, rows)
    columns = {"label": clicks.click}
    columns |= {f"I{i}": _counts(rng, rows) for i in range(1, 14)}
    for i in range(1, 27):
        values = clicks.item if i % 2 else clicks.user * i % 97
        columns[f"C{i}"] = [
            "" if v % 11 == 5 and i > 3 else h for v, h in zip(values, _hex(values, i), strict=True)
        ]
    return pd.DataFrame(columns)


def criteo(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """Criteo: tab separated, without a header."""
    _criteo(rng, rows).to_csv(folder / "train.txt", sep="\t", header=False, index=False)
    roles = {"label": "label"} | {f"c{i}": "numeric" for i in range(2, 15)}
    return Truth(roles | {f"c{i}": "categorical" for i in range(15, 41)}, "hash", {"type": "tsv"})


def criteo_with_header(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """Criteo as CSV with a header, compressed."""
    _criteo(rng, rows).to_csv(folder / "criteo.csv.gz", index=False)
    roles = {"label": "label"} | {f"I{i}": "numeric" for i in range(1, 14)}
    roles |= {f"C{i}": "categorical" for i in range(1, 27)}
    return Truth(roles, "hash", {"type": "csv", "header": True})


def avazu(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """Avazu: ids of rows, the hour as 14102100, hashed texts and integers that are categories."""
    clicks = _clicks(rng, rows)
    hours = pd.to_datetime(clicks.time - _START + 1_413_849_600, unit="s").dt.strftime("%y%m%d%H")
    frame = pd.DataFrame(
        {
            "id": [str(v) for v in rng.integers(10**18, 9 * 10**18, rows)],
            "click": clicks.click,
            "hour": hours,
            "C1": rng.choice([1005, 1002, 1010, 1012], rows),
            "banner_pos": rng.choice([0, 1, 2, 7], rows),
            "site_id": _hex(clicks.item, 1),
            "site_category": _hex(clicks.item % 9, 2),
            "app_id": _hex(clicks.item % 31, 3),
            "device_id": _hex(clicks.user, 4),
            "device_ip": _hex(clicks.user * 7 + clicks.item, 5),
            "device_type": rng.choice([0, 1, 4], rows),
            "C14": 15700 + clicks.item * 3,
            "C15": rng.choice([320, 300, 216], rows),
            "C20": rng.choice([-1, 100084, 100148, 100111], rows),
            "C21": rng.choice([79, 23, 157, 33], rows),
        }
    )
    frame.to_csv(folder / "train.csv", index=False)
    roles = dict.fromkeys(frame.columns, "categorical")
    roles |= {"id": "ignore", "click": "label", "hour": "timestamp"}
    return Truth(roles, "time", {"type": "csv", "header": True}, {"hour": {"format": "%y%m%d%H"}})


def taobao(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """Taobao's user behaviour: no header, one kind of behaviour per row."""
    clicks = _clicks(rng, rows)
    others = rng.choice(["pv", "cart", "fav"], rows, p=[0.9, 0.07, 0.03])
    frame = pd.DataFrame(
        {
            "user": clicks.user,
            "item": clicks.item * 1713,
            "category": clicks.item % 40 * 1009 + 17,
            "behaviour": np.where(clicks.click == 1, "buy", others),
            "time": clicks.time,
        }
    ).sort_values(["user", "time"])
    frame.to_csv(folder / "UserBehavior.csv", index=False, header=False)
    roles = {"user": "user", "c2": "categorical", "c3": "categorical"}
    roles |= {"label": "label", "time": "timestamp"}
    return Truth(roles, "time", {"type": "csv"}, {"label": {"positive": ["buy"]}})


def movielens(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """MovieLens: `::` between values, ratings."""
    clicks = _clicks(rng, rows)
    ratings = np.where(clicks.click == 1, rng.choice([4, 5], rows), rng.choice([1, 2, 3], rows))
    lines = [
        f"{u}::{i}::{r}::{t}"
        for u, i, r, t in zip(clicks.user, clicks.item, ratings, clicks.time, strict=True)
    ]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
    roles = {"user": "user", "c2": "categorical", "label": "label", "time": "timestamp"}
    return Truth(roles, "time", {"type": "csv", "separator": "::"}, {"label": {"threshold": 4}})


def kkbox(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """KKBox: hashed users and songs, genres with `|`, numbers as 52.0; no label in test."""
    clicks = _clicks(rng, rows)
    genres = np.array(["465", "458", "921", "465|2122", "1609|465", "458|1152|2122", ""])
    frame = pd.DataFrame(
        {
            "msno": [f"{h}Q=" for h in _hex(clicks.user, 1, 14)],
            "song_id": [f"{h}w=" for h in _hex(clicks.item, 2, 14)],
            "source_system_tab": rng.choice(["my library", "discover", "search", None], rows),
            "source_type": rng.choice(["local-library", "online-playlist", "radio"], rows),
            "song_length": rng.normal(240_000, 40_000, rows).astype(int),
            "genre_ids": genres[clicks.item % len(genres)],
            "language": rng.choice(["52.0", "3.0", "31.0", "-1.0", "17.0"], rows),
            "target": clicks.click,
        }
    )
    frame.to_csv(folder / "train.csv", index=False)
    frame[:200].drop(columns="target").to_csv(folder / "test.csv", index=False)
    roles = dict.fromkeys(frame.columns, "categorical")
    roles |= {"msno": "user", "song_length": "numeric", "genre_ids": "multi_valued"}
    return Truth(roles | {"target": "label"}, "hash", {"type": "csv", "header": True})


def json_lines(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """JSON lines with nested, absent and null members, lists, and times with zones."""
    clicks = _clicks(rng, rows)
    times = pd.to_datetime(clicks.time, unit="s").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    with open(folder / "events.jsonl", "w", encoding="utf-8") as file:
        for row, time in zip(clicks.itertuples(), times, strict=True):
            event = {
                "event_time": time,
                "user_id": f"u{row.user}",
                "clicked": bool(row.click),
                "item": {"id": int(row.item), "brand": "b"},
                "campaign": int(row.item % 50),
                "price": round(float(rng.lognormal(3, 1)), 2),
                "tags": [f"t{row.item % k}" for k in (5, 7) if row.item % (k + 1)],
                "country": None if row.user % 9 == 0 else "dé"[: row.user % 3],
            }
            if row.item % 5:
                event["coupon"] = f"c{row.item % 4}"
            file.write(json.dumps(event, ensure_ascii=bool(row.item % 2)) + "\n")
    roles = {
        "event_time": "timestamp", "user_id": "user", "clicked": "label", "campaign": "categorical",
        "price": "numeric", "tags": "multi_valued", "country": "categorical",
        "coupon": "categorical",
    }  # fmt: skip
    return Truth(roles, "time", {"type": "jsonl"}, {"event_time": {"format": "iso8601"}})


def _typed(rng: np.random.Generator, rows: int) -> pa.Table:
    clicks = _clicks(rng, rows)
    users = clicks.user.astype(float).where(clicks.user % 13 != 0)  # as pandas has missing ids
    return pa.table(
        {
            "uuid": [f"{h}-{i}" for i, h in enumerate(_hex(clicks.user, 9, 12))],
            "user_id": pa.array(users, from_pandas=True),
            "item_id": pa.array(clicks.item, pa.int32()),
            "cats": [[f"k{i % 7}", f"k{i % 5}"][: i % 3] for i in clicks.item],
            "created_at": pa.array(clicks.time * 1_000_000, pa.timestamp("us")),
            "amount": rng.lognormal(2, 1, rows).astype(np.float32),
            "is_member": rng.random(rows) < 0.4,
            "is_click": pa.array(clicks.click, pa.int8()),
        }
    )


_TYPED_ROLES = {
    "uuid": "ignore", "user_id": "user", "item_id": "categorical", "cats": "multi_valued",
    "created_at": "timestamp", "amount": "numeric", "is_member": "categorical",
    "is_click": "label",
}  # fmt: skip


def parquet(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """Parquet with a time, lists, ids that are floats, and a struct that nobody needs."""
    table = _typed(rng, rows)
    nested = pa.array([{"a": 1}] * rows)
    pq.write_table(table.append_column("raw", nested), folder / "log.parquet", row_group_size=700)
    return Truth(_TYPED_ROLES, "time", {"type": "parquet"})


def orc_file(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """ORC with the same columns."""
    orc.write_table(_typed(rng, rows), folder / "log.orc")
    return Truth(_TYPED_ROLES, "time", {"type": "orc"})


def spark(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """A folder as Spark writes it: compressed parts with a header each, one of them empty."""
    clicks = _clicks(rng, rows)
    frame = clicks.assign(slot=clicks.item % 3, spend=rng.lognormal(0, 1, rows).round(3))
    frame = frame.rename(columns={"time": "ts", "user": "uid"})[
        ["uid", "item", "ts", "slot", "spend", "click"]
    ]
    out = folder / "out"
    out.mkdir()
    for part in range(4):
        frame[part::4].to_csv(out / f"part-0000{part}-ab12.csv.gz", index=False)
    (out / "part-00004-ab12.csv.gz").write_bytes(gzip.compress(b""))
    (out / "_SUCCESS").touch()
    (out / ".part-00000-ab12.csv.gz.crc").write_bytes(b"crc\0")
    roles = {
        "uid": "user", "item": "categorical", "ts": "timestamp", "slot": "categorical",
        "spend": "numeric", "click": "label",
    }  # fmt: skip
    return Truth(roles, "time", {"type": "csv", "header": True})


def hive(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """Hive partitions by day."""
    clicks = _clicks(rng, rows)
    for day in range(9):
        part = clicks[(clicks.time - _START) // 86400 == day]
        there = folder / f"day=2017-09-{21 + day}"
        there.mkdir()
        table = pa.Table.from_pandas(part[["user", "item", "click"]], preserve_index=False)
        pq.write_table(table, there / "part-0.parquet")
    roles = {"user": "user", "item": "categorical", "click": "label", "day": "timestamp"}
    settings = {"day": {"source": "partition", "format": "iso8601"}}
    return Truth(roles, "position", {"type": "parquet"}, settings)


def german(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """A spreadsheet's CSV: semicolons, Latin-1, CRLF, quoted separators, dates as 24.12.2017."""
    clicks = _clicks(rng, rows)
    frame = pd.DataFrame(
        {
            "Datum": pd.to_datetime(clicks.time, unit="s").dt.strftime("%d.%m.%Y %H:%M"),
            "Kunde": clicks.user,
            "Marke": [f"Müller; Söhne {i % 6}" if i % 2 else f"Weiß {i % 5}" for i in clicks.item],
            "Artikel": [f"A{i:05d}" for i in clicks.item],
            "Menge": np.floor(rng.lognormal(1, 1.5, rows)).astype(int),
            "click": np.where(clicks.click == 1, "yes", "no"),
        }
    )
    frame.to_csv(
        folder / "klicks.csv", sep=";", index=False, encoding="latin-1", lineterminator="\r\n"
    )
    roles = {
        "Datum": "timestamp", "Kunde": "categorical", "Marke": "categorical",
        "Artikel": "categorical", "Menge": "numeric", "click": "label",
    }  # fmt: skip
    layout = {"type": "csv", "separator": ";", "header": True}
    settings = {"Datum": {"format": "%d.%m.%Y %H:%M"}, "click": {"positive": ["yes"]}}
    return Truth(roles, "time", layout, settings)


def warehouse(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    r"""A warehouse's TSV: a byte order mark, a header, \N for missing, lists as texts, splits."""
    clicks = _clicks(rng, rows)
    frame = pd.DataFrame(
        {
            "is_click": clicks.click,
            "is_order": clicks.click * rng.integers(0, 2, rows),
            "member_id": clicks.user,
            "sku": _hex(clicks.item, 1, 6),
            "history": [json.dumps([int(i) % 50, int(i) % 7][: i % 3]) for i in clicks.item],
            "num_visits": [v or "\\N" for v in _counts(rng, rows)],
            "const": "x",
        }
    )
    for name, part in (("train", frame[: rows // 2]), ("val", frame[rows // 2 : -rows // 4]),
                       ("test", frame[-rows // 4 :])):  # fmt: skip
        part.to_csv(folder / f"{name}.tsv", sep="\t", index=False, encoding="utf-8-sig", quoting=3)
    roles = {
        "is_click": "label", "is_order": "label", "member_id": "user", "sku": "categorical",
        "history": "multi_valued", "num_visits": "numeric", "const": "ignore",
    }  # fmt: skip
    return Truth(roles, "file", {"type": "tsv", "header": True}, {"history": {"text": "json"}})


def unknown_label(folder: Path, rng: np.random.Generator, rows: int) -> Truth:
    """Two columns of 0 and 1 whose names do not tell which is the label."""
    clicks = _clicks(rng, rows)
    frame = pd.DataFrame(
        {
            "shop": clicks.item,
            "premium": rng.integers(0, 2, rows),
            "done": clicks.click,
            "channel": rng.choice(["mail", "web"], rows),
        }
    )
    frame.to_csv(folder / "log.csv", index=False)
    roles = {"shop": "categorical", "premium": "categorical", "channel": "categorical"}
    layout = {"type": "csv", "header": True}
    return Truth(roles | {"done": "label"}, "hash", layout, label="done")


SHAPES: dict[str, Shape] = {
    shape.__name__: shape
    for shape in (
        criteo, criteo_with_header, avazu, taobao, movielens, kkbox, json_lines, parquet, orc_file,
        spark, hive, german, warehouse, unknown_label,
    )
}  # fmt: skip


def make(name: str, folder: Path, rows: int = 3000, seed: int = 1) -> Truth:
    """Writes the log of a shape into an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return SHAPES[name](folder, np.random.default_rng(seed), rows)
