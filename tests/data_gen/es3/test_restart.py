"""A build that is killed continues where it was, and what it makes is what an undisturbed build makes."""

import signal
import subprocess
import sys
import time

import pytest

from data_gen.es3 import ES3Config, build, build_all
from data_gen.es3.workplace import workplace

MODULE = sys.modules["data_gen.es3.build"]  # the package exports a function of that name
COMMAND = [sys.executable, "-m", "data_gen.es3", "build"]


def files(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def work_folders(root):
    return [p for p in root.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("unit", ["shared", "bucket-00001", "out-searchified.part"])
def test_killed_at_any_unit_it_continues_to_the_same_bytes(busy_logs, tmp_path, unit):
    build(busy_logs, tmp_path / "whole", ES3Config(composition="searchified"), threads=1, buckets=3)
    out = tmp_path / "killed" / "out"
    command = [*COMMAND, str(busy_logs), "--composition", "searchified", "--out", str(out), "--buckets", "3", "--threads", "1"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and not any((w / unit).is_dir() for w in _hidden(out.parent)):
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not out.exists(), "killed before its end"
    (work,) = _hidden(out.parent)
    before = {p.name: p.stat().st_ino for p in work.iterdir() if p.is_dir() and "." not in p.name}
    assert "intake" in before

    said = []
    build(busy_logs, out, ES3Config(composition="searchified"), threads=1, buckets=3, say=said.append)
    assert not any("intake" in line for line in said)
    assert sum("users, part" in line for line in said) == 3 - sum(name.startswith("bucket") for name in before)
    assert files(out) == files(tmp_path / "whole")
    assert work_folders(out.parent) == []


def _hidden(root):
    return work_folders(root) if root.is_dir() else []


def test_an_interrupted_build_keeps_its_units_and_one_that_cannot_be_leaves_nothing(busy_logs, tmp_path, monkeypatch):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(MODULE, "merge_split", stop)
    with pytest.raises(KeyboardInterrupt):
        build(busy_logs, tmp_path / "out", ES3Config(composition="exposed"), threads=1)
    assert len(work_folders(tmp_path)) == 1
    monkeypatch.undo()
    said = []
    build(busy_logs, tmp_path / "out", ES3Config(composition="exposed"), threads=1, say=said.append)
    assert said == []
    assert work_folders(tmp_path) == []


def test_another_configuration_does_not_continue_it(busy_logs, tmp_path, monkeypatch):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(MODULE, "merge_split", stop)
    with pytest.raises(KeyboardInterrupt):
        build(busy_logs, tmp_path / "out", ES3Config(composition="exposed"), threads=1)
    monkeypatch.undo()
    said = []
    build(busy_logs, tmp_path / "out", ES3Config(composition="exposed", seed=1), threads=1, say=said.append)
    assert any("intake" in line for line in said)


def test_some_of_several_outputs_in_place_are_kept(busy_logs, tmp_path, monkeypatch):
    undisturbed = build_all(busy_logs, tmp_path / "whole", ES3Config(composition="exposed"), threads=1)
    finish = MODULE._finish
    calls = []

    def stop_at_third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return finish(*args, **kwargs)

    monkeypatch.setattr(MODULE, "_finish", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        build_all(busy_logs, tmp_path / "all", ES3Config(composition="exposed"), threads=1)
    placed = sorted(p.name for p in (tmp_path / "all").iterdir() if not p.name.startswith("."))
    assert placed == ["exposed", "unexposed"]
    inode = (tmp_path / "all" / "exposed").stat().st_ino
    monkeypatch.undo()
    made = build_all(busy_logs, tmp_path / "all", ES3Config(composition="exposed"), threads=1)
    assert made == undisturbed
    assert (tmp_path / "all" / "exposed").stat().st_ino == inode


def test_two_builds_of_the_same_do_not_meet(busy_logs, tmp_path):
    code = (
        "import sys; from pathlib import Path; from data_gen.es3.workplace import workplace\n"
        "with workplace(Path(sys.argv[1]), 'out', {'a': 1}): pass"
    )
    with workplace(tmp_path, "out", {"a": 1}):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode and "another process is building it" in done.stderr
