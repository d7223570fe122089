import os
import subprocess
import sys
from pathlib import Path

import pytest

from unisc.files import dumps
from unisc.sweep import lease as le
from unisc.sweep.lease import Observer, process_started

FOREIGN = {"nonce": "theirs", "counter": 1, "released": False, "machine": "elsewhere", "pid": 1, "process_started": 1}


@pytest.fixture
def clock(monkeypatch):
    """The observer's own clock, moved by hand."""
    now = [1000.0]
    monkeypatch.setattr(le.time, "monotonic", lambda: now[0])
    return now


def plant(folder: Path, number: int = 1, **changes: object) -> Path:
    path = folder / "lease" / f"{number:06d}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps({**FOREIGN, **changes}))
    return path


def test_a_run_is_claimed_once_until_it_is_released(tmp_path):
    mine = Observer(stale_secs=60).claim(tmp_path)
    assert mine is not None
    assert Observer(stale_secs=60).claim(tmp_path) is None
    assert Observer(stale_secs=60).look(tmp_path) == (1, "alive")
    mine.release()
    second = Observer(stale_secs=60).claim(tmp_path)
    assert second is not None
    assert mine.is_lost() and not mine.beat()
    assert second.beat()


def test_a_finished_run_leaves_no_claims(tmp_path):
    mine = Observer(stale_secs=60).claim(tmp_path)
    assert mine is not None
    mine.finish()
    assert list(tmp_path.iterdir()) == []
    mine.finish()
    mine.release()
    assert Observer(stale_secs=60).look(tmp_path) == (0, "free")


def test_a_foreign_lease_is_stale_only_after_this_observer_has_watched_it_long_enough(tmp_path, clock):
    plant(tmp_path)
    watcher = Observer(stale_secs=60)
    assert watcher.look(tmp_path) == (1, "unknown")
    clock[0] += 59
    assert watcher.claim(tmp_path) is None
    assert Observer(stale_secs=60).look(tmp_path) == (1, "unknown"), "a newcomer has seen nothing yet"
    clock[0] += 1
    assert watcher.look(tmp_path) == (1, "stale")
    taken = watcher.claim(tmp_path)
    assert taken is not None and taken.number == 2


def test_each_beat_starts_the_waiting_anew_whatever_its_clock_says(tmp_path, clock):
    watcher = Observer(stale_secs=60)
    for counter in range(1, 5):
        path = plant(tmp_path, counter=counter)
        os.utime(path, (0, 0))  # the other machine believes it is 1970
        assert watcher.look(tmp_path)[1] == ("unknown" if counter == 1 else "alive")
        clock[0] += 59
    assert watcher.look(tmp_path)[1] == "unknown"


def test_a_dead_process_of_this_machine_is_stale_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = {"machine": le.machine(), "pid": process.pid, "process_started": process_started(process.pid)}
    plant(tmp_path, **here)
    watcher = Observer(stale_secs=60)
    assert watcher.look(tmp_path)[1] == "alive"
    process.communicate(b"\n")
    assert watcher.look(tmp_path)[1] == "stale"


def test_a_reused_process_id_is_not_taken_for_the_owner(tmp_path):
    started = process_started(os.getpid())
    assert started is not None
    plant(tmp_path, machine=le.machine(), pid=os.getpid(), process_started=started - 1)
    assert Observer(stale_secs=60).look(tmp_path)[1] == "stale"


def test_an_empty_claim_is_watched_like_any_other(tmp_path, clock):
    plant(tmp_path).write_text("")  # its writer was killed between creating and writing
    watcher = Observer(stale_secs=60)
    assert watcher.claim(tmp_path) is None
    clock[0] += 60
    assert watcher.claim(tmp_path) is not None


def test_eight_processes_racing_for_one_stale_lease_yield_one_owner(tmp_path):
    code = (
        "import sys; from pathlib import Path; from unisc.sweep.lease import Observer\n"
        "watcher = Observer(stale_secs=0.0); folder = Path(sys.argv[1]); watcher.look(folder)\n"
        "print('ready', flush=True); input()\n"
        "print('won' if watcher.claim(folder) else 'lost', flush=True); input()"  # a winner that has ended may be followed
    )
    plant(tmp_path)
    command = [sys.executable, "-c", code, str(tmp_path)]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    outcomes = []
    for said in ("ready", "claimed"):
        lines = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
        outcomes = lines if said == "claimed" else []
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
    for racer in racers:
        racer.communicate()
    assert sorted(outcomes) == ["lost"] * 7 + ["won"]


def test_a_full_disk_still_frees_the_run(tmp_path, monkeypatch):
    mine = Observer(stale_secs=60).claim(tmp_path)
    assert mine is not None

    def full(*args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    assert mine.beat()
    mine.release()
    monkeypatch.undo()
    assert Observer(stale_secs=60).look(tmp_path) == (0, "free")
