"""The engine under the expressions: one DuckDB session through Ibis, its scratch files and its errors."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa

from unisc.errors import InputError

_ENGINE_SHARE = 0.7
"""Share of the memory allowance given to the engine; the rest is for Arrow buffers and packing."""
_DISK = ("Could not write file", "No space left", "File too large")


class Session:
    """Runs Ibis expressions; intermediate tables live on disk in `scratch`, so that memory stays bounded."""

    def __init__(self, scratch: Path, *, threads: int | None, memory: int) -> None:
        self.backend = ibis.duckdb.connect(
            scratch / "work.duckdb",
            threads=threads or os.cpu_count() or 1,
            memory_limit=f"{int(memory * _ENGINE_SHARE)}B",
            temp_directory=str(scratch / "spill"),
            preserve_insertion_order=False,
        )

    def read(self, glob: str) -> ir.Table:
        """Return the Parquet files matching a pattern as one table."""
        with _quiet():
            return self.backend.read_parquet(glob)

    def save(self, name: str, table: ir.Table) -> ir.Table:
        """Compute a table once and keep it under a name."""
        with _quiet():
            return self.backend.create_table(name, table)

    def load(self, name: str, rows: pa.Table) -> ir.Table:
        """Take rows computed outside the engine in, under a name."""
        return self.save(name, ibis.memtable(rows))

    def fetch(self, table: ir.Table) -> pa.Table:
        """Return all rows of a table."""
        with _quiet():
            return self.backend.to_pyarrow(table)

    def first(self, table: ir.Table) -> dict:
        """Return the first row of a table as a dict; empty if it has none."""
        rows = self.fetch(table.limit(1)).to_pylist()
        return rows[0] if rows else {}

    def close(self) -> None:
        """Close the connection, so that the scratch directory can go."""
        self.backend.disconnect()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Ibis 12 still calls names that DuckDB 2 and pandas 3 have deprecated; neither is ours to change.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextlib.contextmanager
def engine_errors(memory: int, out: Path) -> Iterator[None]:
    """Turn what only the user can mend (memory, disk, unreadable files) into InputError; let our own mistakes through."""
    try:
        yield
    except duckdb.OutOfMemoryException as e:
        raise InputError(f"memory {memory >> 20} MiB: not enough for these logs; give a larger --memory") from e
    except duckdb.Error as e:
        # A full disk shows as an error of input, of the transaction or of the whole database, whichever met it first.
        if not isinstance(e, duckdb.IOException) and not any(words in str(e) for words in _DISK):
            raise
        raise InputError(f"{out}: cannot be built ({_line(e)}); free disk space or check the log files") from e
    except OSError as e:
        raise InputError(f"{e.filename or out}: {e.strerror or e}; check that the folder is writable and has space") from e


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
