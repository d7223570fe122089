"""Which environments are a cluster, and the roll call: who is missing or there twice is said in one line, in time."""

import socket
import threading
import time

import numpy as np
import pytest
from jax.experimental import multihost_utils

from unisc import distributed
from unisc.cluster import Cluster, call_roll, cluster_env, find_cluster
from unisc.distributed import agree
from unisc.errors import InputError

SLURM = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[3-6]", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, "explicit"),
        (SLURM, "slurm"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"OMPI_MCA_orte_hnp_uri": "0;tcp://h:1", "OMPI_COMM_WORLD_SIZE": "2"}, "openmpi"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, "kubernetes"),
    ],
)
def test_only_several_cooperating_processes_are_a_cluster(environ, expected):
    assert cluster_env(environ) == expected


def cluster(index, count, port):
    return Cluster(coordinator=f"localhost:{port}", num_processes=count, process_id=index)


def test_what_is_given_goes_before_the_environment():
    environ = {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "8", "JAX_PROCESS_ID": "3"}
    found = find_cluster(environ=environ)
    assert found is not None and (found.coordinator, found.num_processes, found.process_id) == ("host:1", 8, 3)
    found = find_cluster("other:2", 4, 1, environ=environ)
    assert found is not None and (found.coordinator, found.num_processes, found.process_id) == ("other:2", 4, 1)
    assert find_cluster(environ={}) is None
    assert find_cluster("host:1", 1, 0, environ={}) is None, "one process is on its own"


def test_a_slurm_step_is_found_by_jax(monkeypatch):
    for name, value in (SLURM | STEP).items():
        monkeypatch.setenv(name, value)
    found = find_cluster()
    assert found is not None and (found.num_processes, found.process_id, found.local_device_ids) == (4, 2, (0,))
    assert found.coordinator.startswith("node3:")


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (("host", 2, 0), {}, "coordinator 'host': not an address; give HOST:PORT"),
        (("host:1", 2, 2), {}, "--process-id 2: give one from 0 to 1"),
        (("host:1", 0, 0), {}, "--processes 0: give at least 1"),
        (("host:1", None, None), {}, "no number .*place"),
        ((None, 2, 0), {}, "give --coordinator HOST:PORT"),
        ((), {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two': not a whole number"),
        ((), SLURM, "slurm cluster: no address .*srun"),  # a batch script of four tasks, started without srun
    ],
)
def test_a_cluster_that_is_not_understood_is_one_line(arguments, environ, message):
    with pytest.raises(InputError, match=message) as e:
        find_cluster(*arguments, environ=environ)
    assert "\n" not in str(e.value)


@pytest.fixture
def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def roll(members, *, join_secs=20.0, facts=None):
    """Let members (index, count) call at once; return what each was told, None if all is well."""
    told = {}

    def call(place, index, count, port):
        try:
            call_roll(cluster(index, count, port), join_secs=join_secs, facts=(facts or {}).get(index, {}))
            told[place] = None
        except InputError as e:
            told[place] = str(e)

    threads = [threading.Thread(target=call, args=(i, *member)) for i, member in enumerate(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [told[i] for i in range(len(members))]


def test_all_are_there_whoever_comes_first(port):
    assert roll([(3, 4, port), (1, 4, port), (0, 4, port), (2, 4, port)]) == [None] * 4


def test_who_is_missing_is_named_in_time(port):
    began = time.monotonic()
    told = roll([(0, 4, port), (2, 4, port)], join_secs=2.0)
    assert told[0] == told[1] or told[1].startswith("coordinator")
    assert told[0].startswith("cluster: of 4 processes 1, 3 did not call within 2 s; start all")
    assert time.monotonic() - began < 15


def test_a_coordinator_that_is_not_there(port):
    (told,) = roll([(1, 2, port)], join_secs=0.5)
    assert told == (
        f"coordinator localhost:{port}: no answer to process 1 within 0.5 s; start process 0 there, and see that the port is"
        " open"
    )


def test_a_process_id_given_twice(port):
    told = roll([(0, 3, port), (1, 3, port), (1, 3, port)])
    assert told == ["process id 1: given to two processes; number them from 0 to 2"] * 3


def test_two_numbers_of_processes(port):
    told = roll([(0, 2, port), (1, 3, port)])
    assert told == ["processes: 2 by process 0, 3 by process 1; give all the same number"] * 2


def test_a_second_process_0_on_a_host(port):
    with socket.create_server(("127.0.0.1", port)), pytest.raises(InputError, match=f"port {port}: cannot be listened on"):
        call_roll(cluster(0, 2, port), join_secs=5)


def test_a_stranger_on_the_port_is_not_counted(port):
    def disturb():
        for _ in range(50):
            try:
                with socket.create_connection(("localhost", port), timeout=1) as s:
                    s.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return
            except OSError:
                time.sleep(0.05)

    stranger = threading.Thread(target=disturb)
    stranger.start()
    told = []
    leader = threading.Thread(target=lambda: told.extend(roll([(0, 2, port)])))
    leader.start()
    stranger.join()
    call_roll(cluster(1, 2, port), join_secs=20, facts={})
    leader.join()
    assert told == [None]


def test_other_versions_are_warned_about(port):
    with pytest.warns(UserWarning, match="jax: 1 on process 0, 2 on process 1; install one version on all hosts"):
        assert (
            roll([(0, 2, port), (1, 2, port)], facts={0: {"jax": "1", "numpy": "3"}, 1: {"jax": "2", "numpy": "3"}})[1] is None
        )


def test_facts_that_differ_are_named(monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)

    def gather(sent, other):
        row = np.frombuffer(other.ljust(len(sent)), np.uint8)
        return np.stack([sent, row])

    for other, message in ((b'{"run":"b"}', "run: a on process 0, b on process 1"), (b'{"run":"a","x":1}', "other programs")):
        monkeypatch.setattr(multihost_utils, "process_allgather", lambda sent, other=other: gather(sent, other))
        with pytest.raises(InputError, match=message):
            agree({"run": "a"})
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda sent: np.stack([sent, sent]))
    agree({"run": "a"})
