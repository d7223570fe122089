"""Hosts that train one run together: one claims, all execute; whoever dies, no run is lost and none recorded twice."""

import os
import signal
import subprocess
import sys
import time

import pytest

from unisc.errors import InputError
from unisc.sweep import worker as work
from unisc.sweep.follow import follow
from unisc.sweep.group import Leader, Place, place_of
from unisc.sweep.plan import Run, run_folder, write_plan
from unisc.sweep.record import read_record, read_status
from unisc.wire import accept, dial, listen

PREFIXES = ("sweep_experiments.",)
TIMEOUT = 180


def start_host(sweep, rank, *, hosts=2):
    settings = work.Settings(
        sweep_dir=str(sweep.dir), runtime=sweep.runtime, prefixes=PREFIXES, hosts_per_worker=hosts, heartbeat_secs=0.5
    )
    work.write_settings(settings)
    environ = os.environ | {"UNISC_GROUP": "g", "UNISC_GROUP_RANK": str(rank), "UNISC_GROUP_HOST": "localhost"}
    return subprocess.Popen([sys.executable, "-m", "unisc.sweep.worker", "--sweep", str(sweep.dir)], env=environ)


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def plan(sweep):
    from sweep_experiments import together

    def make(**changes):
        configs = [together.Config(index=i, **changes.get(f"run{i}", {})) for i in range(2)]
        runs = [Run.of(together, c, cost=2.0 - c.index, label=f"together {c.index}", compile_key="") for c in configs]
        sweep.dir.mkdir(exist_ok=True)
        return write_plan(sweep.dir, runs, prefixes=PREFIXES)

    return make


@pytest.fixture
def hosts():
    started = []
    yield started
    for host in started:
        host.kill()
        host.wait()


def records_of(sweep, runs):
    found = [read_record(sweep.dir, run.fingerprint) for run in runs]
    assert None not in found, [read_status(sweep.dir, run.fingerprint) for run in runs]
    return found


def executed(sweep, rank):
    path = sweep.data / f"ranks-{rank}.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_is_claimed_once_and_executed_by_all(sweep, plan, hosts):
    runs = plan(run0={"dies": 1})  # the second host's process dies in the first attempt
    hosts += [start_host(sweep, rank) for rank in range(2)]
    assert [host.wait(TIMEOUT) for host in hosts] == [0, 0]
    records = records_of(sweep, runs)
    assert [r["metrics"]["eval/sum"] for r in records] == [1.0, 1.0]
    assert [r["counts"]["processes"] for r in records] == [2, 2]
    assert [r["attempts"] for r in records] == [2, 1]
    for rank in range(2):
        assert sorted(index for index, _ in executed(sweep, rank)) == ["0", "0", "1"]
        pids = [pid for _, pid in executed(sweep, rank)]
        assert pids[0] != pids[1] == pids[2], "a process that lives serves run after run, all of them anew after a death"
    assert (run_folder(sweep.dir, runs[0].fingerprint) / "log-1.txt").exists()
    assert not list(sweep.dir.glob("runs/*/lease"))


@pytest.mark.slow
def test_a_follower_that_is_killed_is_waited_for_and_a_leader_that_is_killed_ends_all(sweep, plan, hosts):
    runs = plan(run0={"secs": 5.0})
    hosts += [start_host(sweep, rank) for rank in range(2)]
    wait_until(lambda: executed(sweep, 1))
    hosts[1].kill()
    wait_until(lambda: read_status(sweep.dir, runs[0].fingerprint)["failures"] == 1)
    assert "host 1 of the group is gone" in read_status(sweep.dir, runs[0].fingerprint)["error"]
    hosts.append(start_host(sweep, 1))
    wait_until(lambda: [index for index, _ in executed(sweep, 1)].count("0") == 2)
    hosts[0].kill()
    assert hosts[2].wait(TIMEOUT) == work.EXIT_INTERRUPTED

    hosts += [start_host(sweep, rank) for rank in range(2)]
    assert [host.wait(TIMEOUT) for host in hosts[3:]] == [0, 0]
    records = records_of(sweep, runs)
    assert [r["metrics"]["eval/sum"] for r in records] == [1.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_whichever_host_is_told_to_stop_all_do_and_the_run_is_released(sweep, plan, hosts, told):
    runs = plan(run0={"secs": 30.0})
    hosts += [start_host(sweep, rank) for rank in range(2)]
    wait_until(lambda: executed(sweep, 1))
    hosts[told].send_signal(signal.SIGTERM)
    assert [host.wait(TIMEOUT) for host in hosts] == [work.EXIT_INTERRUPTED] * 2
    status = read_status(sweep.dir, runs[0].fingerprint)
    assert (status["state"], status["failures"]) == ("pending", 0)


def test_a_follower_without_a_leader_and_a_leader_without_followers(tmp_path):
    place = Place(group="g", rank=1, size=2)
    with pytest.raises(InputError, match=r"group g: no leader at .*leader\.json within 0.3 s; start host 0 of the group"):
        follow(tmp_path, place, lambda: False, join_secs=0.3)
    leader = Leader(tmp_path, Place(group="g", rank=0, size=2), on_stop=lambda: None)
    assert not leader.ready(lambda: False, join_secs=0.3)
    leader.end(0)


def test_an_order_that_comes_with_the_welcome_is_heard():
    with listen() as server:
        theirs = dial("localhost", server.getsockname()[1], time.monotonic() + 5)
        ours = accept(server, 5.0)
    assert ours is not None and theirs is not None
    ours.send({"kind": "welcome"})
    ours.send({"kind": "start"})
    ours.send({"kind": "run"})
    assert theirs.hear_one(5.0) == {"kind": "welcome"}
    assert theirs.hear_one(5.0) == {"kind": "start"}
    assert theirs.hear(5.0) == [{"kind": "run"}]
    ours.close()
    assert theirs.hear(5.0) == [] and not theirs.is_open
    theirs.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"UNISC_GROUP": "a", "UNISC_GROUP_RANK": "1"}, ("a", 1)),
        ({"SLURM_PROCID": "5", "SLURM_JOB_ID": "77"}, ("slurm-77-1", 1)),
        ({"JOB_COMPLETION_INDEX": "6", "HOSTNAME": "sweep-6"}, ("sweep-1", 2)),
    ],
)
def test_where_a_host_is(environ, expected):
    found = place_of(4, environ)
    assert found is not None and (found.group, found.rank, found.size) == (*expected, 4)
    assert place_of(1, environ) is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "hosts_per_worker 4: this host has no place in a group; start it by srun or an indexed Job, or set UNISC_GROUP"),
        ({"UNISC_GROUP": "a"}, "place is not understood .*set UNISC_GROUP_RANK"),
        ({"UNISC_GROUP": "a", "UNISC_GROUP_RANK": "4"}, "group a: host 4 of 4; number them from 0 to 3"),
        ({"UNISC_GROUP": "../a", "UNISC_GROUP_RANK": "0"}, "not a name"),
    ],
)
def test_a_host_without_a_place_is_one_line(environ, message):
    with pytest.raises(InputError, match=message):
        place_of(4, environ)
