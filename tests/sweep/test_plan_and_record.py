import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from unisc import files
from unisc.errors import InputError
from unisc.sweep.plan import NAME, Run, check_directory, read_plan, run_folder, write_plan
from unisc.sweep.record import quarantine_broken, read_record, read_records, read_status, sections_of, write_record
from unisc.sweep.table import flatten, table, write_table

PREFIXES = ("sweep_experiments.",)


@pytest.fixture
def planned(sweep):
    sweep.dir.mkdir()
    return write_plan(sweep.dir, [sweep.run(i, cost=float(i), compile_key="k") for i in range(3)], prefixes=PREFIXES)


def finish(sweep, run: Run, **sections) -> Path:
    folder = run_folder(sweep.dir, run.fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(files.dumps(run.description))
    write_record(sweep.dir, run, {"metrics": {"eval/full/hr@5": 0.5}, **sections})
    return folder


def test_a_plan_reads_back_as_it_was_written_without_repeats(sweep, planned):
    assert read_plan(sweep.dir) == planned
    assert write_plan(sweep.dir, [*planned, replace(planned[0], label="again")], prefixes=PREFIXES) == planned
    line = json.loads((sweep.dir / NAME).read_text().splitlines()[1])
    assert {"fingerprint", "experiment", "version", "config", "cost", "label", "compile_key", "schema"} == set(line)


def test_the_same_configuration_of_another_experiment_or_version_is_another_run(sweep, monkeypatch):
    one = sweep.run(0)
    monkeypatch.setattr(sweep.tiny, "VERSION", 2)
    two = sweep.run(0)
    monkeypatch.setattr(sweep.tiny, "__name__", "sweep_experiments.other")
    three = sweep.run(0)
    assert len({one.fingerprint, two.fingerprint, three.fingerprint}) == 3


def test_what_is_no_run_is_refused(sweep):
    config = sweep.tiny.Config(index=0)
    with pytest.raises(InputError, match="not an experiment"):
        Run.of(json, config, cost=1.0, label="x")
    with pytest.raises(InputError, match=r"sweep_experiments\.planted: runs its own Config"):
        Run.of(sweep.planted, config, cost=1.0, label="x")
    for cost in (-1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="predicted cost"):
            Run.of(sweep.tiny, config, cost=cost, label="x")
    with pytest.raises(InputError, match="the sweep has no runs"):
        write_plan(sweep.dir, [], prefixes=PREFIXES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: "{", "line 1 is not a run"),
        (lambda line: "[]", "line 1 is not a run"),
        (lambda line: line.replace('"label"', '"lable"'), "line 1 is not a run"),
        (lambda line: line.replace('"schema":1', '"schema":2'), "written by schema version 2, this program reads 1"),
        (lambda line: line.replace('"index":0', '"index":9'), "line 1 does not hash to"),
    ],
)
def test_a_plan_that_is_not_ours_is_one_line(sweep, planned, change, message):
    path = sweep.dir / NAME
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([change(first), *rest]))
    with pytest.raises(InputError, match=message) as e:
        read_plan(sweep.dir)
    assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="not a sweep directory"):
        read_plan(sweep.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {**d, "schema": 0}, "written by schema version 0"),
        (lambda d: {**d, "version": 9}, "hashes to .* not to its folder"),
        (lambda d: {**d, "config": {**d["config"], "index": 9}}, "hashes to .* not to its folder"),
        (lambda d: {"schema": 1}, "not the description of a run"),
        (lambda d: None, "not readable JSON"),
    ],
)
def test_a_run_folder_that_does_not_belong_there_is_one_line(sweep, planned, change, message):
    folder = finish(sweep, planned[0])
    path = folder / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    before = {f: f.read_bytes() for f in folder.iterdir()}
    for look in (lambda: check_directory(sweep.dir, planned), lambda: read_records(sweep.dir)):
        with pytest.raises(InputError, match=message) as e:
            look()
        assert "\n" not in str(e.value)
    assert {f: f.read_bytes() for f in folder.iterdir()} == before


def test_a_record_of_another_schema_is_refused_and_half_a_record_is_none(sweep, planned):
    path = finish(sweep, planned[0]) / "record.json"
    whole = path.read_text()
    for size in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_text(whole[:size])
        assert read_record(sweep.dir, planned[0].fingerprint) is None
        assert read_records(sweep.dir) == []
    path.write_text(whole.replace('"schema":2', '"schema":3'))
    with pytest.raises(InputError, match=r"schema version 3.*update the program"):
        read_records(sweep.dir)


def test_broken_records_are_set_aside_one_by_one_and_whole_ones_never(sweep, planned):
    path = finish(sweep, planned[0]) / "record.json"
    assert quarantine_broken(sweep.dir, planned[0].fingerprint) is None
    for n in (1, 2):
        path.write_text(f"half {n}")
        aside = quarantine_broken(sweep.dir, planned[0].fingerprint)
        assert aside == str(path.parent / f"record.json.broken-{n}") and Path(aside).read_text() == f"half {n}"
    assert quarantine_broken(sweep.dir, planned[0].fingerprint) is None


def test_a_record_is_never_replaced(sweep, planned):
    path = finish(sweep, planned[0]) / "record.json"
    before = path.read_bytes()
    assert not write_record(sweep.dir, planned[0], {"metrics": {"other": 1.0}})
    assert path.read_bytes() == before
    assert [f.name for f in path.parent.iterdir() if f.name.startswith(".")] == []


def test_a_status_that_cannot_be_read_is_pending(sweep, planned):
    folder = finish(sweep, planned[0])
    for text in ("", "[]", '{"schema": 9, "state": "done"}', '{"schema": 1, "state": "odd"}'):
        (folder / "status.json").write_text(text)
        assert read_status(sweep.dir, planned[0].fingerprint)["state"] == "pending"


def test_a_result_becomes_plain_values_or_names_what_cannot():
    result = {"metrics": {"a": np.float32(0.5), "b": None}, "counts": {"n": np.int64(3)}, "dims": (1, 2)}
    assert sections_of(result) == {"metrics": {"a": 0.5, "b": None}, "counts": {"n": 3}, "dims": [1, 2]}
    for broken, message in [
        ({}, "metrics"),
        ({"metrics": {"x": math.inf}}, r"metrics\.x: inf"),
        ({"metrics": {"x": np.ones(2)}}, r"metrics\.x: a ndarray"),
        ({"metrics": {}, "config": {}}, "'config'"),
        ({"metrics": {1: 2}}, "keys must be strings"),
    ]:
        with pytest.raises(ValueError, match=message):
            sections_of(broken)


def test_the_table_is_flat_sorted_and_typed_and_survives_parquet(sweep, planned):
    finish(sweep, planned[0], counts={"num_examples": 10, "train_flops": 2**70}, extra=[1, 2])
    finish(sweep, planned[1], counts={"num_examples": 2.5}, environment={"packages": {"jax": "1"}})
    records = read_records(sweep.dir)
    assert flatten(records[0])["config.index"] == 0
    path = write_table(records, sweep.dir / "runs.parquet")
    read = pq.read_table(path)
    assert read.equals(table(records))
    assert read.column_names == sorted(read.column_names)
    assert read["counts.num_examples"].to_pylist() == [10.0, 2.5]
    assert read["counts.train_flops"].to_pylist() == [float(2**70), None]
    assert read["environment.packages.jax"].to_pylist() == [None, "1"]
    assert read["extra"].to_pylist() == ["[1, 2]", None]
    assert [f.name for f in sweep.dir.iterdir() if f.name.endswith(".tmp")] == []


def test_a_full_disk_is_one_line_and_harms_nothing_already_written(sweep, planned, monkeypatch):
    path = sweep.dir / NAME
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"plan\.jsonl: cannot be written \(No space left on device\); free some space"):
        write_plan(sweep.dir, planned[:1], prefixes=PREFIXES)
    run_folder(sweep.dir, planned[0].fingerprint).mkdir(parents=True)
    with pytest.raises(InputError, match=r"record\.json: cannot be written \(No space left"):
        write_record(sweep.dir, planned[0], {"metrics": {}})
    assert path.read_bytes() == before
    assert [f for f in sweep.dir.rglob("*") if f.is_file()] == [path]
