import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from unisc.errors import InputError
from unisc.sweep import worker as work
from unisc.sweep.launch import local
from unisc.sweep.plan import run_folder, write_plan
from unisc.sweep.record import read_records, read_status
from unisc.sweep.status import Monitor, failures, summary

PREFIXES = ("sweep_experiments.",)


def wait_until(condition: Any, secs: float = 20.0) -> None:
    deadline = time.monotonic() + secs
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def pids_of(sweep: Any) -> list[int]:
    path = sweep.data / "executions.txt"
    return [int(line.split()[2]) for line in path.read_text().splitlines()] if path.exists() else []


def start_worker(sweep: Any, **changes: Any) -> subprocess.Popen:
    fields = {"sweep_dir": str(sweep.dir), "runtime": sweep.runtime, "prefixes": PREFIXES, **changes}
    work.write_settings(work.Settings(**fields))
    return subprocess.Popen([sys.executable, "-m", "unisc.sweep.worker", "--sweep", str(sweep.dir)])


def test_every_run_leaves_one_record_and_a_second_call_touches_none(sweep):
    runs = [sweep.run(i) for i in range(6)]
    records = sweep.go(runs)
    assert [r["config"]["index"] for r in records] == list(range(6))
    assert [r["metrics"]["eval/exposed/log_loss"] for r in records] == [1 / (1 + i) for i in range(6)]
    assert sorted(sweep.executions()) == list(range(6))
    files = sorted(sweep.dir.glob("runs/*/record.json"))
    before = [(f.stat().st_ino, f.stat().st_mtime_ns) for f in files]

    assert sweep.go(runs) == records
    assert [(f.stat().st_ino, f.stat().st_mtime_ns) for f in files] == before
    assert sorted(sweep.executions()) == list(range(6))


def test_a_record_holds_its_configuration_timing_and_environment_but_not_its_host(sweep):
    [record] = sweep.go([sweep.run(0, cost=5.0, compile_key="small")])
    assert record["experiment"] == "sweep_experiments.tiny"
    assert (record["version"], record["label"], record["cost"], record["compile_key"]) == (1, "tiny 0", 5.0, "small")
    assert record["timing"]["wall_secs"] >= 0
    assert record["timing"]["peak_memory_bytes"] > 1e6
    assert record["environment"]["packages"]["numpy"]
    assert record["attempts"] == 1
    assert os.uname().nodename not in json.dumps(record["environment"]).split('"')


def test_workers_keep_their_child_warm_and_to_their_own_processor(sweep):
    records = sweep.go([sweep.run(i, secs=0.05) for i in range(8)])
    assert 1 <= len({r["counts"]["pid"] for r in records}) <= 2
    if len(os.sched_getaffinity(0)) >= 2:
        assert {r["counts"]["num_processors"] for r in records} == {1}
    assert {r["seen"]["NPROC"] for r in records} == {"1"}
    assert all(Path(r["seen"]["JAX_COMPILATION_CACHE_DIR"]).is_relative_to(sweep.dir) for r in records)


def test_what_the_user_has_set_in_the_environment_stays(sweep, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    assert local.environment(sweep.dir, 2)["JAX_PLATFORMS"] == "tpu"
    monkeypatch.delenv("JAX_PLATFORMS")
    assert local.environment(sweep.dir, 2)["JAX_PLATFORMS"] == "cpu"
    assert local.environment(sweep.dir, 2)["OMP_NUM_THREADS"] == "2"


GO = """
import sys
from sweep_experiments import tiny
from unisc.config import Runtime
from unisc.sweep.launch.local import run_sweep
from unisc.sweep.plan import Run
runs = [Run.of(tiny, tiny.Config(index=i, secs=0.1), cost=1.0, label=f"tiny {i}") for i in range(16)]
runtime = Runtime(work_dir="", data_dir=sys.argv[2])
run_sweep(runs, sys.argv[1], runtime=runtime, workers=2, progress=False, prefixes=("sweep_experiments.",))
"""


@pytest.mark.parametrize("how", ["the whole pool killed", "the parent killed", "Ctrl-C"])
def test_a_sweep_cut_short_continues_and_repeats_nothing(sweep, how):
    pool = subprocess.Popen(
        [sys.executable, "-c", GO, str(sweep.dir), str(sweep.data)], start_new_session=True, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(list(sweep.dir.glob("runs/*/record.json"))) >= 3)
    if how == "the parent killed":
        pool.kill()
    else:
        os.killpg(pool.pid, signal.SIGINT if how == "Ctrl-C" else signal.SIGKILL)
    assert pool.wait(20) != 0
    wait_until(lambda: not any(is_alive(pid) for pid in pids_of(sweep)))
    wait_until(lambda: summary(sweep.dir).running == 0)

    done = {f: (f.stat().st_ino, f.stat().st_mtime_ns) for f in sweep.dir.glob("runs/*/record.json")}
    recorded = {json.loads(f.read_text())["config"]["index"] for f in done}
    assert 3 <= len(done) < 16
    records = sweep.go([sweep.run(i, secs=0.1) for i in range(16)])
    assert [r["config"]["index"] for r in records] == list(range(16))
    assert {f: (f.stat().st_ino, f.stat().st_mtime_ns) for f in done} == done
    started = sweep.executions()
    assert all(started.count(i) == 1 for i in recorded)
    assert len(started) <= 16 + 2  # at most what the two workers had under way is begun again


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_worker_ends_its_child_and_releases_its_run(sweep, how):
    sweep.dir.mkdir()
    [run] = write_plan(sweep.dir, [sweep.run(0, secs=30.0)], prefixes=PREFIXES)
    worker = start_worker(sweep)
    wait_until(lambda: sweep.executions() == [0] and summary(sweep.dir).running == 1)
    worker.send_signal(how)
    assert worker.wait(10) == work.EXIT_INTERRUPTED
    wait_until(lambda: not any(is_alive(pid) for pid in pids_of(sweep)))
    assert read_status(sweep.dir, run.fingerprint)["state"] == "pending"
    now = summary(sweep.dir)
    assert (now.running, now.pending, now.failed) == (0, 1, 0)


def test_a_killed_worker_takes_its_child_along_and_its_run_is_taken_over(sweep):
    sweep.dir.mkdir()
    write_plan(sweep.dir, [sweep.run(0, secs=0.5)], prefixes=PREFIXES)
    worker = start_worker(sweep)
    wait_until(lambda: sweep.executions() == [0])
    worker.kill()
    worker.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in pids_of(sweep)))
    assert start_worker(sweep).wait(20) == work.EXIT_NOTHING_LEFT
    assert [r["config"]["index"] for r in read_records(sweep.dir)] == [0]
    assert sweep.executions() == [0, 0]


@pytest.mark.parametrize(
    ("act", "attempts", "words"),
    [
        ("raise", 2, "ValueError: deliberate and on two lines"),
        ("kill", 2, "killed by SIGKILL (out of memory?)"),
        ("segfault", 2, "killed by SIGSEGV"),
        ("exit", 2, "SystemExit: 0"),
        ("nan", 2, "metrics.eval/exposed/log_loss: nan is not a finite number"),
        ("fork", 2, "killed by SIGKILL"),
    ],
)
def test_a_run_that_dies_is_marked_failed_and_the_others_go_on(sweep, act, attempts, words):
    runs = [sweep.run(0, act=act), *(sweep.run(i) for i in range(1, 4))]
    records = sweep.go(runs, workers=1)
    assert [r["config"]["index"] for r in records] == [1, 2, 3]
    monitor = Monitor(sweep.dir, runs)
    now = monitor.look()
    assert (now.done, now.failed, now.pending, now.running) == (3, 1, 0, 0)
    [failure] = monitor.failures()
    assert words in failure.error
    assert "\n" not in failure.error
    assert sweep.executions().count(0) == attempts
    assert failure.log.exists()


def test_a_sweep_in_which_nothing_succeeds_says_why(sweep):
    with pytest.raises(RuntimeError, match="no run succeeded and 2 failed; the first: tiny 0 failed: ValueError: deliberate"):
        sweep.go([sweep.run(i, act="raise") for i in range(2)])


def test_failures_are_named_on_screen(sweep, capsys):
    sweep.go([sweep.run(0), sweep.run(1, act="raise")], progress=True, title="study")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("study: 0/2 runs")
    assert "study: 1/2 runs, 0 running, 1 failed" in lines
    assert lines[-1].startswith("study: tiny 1 failed: ValueError: deliberate and on two lines (its output: /")
    assert [str(f) in lines[-1] for f in failures(sweep.dir)] == [True]


def test_a_failed_run_is_tried_again_by_the_next_call(sweep):
    runs = [sweep.run(0, act="once_kill"), sweep.run(1)]
    assert len(sweep.go(runs, max_attempts=1, workers=1)) == 1
    records = sweep.go(runs, max_attempts=1, workers=1)
    assert [r["config"]["index"] for r in records] == [0, 1]


def test_a_second_attempt_may_succeed_and_its_record_says_so(sweep):
    [record] = sweep.go([sweep.run(0, act="once_kill")])
    assert record["attempts"] == 2


def test_what_a_run_prints_goes_to_its_log_and_not_into_the_protocol(sweep):
    runs = [sweep.run(0, act="noise"), sweep.run(1)]
    assert len(sweep.go(runs, workers=1)) == 2
    log = (run_folder(sweep.dir, runs[0].fingerprint) / "log.txt").read_text()
    for words in ('"kind": "result"', "a file descriptor", "a grandchild", "standard error"):
        assert words in log


def test_eight_racing_workers_execute_every_run_exactly_once(sweep):
    sweep.dir.mkdir()
    runs = write_plan(sweep.dir, [sweep.run(i) for i in range(40)], prefixes=PREFIXES)
    for run in runs[::2]:  # half of them were left behind by a worker that died on another machine
        lease = run_folder(sweep.dir, run.fingerprint) / "lease" / "000001"
        lease.parent.mkdir(parents=True)
        lease.write_text('{"nonce": "dead", "counter": 7, "released": false, "machine": "elsewhere", "pid": 1}')
    workers = [start_worker(sweep, stale_secs=0.5, heartbeat_secs=0.1, num_workers=8) for _ in range(8)]
    assert {w.wait(40) for w in workers} == {work.EXIT_NOTHING_LEFT}
    assert sorted(sweep.executions()) == list(range(40))
    assert sorted(sweep.executions("end")) == list(range(40))
    assert len(read_records(sweep.dir)) == 40
    assert not list(sweep.dir.glob("runs/*/lease"))


def test_a_frozen_worker_that_lost_its_run_records_nothing(sweep):
    sweep.dir.mkdir()
    [run] = write_plan(sweep.dir, [sweep.run(0, secs=0.5)], prefixes=PREFIXES)
    worker = start_worker(sweep)
    wait_until(lambda: sweep.executions() == [0])
    worker.send_signal(signal.SIGSTOP)
    lease = run_folder(sweep.dir, run.fingerprint) / "lease"
    (lease / "000002").write_text('{"nonce": "other", "counter": 1, "released": false, "machine": "elsewhere", "pid": 1}')
    time.sleep(0.6)
    worker.send_signal(signal.SIGCONT)
    time.sleep(0.4)
    assert not (lease.parent / "record.json").exists()
    worker.terminate()
    assert worker.wait(10) == work.EXIT_INTERRUPTED


def test_the_budget_stops_claiming_and_nothing_is_lost(sweep):
    runs = [sweep.run(i, secs=0.5, cost=1.0) for i in range(20)]
    records = sweep.go(runs, max_hours=1.6 / 3600)
    assert 1 <= len(records) < 20
    assert len(sweep.executions()) == len(sweep.executions("end")) == len(records)
    assert summary(sweep.dir).failed == 0


def test_runs_on_disk_outside_the_plan_are_kept_and_ignored(sweep):
    sweep.go([sweep.run(0), sweep.run(1)])
    records = sweep.go([sweep.run(1), sweep.run(2)])
    assert [r["config"]["index"] for r in records] == [1, 2]
    assert len(list(sweep.dir.glob("runs/*/record.json"))) == 3
    assert [r["config"]["index"] for r in read_records(sweep.dir)] == [1, 2]
    assert summary(sweep.dir).total == 2


def test_a_half_written_record_is_set_aside_and_its_run_is_done_again(sweep):
    run = sweep.run(0)
    folder = run_folder(sweep.dir, run.fingerprint)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text('{"schema": 1, "metr')
    assert len(sweep.go([run])) == 1
    assert (folder / "record.json.broken-1").read_text() == '{"schema": 1, "metr'


@pytest.mark.parametrize(
    ("act", "message"),
    [("input", "data: no such folder; make it"), ("full", "/somewhere/part.parquet: No space left on device; free some space")],
)
def test_a_users_mistake_inside_a_run_ends_the_sweep_in_one_line(sweep, act, message):
    runs = [sweep.run(0, cost=9.0, act=act), *(sweep.run(i, secs=0.3) for i in range(1, 30))]
    with pytest.raises(InputError) as e:
        sweep.go(runs)
    assert str(e.value).startswith(message)
    assert "\n" not in str(e.value)
    assert len(sweep.executions("end")) < 20
    assert sweep.executions().count(0) == 1


def test_a_module_that_does_not_exist_or_is_not_allowed_is_one_line(sweep):
    from dataclasses import replace

    from unisc.sweep.plan import run_fingerprint

    run = sweep.run(0)
    name = "sweep_experiments.nowhere"
    missing = replace(run, experiment=name, fingerprint=run_fingerprint(name, 1, run.config))
    with pytest.raises(InputError, match=r"^sweep_experiments\.nowhere: no such experiment module"):
        sweep.go([missing])
    with pytest.raises(InputError, match=r"'sweep_experiments\.tiny': not an allowed experiment module.* experiments\."):
        sweep.go([run], prefixes=("experiments.",))
    for name in ("os", "sweep_experiments.", "sweep_experiments.a b", "sweep_experiments..tiny"):
        with pytest.raises(InputError, match="not an allowed experiment module"):
            sweep.go([replace(run, experiment=name, fingerprint=run_fingerprint(name, 1, run.config))])


def test_code_of_another_version_than_the_plan_is_refused(sweep, monkeypatch):
    monkeypatch.setattr(sweep.tiny, "VERSION", 7)
    with pytest.raises(InputError, match="planned at version 7 but installed at 1"):
        sweep.go([sweep.run(0)])


def test_a_directory_written_by_another_version_is_refused_and_left_alone(sweep, monkeypatch):
    sweep.go([sweep.run(0)])
    before = {f: f.read_bytes() for f in sweep.dir.rglob("*") if f.is_file()}
    monkeypatch.setattr(sweep.tiny, "VERSION", 2)
    with pytest.raises(InputError, match=r"written by version 1 of sweep_experiments\.tiny, this is version 2; give another"):
        sweep.go([sweep.run(0)])
    assert {f: f.read_bytes() for f in sweep.dir.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize("options", [{"workers": 0}, {"max_hours": 0.0}])
def test_options_without_sense_are_refused(sweep, options):
    with pytest.raises(InputError, match=next(iter(options))):
        sweep.go([sweep.run(0)], **options)


def test_a_file_in_place_of_the_folder_is_one_line(sweep):
    sweep.dir.write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written .*give a folder that can be written"):
        sweep.go([sweep.run(0)])
    assert sweep.dir.read_text() == "in the way"


def test_a_worker_that_cannot_write_stops_the_sweep_in_one_line(sweep):
    run = sweep.run(0)
    run_folder(sweep.dir, run.fingerprint).parent.mkdir(parents=True)
    run_folder(sweep.dir, run.fingerprint).write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\)|cannot be written \(File exists\)"):
        sweep.go([run])


def test_a_pool_whose_workers_keep_dying_says_so(sweep, monkeypatch):
    monkeypatch.setenv("PYTHONSTARTUP", "")
    monkeypatch.setattr(local.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="workers keep dying"):
        sweep.go([sweep.run(0)], workers=1)


def test_progress_with_the_time_left_is_told_all_along(sweep):
    seen = []
    sweep.go([sweep.run(i, secs=1.2) for i in range(6)], progress=seen.append)
    assert (seen[0].done, seen[0].total) == (0, 6)
    assert (seen[-1].done, seen[-1].running, seen[-1].eta_secs) == (6, 0, 0.0)
    assert any(s.running and s.eta_secs is not None for s in seen)
    assert [s.done for s in seen] == sorted(s.done for s in seen)


def test_the_planted_law_comes_back_without_noise(sweep):
    from unisc.sweep.plan import Run

    law = sweep.planted.Law(floor=0.3, A=5.0, alpha=0.4, B=7.0, beta=0.3)
    points = [(n, d) for n in (1000, 10000) for d in (2000, 20000)]
    configs = [sweep.planted.Config(law=law, num_params_dense=n, num_examples=d, seed=0, noise=0.0) for n, d in points]
    records = sweep.go([Run.of(sweep.planted, c, cost=1.0, label="planted") for c in configs])
    assert [r["metrics"]["eval/exposed/log_loss"] for r in records] == [law.loss(n, d) for n, d in points]
    assert [r["counts"]["num_params_dense"] for r in records] == [n for n, _ in points]


def test_importing_the_sweep_does_not_import_jax():
    code = (
        "import pkgutil, sys, importlib, unisc.sweep\n"
        "for m in pkgutil.walk_packages(unisc.sweep.__path__, 'unisc.sweep.'): importlib.import_module(m.name)\n"
        "print(sorted({n.split('.')[0] for n in sys.modules} & {'jax', 'jaxlib', 'flax', 'optax', 'orbax'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_child_that_has_grown_too_large_gives_way_to_a_fresh_one(sweep):
    runs = [sweep.run(0, cost=3.0, act="grow"), sweep.run(1, cost=2.0), sweep.run(2, cost=1.0)]
    pids = [record["counts"]["pid"] for record in sweep.go(runs, workers=1)]
    assert pids[0] != pids[1] == pids[2]
