"""Ray for real: a local cluster without dashboard, of eight processors that it only counts, started and ended here."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from unisc.errors import InputError
from unisc.sweep.launch import ray as engine
from unisc.sweep.profile import Profile
from unisc.sweep.record import read_records
from unisc.sweep.status import summary

HERE = Path(__file__).parent
PROFILE = Profile(platform="cpu", device="cpu", memory_gib_per_host=0.25)


def start(folder: Path) -> tuple[subprocess.Popen, str]:
    """Start a head node on a free port and return it with its address."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=8"]
    command += ["--include-dashboard=false", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += [f"--temp-dir={folder / 'd'}", "--disable-usage-stats", "--object-store-memory=100000000"]
    with (folder / "out.txt").open("ab") as out:
        head = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
    return head, f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster's address."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # paths of its sockets must be short
    patch = pytest.MonkeyPatch()
    (folder / "token").write_text(os.urandom(32).hex())
    patch.setenv("RAY_AUTH_MODE", "token")  # before the import, which settles how to talk to clusters
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install unisc[ray])")
    patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
    head, address = start(folder)
    try:
        deadline = time.monotonic() + 90
        while not ray.is_initialized():
            assert time.monotonic() < deadline, f"Ray does not start here: {(folder / 'out.txt').read_text()[-2000:]}"
            time.sleep(0.5)
            if head.poll() is not None:  # another process may have taken one of its ports between choosing and use
                head, address = start(folder)
            with suppress(InputError):
                engine.connect(address)
        yield address
    finally:
        ray.shutdown()
        head.terminate()
        try:
            head.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def workers(sweep):
    from sweep_experiments import workers as module

    yield module
    module.wait_until(lambda: module.pids(sweep.dir) == [], 10)


@pytest.mark.parametrize("sizes", [(30, 4, 6), pytest.param((200, 8, 40), marks=pytest.mark.slow)], ids=str)
def test_killed_workers_lose_and_repeat_nothing(cluster, sweep, workers, load_file, sizes):
    torture = load_file(HERE.parents[1] / "benchmarks" / "torture.py")
    workers.race(engine, torture, sweep, PROFILE, **dict(zip(("points", "workers", "kills"), sizes, strict=True)))


def test_an_actor_that_dies_is_begun_again_and_its_worker_ends_with_it(cluster, sweep, workers):
    workers.prepare(sweep, [sweep.run(i, secs=1.5) for i in range(2)], num_workers=1)
    [name] = engine.submit(sweep.dir, workers=1, profile=PROFILE, address=cluster)
    workers.wait_until(lambda: sweep.executions() and workers.pids(sweep.dir), 30)
    [worker] = workers.pids(sweep.dir)
    os.kill(int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)  # its actor
    workers.wait_until(lambda: worker not in workers.pids(sweep.dir), 20)
    workers.wait_until(lambda: not engine.alive([name]), 40)
    assert len(read_records(sweep.dir)) == 2
    assert sorted(sweep.executions("end")) == [0, 1]


def test_cancelled_workers_release_their_runs(cluster, sweep, workers):
    workers.prepare(sweep, [sweep.run(i, secs=60.0) for i in range(4)], num_workers=3)
    half = dataclasses.replace(PROFILE, cores_per_host=4)
    names = engine.submit(sweep.dir, workers=3, profile=half, address=cluster)  # one of them has to wait for room
    workers.wait_until(lambda: len(sweep.executions()) == 2, 30)
    assert engine.alive(names) == names
    engine.cancel(names)
    assert engine.alive(names) == []
    workers.wait_until(lambda: not workers.pids(sweep.dir), 10)
    now = summary(sweep.dir)
    assert (now.running, now.pending, now.failed) == (0, 4, 0)


def test_what_no_node_can_give_is_refused(cluster, sweep):
    with pytest.raises(InputError, match=r"^ray: the profile wants 8 GPU a worker and the largest node has 0; "):
        engine.submit(
            sweep.dir, workers=1, profile=Profile(platform="cuda", device="a100", devices_per_worker=8, memory_gib_per_host=0.1)
        )
    with pytest.raises(InputError, match=r"^ray: the profile wants 1 here a worker"):
        engine.submit(sweep.dir, workers=1, profile=Profile(platform="cpu", device="cpu", ray={"here": 1.0}))


def test_bad_input_is_one_line(sweep, monkeypatch):
    with pytest.raises(InputError, match=r"^workers: 0 is fewer than 1; "):
        engine.submit(sweep.dir, workers=0, profile=PROFILE)
    many = Profile(platform="cpu", device="cpu", devices_per_worker=2, hosts_per_worker=2)
    with pytest.raises(InputError, match=r"^profile: hosts_per_worker is more than 1"):
        engine.submit(sweep.dir, workers=1, profile=many)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^ray: not installed; type pip install unisc\[ray\]$"):
        engine.submit(sweep.dir, workers=1, profile=PROFILE)


NOBODY = """
import sys
from unisc.errors import InputError
from unisc.sweep.launch import ray
try:
    ray.connect(sys.argv[1])
except InputError as e:
    print(e)
"""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_an_address_without_a_cluster_is_one_line(address):
    pytest.importorskip("ray", reason="Ray is not installed (pip install unisc[ray])")
    done = subprocess.run([sys.executable, "-c", NOBODY, address], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"ray: no cluster at {address} (")
    assert done.stdout.endswith("; start one with ray start --head, or set RAY_ADDRESS to one\n")
    assert done.stdout.count("\n") == 1
