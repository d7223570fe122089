"""Apache Spark as the engine: the same expressions, on a cluster or on `local[N]` (extra `spark`, Java 17)."""

import contextlib
import importlib.metadata
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.es3.session import one_line
from unisc.errors import InputError

SETTINGS = {
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.parquet.compression.codec": "lz4",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
}
"""Set whatever the cluster's defaults say: results must not depend on them."""


class SparkSession:
    """Tables of one unit of work: each saved one is a folder of Parquet, so that a lost worker costs only its own tasks."""

    def __init__(self, backend: Any, scratch: Path, names: Iterator[int]) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.backend, self.scratch, self._names = backend, scratch, names
        self._views: list[str] = []

    def read(self, files: Sequence[Path], schema: pa.Schema) -> ir.Table:
        if not files:
            file = self.scratch / f"empty-{next(self._names)}.parquet"
            pq.write_table(schema.empty_table(), file)
            files = [file]
        frame = self.backend._session.read.parquet(*(_literally(f) for f in files))
        view = f"es3_{next(self._names)}"
        frame.createOrReplaceTempView(view)
        self._views.append(view)
        return self.backend.table(view)

    def save(self, name: str, table: ir.Table) -> ir.Table:
        directory = self.scratch / f"{name}-{next(self._names)}"
        self.write(table, directory)
        return self.read([directory], pa.schema([])).cast(table.schema())

    def load(self, name: str, rows: pa.Table) -> ir.Table:
        file = self.scratch / f"{name}-{next(self._names)}.parquet"
        pq.write_table(rows, file)
        return self.read([file], rows.schema)

    def fetch(self, table: ir.Table) -> pa.Table:
        # Not through pandas, which would make floats of integers with nulls and nulls of NaN.
        rows = self._frame(table).toArrow()
        return rows.cast(table.schema().to_pyarrow())

    def first(self, table: ir.Table) -> dict:
        rows = self.fetch(table.limit(1)).to_pylist()
        return rows[0] if rows else {}

    def write(self, table: ir.Table, directory: Path, *, by: str | None = None) -> None:
        writer = self._frame(table).write.mode("overwrite")
        if by is not None:
            writer = writer.partitionBy(by)
        writer.parquet(str(directory))

    def close(self) -> None:
        for view in self._views:
            self.backend._session.catalog.dropTempView(view)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _frame(self, table: ir.Table) -> Any:
        return self.backend._session.sql(self.backend.compile(table))


class Spark:
    """A Spark application at `master` (its default where None), the driver within `memory` bytes."""

    name = "spark"

    def __init__(self, *, master: str | None, threads: int | None, memory: int) -> None:
        try:
            import pyspark.sql
        except ImportError as e:
            raise InputError("engine spark: PySpark is not installed; install unisc with its extra `spark`") from e
        builder = pyspark.sql.SparkSession.builder.appName("unisc es3").config("spark.driver.memory", f"{memory >> 20}m")
        builder = builder.master(master or f"local[{threads or '*'}]")
        for key, value in SETTINGS.items():
            builder = builder.config(key, value)
        if (master or "local").startswith("local"):
            builder = builder.config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", "4")
        try:
            self._session = builder.getOrCreate()
        except Exception as e:  # whatever the JVM gateway raises when there is no Java, or no such master
            raise InputError(
                f"engine spark: cannot start at master {master!r} ({one_line(e)}); check JAVA_HOME (Java 17) and --master"
            ) from e
        self._session.sparkContext.setLogLevel("ERROR")
        self.backend = ibis.pyspark.connect(self._session)
        self._names = itertools.count()

    def open(self, scratch: Path) -> SparkSession:
        return SparkSession(self.backend, scratch, self._names)

    def versions(self) -> dict[str, str]:
        return {"pyspark": importlib.metadata.version("pyspark")}

    def close(self) -> None:
        self._session.stop()

    @contextlib.contextmanager
    def errors(self, out: Path) -> Iterator[None]:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            yield
        except (PySparkException, Py4JError) as e:
            raise InputError(
                f"{out}: Spark gave up ({one_line(e)}); mend the cause and run the same command again, finished parts are kept"
            ) from e


def _literally(path: Path) -> str:
    """Write a path so that Hadoop's glob reads it as it stands."""
    return "".join(f"\\{c}" if c in "*?[]{}\\" else c for c in str(path))
