"""Counting over Parquet by SQL: a database bounded in memory, rows as dicts, bins of time, intervals of shares."""

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from unisc.errors import InputError

LAG_STEPS = 4
"""Bins a doubling of lag or age."""

Rows = list[dict[str, Any]]


@contextlib.contextmanager
def connect(directory: Path, memory: str = "1GiB") -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database that stays within `memory` and spills to a folder of its own; files it cannot read are one error."""
    with tempfile.TemporaryDirectory(prefix="report-") as spill, duckdb.connect() as db:
        db.execute("SET enable_progress_bar = false")
        db.execute("SET preserve_insertion_order = false")
        db.execute(f"SET memory_limit = '{memory}'")
        db.execute("SET temp_directory = '" + spill.replace("'", "''") + "'")
        try:
            yield db
        except duckdb.OutOfMemoryException as e:
            raise InputError(f"{directory}: does not fit into {memory}; give more memory") from e
        except (duckdb.IOException, duckdb.InvalidInputException) as e:
            said = " ".join(str(e).split())[:160]
            raise InputError(f"{directory}: cannot be read ({said}); build it again") from e


def rows(db: duckdb.DuckDBPyConnection, sql: str) -> Rows:
    """Fetch a query's rows as dicts; what is not finite as None, which JSON can hold."""
    found = db.execute(sql)
    names = [column[0] for column in found.description or ()]
    return [{name: _finite(value) for name, value in zip(names, row, strict=True)} for row in found.fetchall()]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scan(directory: Path) -> str:
    """SQL that reads all Parquet files of a directory. Raises InputError if there are none."""
    files = sorted(directory.glob("*.parquet"))
    if not files:
        raise InputError(f"{directory}: holds no Parquet file; make the directory again")
    names = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
    return f"read_parquet([{names}])"


def log_bin(seconds: str) -> str:
    """SQL of the bin of a lag: the floor of LAG_STEPS times its binary logarithm; -1 for less than a second."""
    return f"CASE WHEN {seconds} < 1 THEN -1 ELSE floor({LAG_STEPS} * log2({seconds}))::INT END"


def bin_start(number: int) -> float:
    """Return where a bin of `log_bin` starts, in seconds."""
    return 0.0 if number < 0 else 2 ** (number / LAG_STEPS)


def wilson(positives: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson interval of a share, 95 % by default; (0, 1) for n = 0. `n` may be an effective number."""
    if n <= 0:
        return 0.0, 1.0
    share = positives / n
    middle, spread = share + z * z / (2 * n), z * math.sqrt(max(0.0, share * (1 - share)) / n + (z / (2 * n)) ** 2)
    return max(0.0, (middle - spread) / (1 + z * z / n)), min(1.0, (middle + spread) / (1 + z * z / n))
