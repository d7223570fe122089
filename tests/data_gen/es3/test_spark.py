"""Spark makes the same rows as DuckDB, and a worker that is lost costs time, not rows."""

import os
import shutil
import signal
import threading
import time

import pyarrow.parquet as pq
import pytest

from data_gen.es3 import ES3Config, build
from unisc.data import manifest
from unisc.errors import InputError

pyspark = pytest.importorskip("pyspark", reason="the extra `spark` is not installed")
pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17, and no java is on the path"),
    pytest.mark.filterwarnings("ignore"),  # PySpark's own, about versions of pandas that nothing here uses
]


def rows(directory, name):
    table = pq.read_table(directory / name)
    return table.schema, table.to_pylist()


@pytest.fixture(scope="module")
def by_duckdb(busy_logs, tmp_path_factory):
    out = tmp_path_factory.mktemp("duckdb") / "out"
    return out, build(busy_logs, out, ES3Config(composition="searchified"), threads=1)


OPTIONS = [
    {},
    {
        "relevance": "text",
        "sampling": "stratum",
        "negatives": "random",
        "label_half_life": 43_200,
        "level_confidence": 0.5,
        "history_max_age": 432_000,
    },
    {"composition": "unexposed", "sampling": "hard", "relevance": "none"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "text", "hard"])
def test_every_row_of_both_engines_is_the_same(busy_logs, tmp_path, options):
    config = ES3Config(**{"composition": "searchified", **options})
    made = build(busy_logs, tmp_path / "duckdb", config, threads=1)
    by_spark = build(busy_logs, tmp_path / "spark", config, engine="spark", master="local[2]", buckets=2)
    for name in ("train", "test", "items", "users", "queries", "quarantine.parquet"):
        (schema, expected), (found_schema, found) = rows(tmp_path / "duckdb", name), rows(tmp_path / "spark", name)
        assert (found_schema, repr(found)) == (schema, repr(expected)), name
    assert by_spark["quality"] == made["quality"]
    assert by_spark["counts"] == made["counts"]
    assert by_spark["fingerprint"] == made["fingerprint"], "the shards are the same bytes"
    assert (by_spark["engine"], made["engine"]) == ("spark", "duckdb")
    assert "pyspark" in by_spark["versions"]
    assert manifest.read(tmp_path / "spark", kind="samples", verify=True)


def test_a_worker_lost_in_the_middle_costs_no_row(busy_logs, by_duckdb, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARK_HOME", os.path.dirname(pyspark.__file__))  # noqa: PTH120
    killed, ended = [], threading.Event()

    def kill_one():
        until = time.monotonic() + 120
        while time.monotonic() < until and not killed and not ended.is_set():
            for pid in children_of(os.getpid()):
                if "CoarseGrainedExecutorBackend" in command_of(pid):
                    time.sleep(2.0)  # let it take tasks first
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        cluster = {"engine": "spark", "master": "local-cluster[2,1,1024]"}
        build(busy_logs, tmp_path / "out", ES3Config(composition="unexposed"), **cluster)
    finally:
        ended.set()
        killer.join()
    assert killed, "no executor was ever started"
    build(busy_logs, tmp_path / "whole", ES3Config(composition="unexposed"), threads=1)
    assert rows(tmp_path / "out", "train") == rows(tmp_path / "whole", "train")


def children_of(pid):
    """All descendants of a process, by /proc."""
    parents = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat") as f:  # noqa: PTH123
                    parents[int(entry)] = int(f.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found, frontier = [], {pid}
    while frontier:
        frontier = {p for p, parent in parents.items() if parent in frontier}
        found += sorted(frontier)
    return found


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as f:  # noqa: PTH123
            return f.read()
    except OSError:
        return ""


def test_a_master_that_is_not_there_is_one_line(busy_logs, tmp_path):
    with pytest.raises(InputError, match="engine spark: cannot start at master 'nonsense'"):
        build(busy_logs, tmp_path / "out", ES3Config(composition="exposed"), engine="spark", master="nonsense")
    assert list(tmp_path.iterdir()) == []
