"""The Criteo preset's work in pandas, as FuxiCTR does it.

Its feature processor reads every column as text, counts a column's values in a Python Counter, cuts
and sorts them, and maps each value through a dictionary. The rest is as this preset has it: splits
by position, logarithms standardised by the training rows, Parquet.

python benchmarks/rivals/pandas_log.py --input day_*.tsv --output DIR

Needs `pip install pandas pyarrow`; nothing of this repository. The last line on stdout is JSON.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

INTEGERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
FRACTIONS = (0.75, 0.05)
MIN_COUNT = 4
UNKNOWN, FIRST = 1, 2
"""Ids of an unknown value and of the most frequent one."""


class Tokenizer:
    """A column's vocabulary."""

    def __init__(self, texts: pd.Series) -> None:
        counts = Counter(list(texts))
        kept = [(text, count) for text, count in counts.items() if count >= MIN_COUNT]
        self.kept = sorted(kept, key=lambda pair: (-pair[1], pair[0]))
        self.ids = {text: FIRST + place for place, (text, _) in enumerate(self.kept)}

    def encode(self, texts: pd.Series) -> np.ndarray:
        """Ids of texts."""
        return texts.map(lambda text: self.ids.get(text, UNKNOWN)).to_numpy(np.int32)

    def table(self) -> pd.DataFrame:
        """Value, id and count."""
        found = pd.DataFrame(self.kept, columns=["value", "count"])
        found.insert(1, "id", np.arange(FIRST, FIRST + len(found), dtype=np.int32))
        return found


def standardised(texts: pd.Series, train: int) -> np.ndarray:
    values = pd.to_numeric(texts.replace("", None)).to_numpy(np.float64, na_value=np.nan)
    logarithms = np.sign(values) * np.log1p(np.abs(values))
    seen = logarithms[:train]
    scaled = (logarithms - np.nanmean(seen)) / np.nanstd(seen)
    return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    (options.output / "vocabulary").mkdir(parents=True)
    begun = last = time.perf_counter()
    parts: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        parts[name], last = round(now - last, 3), now

    names = ["label", *INTEGERS, *CATEGORIES]
    layout = {"sep": "\t", "header": None, "names": names, "dtype": str, "quoting": 3}
    frames = [pd.read_csv(file, keep_default_na=False, **layout) for file in options.input]
    frame = pd.concat(frames, ignore_index=True)
    rows = len(frame)
    edges = [0, round(rows * FRACTIONS[0]), round(rows * sum(FRACTIONS)), rows]
    lap("parse")
    columns = {"label": frame["label"].astype(np.float32)}
    for name in INTEGERS:
        columns[name] = standardised(frame[name], edges[1])
    lap("numbers")
    for name in CATEGORIES:
        tokenizer = Tokenizer(frame[name].iloc[: edges[1]])
        columns[name] = tokenizer.encode(frame[name])
        path = options.output / f"vocabulary/{name}.parquet"
        tokenizer.table().to_parquet(path, compression="zstd")
    lap("categories")
    encoded = pd.DataFrame(columns)
    for split, low, high in zip(("train", "valid", "test"), edges, edges[1:], strict=False):
        encoded.iloc[low:high].to_parquet(
            options.output / f"{split}.parquet",
            compression="zstd",
            index=False,
            row_group_size=65536,
        )
    lap("write")
    seconds = time.perf_counter() - begun
    print(json.dumps({"rows": rows, "seconds": round(seconds, 3), "parts": parts}))


if __name__ == "__main__":
    main()
