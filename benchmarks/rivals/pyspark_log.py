"""The Criteo preset's work in PySpark, on as many threads of one machine as it is given.

The log is parsed once and kept in Spark's columnar cache. One job counts all 26 columns, one
learns the moments; ids come from broadcast tables (StringIndexerModel), so nothing is joined. The
rows of a task stay in order, but Spark packs tasks by size, so files are in no order.

python benchmarks/rivals/pyspark_log.py --threads 2 --input day_*.tsv --output DIR

Needs `pip install pyspark pyarrow` and Java 17; nothing of this repository. The last line on stdout
is JSON.
"""

import argparse
import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml.feature import StringIndexerModel
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

INTEGERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
FRACTIONS = (0.75, 0.05)
MIN_COUNT = 4
UNKNOWN, FIRST = 1, 2
"""Ids of an unknown value and of the most frequent one."""


def session(threads: int, memory: str, folder: Path) -> SparkSession:
    settings = {
        "spark.driver.memory": memory,
        "spark.driver.maxResultSize": "2g",
        "spark.sql.shuffle.partitions": str(2 * threads),
        "spark.sql.adaptive.enabled": "true",
        "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.sql.files.maxPartitionBytes": "128m",
        "spark.sql.maxConcurrentOutputFileWriters": "3",  # of the splits: no sort before writing
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.local.dir": str(folder),
    }
    builder = SparkSession.builder.master(f"local[{threads}]").appName("preprocess")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def logarithm(name: str) -> Column:
    return F.signum(name) * F.log1p(F.abs(F.col(name)))


def placed(log: DataFrame) -> tuple[DataFrame, int]:
    """The log with `row`, each row's place in it, and the number of rows.

    The place is the row's number within its block of a file and the block's first place; a block
    lies in one task, whose rows have consecutive numbers.
    """
    blocks = log.groupBy("file", "start").agg(F.min("number").alias("low"), F.count("*").alias("n"))
    found = sorted(blocks.collect(), key=lambda b: (b["file"], b["start"]))
    shift, rows = [], 0
    for block in found:
        shift.append((block["file"], block["start"], rows - block["low"]))
        rows += block["n"]
    table = log.sparkSession.createDataFrame(shift, "file string, start long, shift long")
    joined = log.join(F.broadcast(table), ["file", "start"])
    return joined.withColumn("row", F.col("number") + F.col("shift")), rows


def counted(train: DataFrame) -> dict[str, list[tuple[str, int]]]:
    """Frequent values of each column by falling count, ties by value, of one pass."""
    pairs = [F.struct(F.lit(i).alias("c"), F.col(n).alias("v")) for i, n in enumerate(CATEGORIES)]
    counts = train.select(F.explode(F.array(*pairs)).alias("p")).groupBy("p.c", "p.v").count()
    order = Window.partitionBy("c").orderBy(F.desc("count"), "v")
    kept = counts.where(F.col("count") >= MIN_COUNT).withColumn("id", F.row_number().over(order))
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in CATEGORIES}
    for row in kept.orderBy("c", "id").select("c", "v", "count").collect():
        found[CATEGORIES[row["c"]]].append((row["v"], row["count"]))
    return found


def standardised(train: DataFrame) -> list[Column]:
    means = [F.avg(logarithm(n)).alias(f"{n}_mean") for n in INTEGERS]
    row = train.select(
        *means, *(F.stddev_pop(logarithm(n)).alias(f"{n}_std") for n in INTEGERS)
    ).first()
    return [
        F.coalesce((logarithm(n) - row[f"{n}_mean"]) / row[f"{n}_std"], F.lit(0.0))
        .cast("float")
        .alias(n)
        for n in INTEGERS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="8g")
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True)
    spark = session(options.threads, options.memory, options.output / "scratch")
    begun = last = time.perf_counter()
    parts: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        parts[name], last = round(now - last, 3), now

    columns = ["label tinyint", *(f"{n} bigint" for n in INTEGERS)]
    schema = ", ".join([*columns, *(f"{n} string" for n in CATEGORIES)])
    log = spark.read.csv(
        options.input, schema=schema, sep="\t", quote="", nullValue="", mode="FAILFAST"
    )
    log = log.select(
        *log.columns,
        F.col("_metadata.file_path").alias("file"),
        F.col("_metadata.file_block_start").alias("start"),
        F.monotonically_increasing_id().alias("number"),
    )
    log = log.fillna("", CATEGORIES).persist()
    log, rows = placed(log)
    lap("parse")
    edges = [round(rows * FRACTIONS[0]), round(rows * sum(FRACTIONS))]
    train = log.where(F.col("row") < edges[0])
    vocabularies = counted(train)
    lap("count")
    numbers = standardised(train)
    lap("moments")
    (options.output / "vocabulary").mkdir()
    for name, found in vocabularies.items():
        ids = range(FIRST, FIRST + len(found))
        values, counts = zip(*found, strict=True) if found else ((), ())
        table = pa.table({"value": values, "id": ids, "count": counts})
        pq.write_table(table, options.output / f"vocabulary/{name}.parquet")
    lap("vocabulary files")
    indexer = StringIndexerModel.from_arrays_of_labels(
        [[v for v, _ in vocabularies[n]] for n in CATEGORIES],
        inputCols=CATEGORIES,
        outputCols=[f"{n}_index" for n in CATEGORIES],
        handleInvalid="keep",
    )
    ids = [
        # Unknown values get the number of labels of the longest column, not of their own.
        F.when(F.col(f"{n}_index") < len(vocabularies[n]), F.col(f"{n}_index") + FIRST)
        .otherwise(UNKNOWN)
        .cast("int")
        .alias(n)
        for n in CATEGORIES
    ]
    encoded = indexer.transform(log)
    row = F.col("row")
    split = F.when(row < edges[0], "train").when(row < edges[1], "valid").otherwise("test")
    label = F.col("label").cast("float").alias("label")
    whole = encoded.select(label, *numbers, *ids, split.alias("split"))
    whole.write.partitionBy("split").parquet(f"{options.output}/rows")
    for folder in (options.output / "rows").glob("split=*"):
        folder.rename(options.output / folder.name.removeprefix("split="))
    lap("encode and write")
    seconds = time.perf_counter() - begun
    print(json.dumps({"rows": rows, "seconds": round(seconds, 3), "parts": parts}))
    spark.stop()


if __name__ == "__main__":
    main()
