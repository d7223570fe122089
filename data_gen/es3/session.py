"""The engine under the expressions: DuckDB in this process by default, Spark where logs outgrow one machine.

Everything ES3 computes is an Ibis expression handed to a session; a session is the only place that knows which engine runs it.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from unisc.errors import InputError

ENGINES = ("duckdb", "spark")
ENGINE_SHARE = 0.7
"""Share of the memory allowance given to the engine; the rest is for Arrow buffers and packing."""
_DISK = ("Could not write file", "No space left", "File too large")


class Session(Protocol):
    """Runs Ibis expressions; tables it saves lie on disk in its scratch folder, so that memory stays bounded."""

    def read(self, files: Sequence[Path], schema: pa.Schema) -> ir.Table:
        """Return Parquet files of one schema as one table; without files an empty one."""
        ...

    def save(self, name: str, table: ir.Table) -> ir.Table:
        """Compute a table once and keep it under a name."""
        ...

    def load(self, name: str, rows: pa.Table) -> ir.Table:
        """Take rows computed outside the engine in, under a name."""
        ...

    def fetch(self, table: ir.Table) -> pa.Table:
        """Return all rows of a table."""
        ...

    def first(self, table: ir.Table) -> dict:
        """Return the first row of a table as a dict; empty if it has none."""
        ...

    def write(self, table: ir.Table, directory: Path, *, by: str | None = None) -> None:
        """Write Parquet files into a directory; with `by`, into folders `by=<value>` without that column."""
        ...

    def close(self) -> None:
        """Let go of the scratch folder."""
        ...


class Engine(Protocol):
    """Where sessions come from; opened once a build."""

    name: str

    def open(self, scratch: Path) -> Session:
        """Open a session whose tables lie in a folder of their own, made here."""
        ...

    def errors(self, out: Path) -> contextlib.AbstractContextManager[None]:
        """Turn what only the user can mend (memory, disk, a lost worker) into InputError; let our own mistakes through."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions for the manifest."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class DuckDBSession:
    """One DuckDB database in a scratch folder."""

    def __init__(self, scratch: Path, *, threads: int | None, memory: int) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.backend = ibis.duckdb.connect(
            scratch / "work.duckdb",
            threads=threads or os.cpu_count() or 1,
            memory_limit=f"{int(memory * ENGINE_SHARE)}B",
            temp_directory=str(scratch / "spill"),
            preserve_insertion_order=False,
        )
        # Statistics in Parquet files leave NaN out, from which DuckDB concludes that `isnan` is false of every row.
        self.backend.con.execute("SET disabled_optimizers = 'statistics_propagation'")

    def read(self, files: Sequence[Path], schema: pa.Schema) -> ir.Table:
        with _quiet():
            if not files:
                return ibis.memtable(schema.empty_table())
            # A folder above the logs may be named like a partition, `user_id=3`: its name must not replace the column.
            return self.backend.read_parquet([_literally(f) for f in files], hive_partitioning=False)

    def save(self, name: str, table: ir.Table) -> ir.Table:
        with _quiet():
            # An engine may take a column wider than the expression says; the cast costs nothing where it did not.
            return self.backend.create_table(name, table).cast(table.schema())

    def load(self, name: str, rows: pa.Table) -> ir.Table:
        return self.save(name, ibis.memtable(rows))

    def fetch(self, table: ir.Table) -> pa.Table:
        with _quiet():
            return self.backend.to_pyarrow(table)

    def first(self, table: ir.Table) -> dict:
        rows = self.fetch(table.limit(1)).to_pylist()
        return rows[0] if rows else {}

    def write(self, table: ir.Table, directory: Path, *, by: str | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        with _quiet():
            if by is None:
                self.backend.to_parquet(table, directory / "part-00000.parquet", compression="lz4")
            else:
                self.backend.to_parquet(table, directory, partition_by=(by,), compression="lz4")

    def close(self) -> None:
        self.backend.disconnect()


class DuckDB:
    """DuckDB in this process, within `memory` bytes and `threads` threads (all cores if None)."""

    name = "duckdb"

    def __init__(self, *, threads: int | None, memory: int) -> None:
        self.threads, self.memory = threads, memory

    def open(self, scratch: Path) -> DuckDBSession:
        return DuckDBSession(scratch, threads=self.threads, memory=self.memory)

    def versions(self) -> dict[str, str]:
        return {"duckdb": duckdb.__version__}

    def close(self) -> None:
        pass

    @contextlib.contextmanager
    def errors(self, out: Path) -> Iterator[None]:
        try:
            yield
        except duckdb.OutOfMemoryException as e:
            raise InputError(f"memory {self.memory >> 20} MiB: not enough for these logs; give a larger --memory") from e
        except duckdb.Error as e:
            # A full disk shows as an error of input, of the transaction or of the whole database, whichever met it first.
            if not isinstance(e, duckdb.IOException) and not any(words in str(e) for words in _DISK):
                raise
            raise InputError(f"{out}: cannot be built ({one_line(e)}); free disk space or check the log files") from e


def parquet_files(directory: Path) -> list[Path]:
    """Return the Parquet files of a folder, by name."""
    return sorted(directory.glob("*.parquet"))


def read_back(session: Session, directory: Path) -> ir.Table:
    """Return a table that `write` wrote whole."""
    files = parquet_files(directory)
    return session.read(files, pq.read_schema(files[0]))


def one_line(error: Exception) -> str:
    """Return the beginning of an error's message as one line."""
    return " ".join(str(error).split())[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Ibis 12 still calls names that DuckDB 2 and pandas 3 have deprecated; neither is ours to change.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _literally(path: Path) -> str:
    """Write a path so that the engine's glob reads it as it stands."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path))
