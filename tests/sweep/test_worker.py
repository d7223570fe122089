"""What a worker does beyond one run after another: saves when told to stop, claims sets, obeys the budget and the profile."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unisc.sweep import worker as work
from unisc.sweep.launch import local
from unisc.sweep.plan import Run, run_folder, write_plan
from unisc.sweep.record import read_records, read_status
from unisc.sweep.settings import Settings, write_settings

PREFIXES = ("sweep_experiments.",)


@pytest.fixture
def packs():
    from sweep_experiments import packs

    return packs


def plan(sweep, runs, **changes):
    sweep.dir.mkdir(exist_ok=True)
    fields = {"sweep_dir": str(sweep.dir), "runtime": sweep.runtime, "prefixes": PREFIXES, "heartbeat_secs": 0.2, **changes}
    write_settings(Settings(**fields))
    return write_plan(sweep.dir, runs, prefixes=PREFIXES)


def start(sweep):
    command = [sys.executable, "-m", "unisc.sweep.worker", "--sweep", str(sweep.dir)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition, secs=30.0):
    deadline = time.monotonic() + secs
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def lines_of(sweep):
    path = sweep.data / "executions.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_a_run_that_listens_saves_itself_and_goes_on_where_it_was(sweep, packs):
    [run] = plan(sweep, [Run.of(packs, packs.Config(index=0, steps=100), cost=1.0, label="long")])
    worker = start(sweep)
    wait_for(lambda: lines_of(sweep) == ["start 0 0"])
    time.sleep(0.5)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == work.EXIT_INTERRUPTED == 75
    saved = int((run_folder(sweep.dir, run.fingerprint) / "work" / "step").read_text())
    assert 0 < saved < 100
    status = read_status(sweep.dir, run.fingerprint)
    assert (status["state"], status["failures"], status["takeovers"]) == ("pending", 0, 0)
    assert start(sweep).wait(30) == work.EXIT_NOTHING_LEFT
    [record] = read_records(sweep.dir)
    assert record["counts"]["resumed_at"] == saved
    assert lines_of(sweep) == ["start 0 0", f"start 0 {saved}"]


def test_runs_of_a_compile_key_are_claimed_as_a_set_and_one_that_fails_is_tried_alone(sweep, packs):
    configs = [packs.Config(index=i, width=i // 14) for i in (1, 2, 3, 13, 14, 15)]
    runs = [Run.of(packs, c, cost=1.0, label=f"run {c.index}", compile_key=str(c.width)) for c in configs]
    assert all(run.packs for run in runs) and not sweep.run(0).packs
    plan(sweep, runs, pack_limit=4, backoff_secs=0.05)
    assert start(sweep).wait(30) == work.EXIT_NOTHING_LEFT
    records = {record["config"]["index"]: record for record in read_records(sweep.dir)}
    assert {index: record["counts"]["together"] for index, record in records.items()} == {1: 4, 2: 4, 3: 4, 13: 1, 14: 2, 15: 2}
    assert records[13]["attempts"] == 2 and records[1]["timing"]["num_packed"] == 4
    assert sorted(line.split()[0] for line in lines_of(sweep)) == ["pack", "pack", "start"]
    assert not list(sweep.dir.glob("runs/*/lease"))


def test_runs_that_one_program_cannot_hold_are_trained_one_after_the_other(sweep, packs):
    runs = [Run.of(packs, packs.Config(index=i, width=i), cost=1.0, label="", compile_key="same") for i in range(3)]
    plan(sweep, runs, pack_limit=8)
    assert start(sweep).wait(30) == work.EXIT_NOTHING_LEFT
    assert [record["counts"]["together"] for record in read_records(sweep.dir)] == [1, 1, 1]


def test_a_run_over_before_its_worker_was_killed_is_recorded_and_not_trained_again(sweep):
    from unisc.files import dumps

    [run] = plan(sweep, [sweep.run(0)])
    kept = run_folder(sweep.dir, run.fingerprint) / "work" / "result.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(dumps({"result": {"metrics": {"x": 1.0}}, "timing": {"wall_secs": 9.0}}))
    assert start(sweep).wait(30) == work.EXIT_NOTHING_LEFT
    [record] = read_records(sweep.dir)
    assert (record["metrics"], record["secs"], sweep.executions()) == ({"x": 1.0}, 9.0, [])
    assert not kept.exists()


def test_a_cancelled_sweep_ends_its_workers_wherever_they_are(sweep, packs):
    plan(sweep, [Run.of(packs, packs.Config(index=i, steps=400), cost=1.0, label="long") for i in range(2)])
    worker = start(sweep)
    wait_for(lambda: len(lines_of(sweep)) == 1)
    (sweep.dir / "cancelled.json").write_text("{}")
    assert worker.wait(15) == 0, "not to be requeued"
    assert len(lines_of(sweep)) == 1 and not read_records(sweep.dir)


def test_a_machine_without_the_profiles_devices_is_one_line_and_harms_no_run(sweep):
    [run] = plan(sweep, [sweep.run(0)], platform="cuda")
    worker = start(sweep)
    _, said = worker.communicate(timeout=60)
    assert worker.returncode == work.EXIT_INPUT_ERROR
    assert said.splitlines()[-1].startswith("the profile wants cuda, and JAX finds ")
    assert sweep.executions() == [] and read_status(sweep.dir, run.fingerprint)["failures"] == 0


def test_device_hours_are_counted_over_all_workers_and_calls(sweep):
    runs = [sweep.run(i, secs=0.3, cost=1.0) for i in range(12)]
    plan(sweep, runs, max_device_hours=4 * 1.2 / 3600, devices_per_worker=4)
    for _ in range(2):
        assert start(sweep).wait(30) == work.EXIT_BUDGET_SPENT
    records = read_records(sweep.dir)
    assert 1 <= len(records) <= 4
    assert 4 * sum(record["secs"] for record in records) <= 4 * 1.2


def test_a_crash_loop_ends_with_the_last_lines_of_its_output(sweep):
    [run] = plan(sweep, [sweep.run(0, act="raise")], max_attempts=3, backoff_secs=0.05)
    assert start(sweep).wait(30) == work.EXIT_NOTHING_LEFT
    status = read_status(sweep.dir, run.fingerprint)
    assert (status["state"], status["failures"], sweep.executions()) == ("failed", 3, [0, 0, 0])
    assert status["tail"][-2:] == ["ValueError: deliberate", "and on two lines"]


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no readable settings.json"), ("{", "not valid JSON"), ('{"sweep_dir": "x"}', "settings.json: ")],
)
def test_settings_that_are_not_ours_are_one_line(sweep, text, message):
    sweep.dir.mkdir()
    if text is not None:
        (sweep.dir / "settings.json").write_text(text)
    worker = start(sweep)
    _, said = worker.communicate(timeout=30)
    assert worker.returncode == work.EXIT_INPUT_ERROR
    assert message in said and len(said.splitlines()) == 1


def test_workers_killed_at_random_lose_and_repeat_nothing(sweep, load_file):
    """The short form of `make torture`; the same race is for every launcher."""
    torture = load_file(Path(__file__).parents[2] / "benchmarks" / "torture.py")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        found = torture.race(local.submit, sweep.dir, sweep.data, points=16, workers=3, kills=3, seed=1, deadline_secs=120)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert found == {"points": 16, "recorded": 16, "lost": 0, "duplicated": 0, "kills": 3}
    assert all(json.loads(path.read_text())["metrics"] for path in sweep.dir.glob("runs/*/record.json"))
