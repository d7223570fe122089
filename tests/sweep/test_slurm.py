"""Slurm for real where it is installed: a cluster of this machine alone, on the loopback interface, started and ended here."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unisc.errors import InputError
from unisc.sweep.launch import slurm
from unisc.sweep.profile import Profile
from unisc.sweep.record import read_record, read_records
from unisc.sweep.status import summary

HERE = Path(__file__).parent
PROFILE = Profile(platform="cpu", device="cpu", memory_gib_per_host=0.25, minutes=10)
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")

CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A controller and one node on the loopback interface; gives the node's name."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} on this machine (Debian: slurm-wlm, munge)")
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    user = ask("id", "-un")
    configuration.write_text(CONFIGURATION.format(folder=folder, host=host, user=user, ports=free_ports(2)))
    socket_path, munge = folder / "munge.sock", ["munged", "--foreground", "--force", f"--key-file={key}"]
    munge += [f"--socket={socket_path}", f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log"]
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", path)
    patch.setenv("SLURM_CONF", str(configuration))
    started = []

    def start(*command: str) -> None:
        with (folder / f"{command[0]}.out").open("ab") as out:
            started.append(subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL))

    try:
        start(*munge, f"--seed-file={folder}/munge.seed")
        deadline = time.monotonic() + 20
        while not socket_path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", host)
        while subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False).stdout.strip() != "idle":
            if time.monotonic() > deadline:
                words = [line for log in sorted(folder.glob("*.log")) for line in log.read_text().splitlines()[-1:]]
                pytest.skip(f"slurmd does not start on this machine: {' | '.join(words)}")
            time.sleep(0.1)
        yield host
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        patch.undo()


def begin_again(ids: list[str]) -> None:
    """Once tasks are queued again, let them start soon; Slurm waits two minutes, and within a second refuses its own leave."""
    deadline = time.monotonic() + 20
    while {ask("squeue", "-h", "--array", "-o", "%T", f"--jobs={name}") for name in ids} != {"PENDING"}:
        assert time.monotonic() < deadline, "not queued again"
        time.sleep(0.1)
    for name in ids:
        ask("scontrol", "update", f"jobid={name}", "starttime=now+3")


@pytest.fixture
def workers(sweep):
    from sweep_experiments import workers as module

    yield module
    assert module.pids(sweep.dir) == []


@pytest.mark.parametrize("sizes", [(30, 4, 6), pytest.param((200, 8, 40), marks=pytest.mark.slow)], ids=str)
def test_killed_workers_lose_and_repeat_nothing(cluster, sweep, workers, load_file, sizes):
    torture = load_file(HERE.parents[1] / "benchmarks" / "torture.py")
    workers.race(slurm, torture, sweep, PROFILE, **dict(zip(("points", "workers", "kills"), sizes, strict=True)))


def test_a_drained_node_gives_its_runs_back_and_the_job_continues_when_requeued(cluster, sweep, workers):
    workers.prepare(sweep, [sweep.run(i, secs=3.0) for i in range(3)], num_workers=2)
    ids = slurm.submit(sweep.dir, workers=2, profile=PROFILE)
    workers.wait_until(lambda: len(sweep.executions()) >= 2, 20)
    ask("scontrol", "update", f"nodename={cluster}", "state=drain", "reason=test")
    ask("scontrol", "requeue", *ids[:1])
    ask("scontrol", "requeue", *ids[1:])
    workers.wait_until(lambda: not workers.pids(sweep.dir), 20)
    assert slurm.alive(ids) == ids  # they wait for the node
    now = summary(sweep.dir)
    assert (now.running, now.failed, now.done + now.pending) == (0, 0, 3)
    ask("scontrol", "update", f"nodename={cluster}", "state=resume")
    begin_again(ids)
    workers.wait_until(lambda: len(read_records(sweep.dir)) == 3, 40)
    workers.wait_until(lambda: not slurm.alive(ids), 20)
    assert sorted(set(sweep.executions("end"))) == sorted(sweep.executions("end")) == [0, 1, 2]


@pytest.mark.parametrize("hosts", [1, 2])
def test_a_task_told_that_its_time_is_up_requeues_itself(cluster, sweep, workers, hosts):
    profile = dataclasses.replace(PROFILE, hosts_per_worker=hosts, devices_per_worker=hosts, slurm={"nodes": "1"})
    workers.prepare(sweep, [sweep.run(0, secs=2.0)], num_workers=1)
    ids = slurm.submit(sweep.dir, workers=1, profile=profile)  # for two hosts by srun, though on the one node there is
    workers.wait_until(lambda: sweep.executions() == [0], 20)
    ask("scancel", "--batch", "--signal=TERM", *ids)  # what --signal=B:TERM sends before the limit
    workers.wait_until(lambda: not workers.pids(sweep.dir), 20)
    [status] = sweep.dir.glob("runs/*/status.json")
    assert json.loads(status.read_text())["state"] == "pending"  # the worker has had time to say so
    begin_again(ids)
    workers.wait_until(lambda: not slurm.alive(ids), 30)
    assert len(read_records(sweep.dir)) == 1
    assert sweep.executions("end") == [0]


def test_a_cancelled_task_releases_its_run_and_stays_cancelled(cluster, sweep, workers):
    workers.prepare(sweep, [sweep.run(0, secs=60.0)], num_workers=2)
    ids = slurm.submit(sweep.dir, workers=1, profile=PROFILE)
    workers.wait_until(lambda: sweep.executions() == [0], 20)
    slurm.cancel(ids)
    workers.wait_until(lambda: not slurm.alive(ids), 20)
    workers.wait_until(lambda: not workers.pids(sweep.dir), 10)
    now = summary(sweep.dir)
    assert (now.running, now.pending, now.failed) == (0, 1, 0)
    assert slurm.alive(["999999_0"]) == []


def test_what_slurm_refuses_is_one_line_in_its_words(cluster, sweep):
    gpus = Profile(platform="cuda", device="a100", memory_gib_per_host=0.25)
    with pytest.raises(InputError, match=r"^slurm: sbatch refused \(.*gres.*\); change") as caught:
        slurm.submit(sweep.dir, workers=1, profile=gpus)
    assert "\n" not in str(caught.value)
    elsewhere = Profile(platform="cpu", device="cpu", slurm={"partition": "nowhere"})
    with pytest.raises(InputError, match="nowhere"):
        slurm.submit(sweep.dir, workers=1, profile=elsewhere)


def test_a_machine_without_slurm_and_bad_input_are_one_line(sweep, monkeypatch):
    monkeypatch.setenv("PATH", str(sweep.data))
    with pytest.raises(InputError, match=r"^slurm: no sbatch on this machine; "):
        slurm.submit(sweep.dir, workers=1, profile=PROFILE)
    with pytest.raises(InputError, match=r"^workers: 0 is fewer than 1; "):
        slurm.submit(sweep.dir, workers=0, profile=PROFILE)
    for table, line in (({"array": "0-3"}, "slurm.array is what"), ({"a\nb": "c"}, "no option of sbatch")):
        with pytest.raises(InputError, match=line):
            slurm.submit(sweep.dir, workers=1, profile=Profile(platform="cpu", device="cpu", slurm=table))
    assert not sweep.dir.exists()


def test_the_script_asks_for_what_the_profile_says(tmp_path):
    profile = Profile(
        platform="cuda",
        device="h100",
        devices_per_worker=16,
        hosts_per_worker=2,
        cores_per_host=12,
        memory_gib_per_host=64,
        minutes=90,
        slurm={"partition": "gpu", "exclusive": "", "time": "3:00:00", "comment": "two words"},
    )
    lines = slurm.script(tmp_path / "my sweep", workers=4, profile=profile).splitlines()
    assert lines[0] == "#!/bin/bash"
    for line in (
        "array=0-3",
        "nodes=2",
        "gpus-per-node=8",
        "cpus-per-task=12",
        "mem=65536M",
        "requeue",
        "time=3:00:00",
        "signal=B:TERM@120",
        "partition=gpu",
        "exclusive",
        "comment='two words'",
    ):
        assert f"#SBATCH --{line}" in lines
    assert lines[-1].startswith(f"exec {sys.executable} -m unisc.sweep.launch.slurm --sweep '{tmp_path}/my sweep' ")
    assert lines[-1].endswith("--platform cuda --devices 8 --threads 12 --hosts 2")


def test_a_task_on_a_node_without_its_gpus_says_so_and_ends(sweep, tmp_path):
    if list(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists():
        pytest.skip("this machine has GPUs")
    command = [
        sys.executable,
        "-m",
        "unisc.sweep.launch.slurm",
        "--sweep",
        str(tmp_path),
        "--platform",
        "cuda",
        "--devices",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "profile: wants 2 GPUs and this machine has 0; give a profile of this machine\n",
    )
    assert read_record(tmp_path, "none") is None
