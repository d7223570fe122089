"""The truth plane on every kind of store: claims, records and plans behave the same, and half a record is none."""

import os
import subprocess
import sys
import threading

import pytest
from obstore.store import LocalStore, MemoryStore

from unisc.config import Runtime
from unisc.errors import InputError
from unisc.sweep import worker as work
from unisc.sweep.board import Board
from unisc.sweep.lease import Observer
from unisc.sweep.order import Queue, claim_order
from unisc.sweep.plan import read_plan, run_store, write_plan
from unisc.sweep.record import parse_record, parse_secs, quarantine_broken, read_record, read_status, write_record
from unisc.sweep.settings import Settings, write_settings
from unisc.sweep.status import Monitor
from unisc.sweep.store import Folder, ObjectStore, store_of

PREFIXES = ("sweep_experiments.",)


@pytest.fixture(params=["folder", "memory", "local objects"])
def store(request, tmp_path):
    """Each implementation: files, and objects by two of obstore's stores."""
    root = tmp_path / "truth"
    root.mkdir()
    if request.param == "folder":
        return Folder(root)
    return ObjectStore(MemoryStore() if request.param == "memory" else LocalStore(root))


def test_texts_are_created_once_replaced_listed_and_removed(store):
    inner = store.at("runs/0123")
    assert inner.read("a") is None and inner.names() == [] and store.names("runs") == []
    assert inner.create("a", "one") and not inner.create("a", "two") and inner.read("a") == b"one"
    inner.replace("a", "three")
    inner.replace("lease/000001", "x", durable=True)
    assert store.read("runs/0123/a") == b"three"
    assert (inner.names(), inner.names("lease"), store.names("runs")) == (["a", "lease"], ["000001"], ["0123"])
    assert list(store.read_many(["runs/0123/a", "nothing"])) == [b"three", None]
    inner.remove("lease")
    inner.remove("lease")
    inner.remove("a")
    assert inner.names() == []
    assert store.show("b").endswith("/b")


def test_of_many_creators_one_wins(store):
    won = []
    gate = threading.Barrier(8)

    def create(index):
        gate.wait()
        if store.create("claim", f"by {index}", durable=False):
            won.append(index)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and store.read("claim") == f"by {won[0]}".encode()


def test_a_runs_life_is_the_same_on_every_store(store, sweep):
    run, other = write_plan(store, [sweep.run(0), sweep.run(1)], prefixes=PREFIXES)
    assert read_plan(store) == [run, other]
    own = run_store(store, run.fingerprint)
    lease = Observer(stale_secs=60).claim(own)
    assert lease is not None and Observer(stale_secs=60).claim(own) is None
    assert lease.beat()
    assert write_record(store, run, {"metrics": {"x": 1.0}, "timing": {"wall_secs": 2.5}})
    assert not write_record(store, run, {"metrics": {"x": 2.0}})
    lease.finish()
    assert Observer(stale_secs=60).look(own) == (0, "free")
    monitor = Monitor(sweep.dir, [run, other], _store=store)
    assert monitor.look().done == 1 and monitor.finished == {run.fingerprint: 2.5}
    record = read_record(store, run.fingerprint)
    assert record is not None and (record["metrics"], record["secs"], record["schema"]) == ({"x": 1.0}, 2.5, 2)


def test_a_record_cut_at_any_byte_or_with_any_byte_changed_is_none_and_is_redone(store, sweep):
    [run] = write_plan(store, [sweep.run(0)], prefixes=PREFIXES)
    own = run_store(store, run.fingerprint)
    write_record(store, run, {"metrics": {"x": 1.0}, "timing": {"wall_secs": 2.5}})
    whole = own.read("record.json")
    assert whole is not None and parse_record(whole, own, run.fingerprint)
    for size in range(len(whole)):
        for text in (whole[:size], whole[:size] + b"\0" * (len(whole) - size)):
            assert parse_record(text, own, run.fingerprint) is None, size
            assert parse_secs(text, own, run.fingerprint) is None, size
    for place in range(len(whole)):
        text = whole[:place] + (b"1" if whole[place : place + 1] != b"1" else b"0") + whole[place + 1 :]
        try:
            assert parse_record(text, own, run.fingerprint) is None, place
        except InputError as e:
            assert "schema version" in str(e)  # the digit of the schema itself
    own.replace("record.json", whole[:-1].decode())
    assert read_record(store, run.fingerprint) is None
    assert quarantine_broken(store, run.fingerprint)
    assert own.names() == ["record.json.broken-1"]


def test_a_record_of_a_newer_schema_is_one_line_and_an_older_one_is_read(store, sweep):
    [run] = write_plan(store, [sweep.run(0)], prefixes=PREFIXES)
    own = run_store(store, run.fingerprint)
    own.create(
        "record.json", f'{{"schema": 1, "fingerprint": "{run.fingerprint}", "metrics": {{}}, "timing": {{"wall_secs": 3}}}}'
    )
    assert read_record(store, run.fingerprint) is not None
    assert Monitor(sweep.dir, [run], _store=store).look().done == 1
    own.replace("record.json", '{"schema": 9, "anything": 1}')
    for look in (lambda: read_record(store, run.fingerprint), lambda: Monitor(sweep.dir, [run], _store=store).look()):
        with pytest.raises(InputError, match=r"schema version 9, this program reads 2; update the program"):
            look()


def test_workers_meet_in_an_object_store(sweep, tmp_path):
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    url = f"file://{bucket}"
    sweep.dir.mkdir()
    write_plan(store_of(url), [sweep.run(i) for i in range(12)], prefixes=PREFIXES)
    write_settings(
        Settings(
            sweep_dir=str(sweep.dir), runtime=sweep.runtime, prefixes=PREFIXES, store=url, num_workers=3, heartbeat_secs=0.2
        )
    )
    command = [sys.executable, "-m", "unisc.sweep.worker", "--sweep", str(sweep.dir)]
    workers = [subprocess.Popen(command) for _ in range(3)]
    assert {worker.wait(60) for worker in workers} == {work.EXIT_NOTHING_LEFT}
    assert sorted(sweep.executions()) == list(range(12))
    assert len(list(bucket.glob("runs/*/record.json"))) == 12 and not list(sweep.dir.glob("runs/*/record.json"))
    assert not list(bucket.glob("runs/*/lease/*"))


def test_a_vanished_folder_is_one_line_and_is_not_made_again(tmp_path):
    with pytest.raises(InputError, match="gone: the folder has vanished; bring it back"):
        Folder(tmp_path / "gone").create("runs/0/record.json", "x")
    assert not (tmp_path / "gone").exists()


def test_a_lost_answer_of_the_file_system_is_not_taken_for_anothers_claim(tmp_path, monkeypatch):
    link = os.link

    def link_and_forget(*args, **kwargs):
        link(*args, **kwargs)
        raise FileExistsError  # as NFS does when it is asked again

    monkeypatch.setattr(os, "link", link_and_forget)
    assert Folder(tmp_path).create("claim", "mine")


def test_a_jump_of_the_clock_neither_kills_nor_keeps_a_claim(sweep, monkeypatch):
    [run] = write_plan(sweep.data, [sweep.run(0)], prefixes=PREFIXES)
    own = run_store(sweep.data, run.fingerprint)
    own.create("lease/000001", '{"nonce": "theirs", "counter": 1, "released": false, "machine": "elsewhere", "pid": 1}')
    watcher = Observer(stale_secs=60)
    assert watcher.look(own)[1] == "unknown"
    for now in (4e9, 1.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        assert watcher.look(own)[1] == "unknown" and watcher.claim(own) is None


def test_the_queue_gives_runs_in_claim_order(sweep):
    runs = [sweep.run(i, cost=float(i * 7 % 11), compile_key=str(i % 4)) for i in range(40)]
    failures = {run.fingerprint: i % 5 == 0 for i, run in enumerate(runs)}
    queue, waiting = Queue(runs, failures), list(runs)
    keys = {"num_workers": 3, "warm_keys": {"1"}, "begun_keys": {"1", "2"}}
    while waiting:
        expected = claim_order(waiting, failures=failures, **keys)[0]
        assert queue.best(**keys) == expected
        queue.remove(expected)
        waiting.remove(expected)
    assert queue.best(**keys) is None


def test_a_failed_run_waits_longer_each_time_and_a_failed_one_for_good_is_left(sweep, monkeypatch):
    from unisc.sweep.record import write_status

    runs = write_plan(sweep.data, [sweep.run(0)], prefixes=PREFIXES)
    now = [100.0]
    monkeypatch.setattr("unisc.sweep.board.time.monotonic", lambda: now[0])
    settings = Settings(sweep_dir=str(sweep.data), runtime=Runtime(work_dir="", data_dir=""), backoff_secs=3.0)
    board = Board(store=store_of(sweep.data), runs=runs, settings=settings)
    for failures, wait in ((1, 3.0), (2, 6.0), (3, 12.0)):
        write_status(sweep.data, runs[0].fingerprint, "pending", failures=failures)
        board.look(now=True)
        now[0] += wait - 0.1
        board.look(now=True)
        assert board.next(set()) is None
        now[0] += 0.2
        board.look(now=True)
        assert board.next(set()) == runs[0]
    write_status(sweep.data, runs[0].fingerprint, "failed", failures=4)
    board.look(now=True)
    assert not board.waiting


def test_a_run_whose_workers_keep_dying_is_given_up(sweep):
    from unisc.sweep.attempt import claimed
    from unisc.sweep.record import write_status

    [run] = write_plan(sweep.data, [sweep.run(0)], prefixes=PREFIXES)
    lease = Observer(stale_secs=60).claim(run_store(sweep.data, run.fingerprint))
    for died in range(3):
        write_status(sweep.data, run.fingerprint, "running", takeovers=died)
        claim = claimed(store_of(sweep.data), run, lease, max_takeovers=2)
        assert (claim is None) == (died == 2)
    status = read_status(sweep.data, run.fingerprint)
    assert status["state"] == "failed" and status["error"].startswith("3 workers died with it")
