"""`unisc sweep ...` as a user types it: plan, run, watch, mend, export; and every mistake is one line and status 2."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from unisc.errors import InputError, run_command
from unisc.sweep import command, curves
from unisc.sweep.plan import read_plan, run_folder
from unisc.sweep.record import read_records

REPO = Path(__file__).parents[2]
FILE = """
from pathlib import Path
from sweep_experiments import tiny
from unisc.errors import InputError
from unisc.sweep.plan import Run

PREFIXES = ("sweep_experiments.",)
COUNTS = {"small": 3, "large": 6, "bad": 2}

def data_dir(root, *, preset):
    return root / "data"

def prepare(root, *, preset):
    (root / "data").mkdir(parents=True, exist_ok=True)

def runs(root, *, preset):
    if preset not in COUNTS:
        raise InputError(f"unknown preset {preset!r}; the presets are: {', '.join(COUNTS)}")
    acts = ["once_kill" if preset == "bad" and i == 1 else "ok" for i in range(COUNTS[preset])]
    configs = [tiny.Config(index=i, act=act) for i, act in enumerate(acts)]
    sizes = {"num_params": 1000, "num_examples": 500, "train_flops": 3.6e12}
    return [Run.of(tiny, c, cost=1.0, label=f"point {c.index}", compile_key="k", **sizes) for c in configs]
"""
PROFILES = """
[here]
platform = "cpu"
device = "cpu"
peak_tflops = 0.001
utilisation = 1.0
price_per_device_hour = 2.0

[gpu]
platform = "cuda"
device = "h100"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a sweep file and profiles, in which the commands are typed."""
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "profiles.toml").write_text(PROFILES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPO), os.environ["PYTHONPATH"]]))
    return tmp_path


def unisc(*words):
    """Type a sweep command; return its exit status."""
    try:
        run_command("unisc sweep", lambda: command.main([*map(str, words)]))
    except SystemExit as e:
        return e.code or 0
    return 0


RUN = ("run", "mine.py", "--out", "out", "--profile", "here", "--workers", "2", "--max-attempts", "1")


def test_a_plan_lists_points_with_hours_and_cost_and_is_corrected_by_what_is_done(place, capsys):
    plan = ("plan", "mine.py", "--preset", "small", "--out", "out", "--profile", "here")
    assert unisc(*plan, "--json") == 0
    before = json.loads(capsys.readouterr().out)
    hours = (3600.0 + 10.0) / 3600  # 3.6e12 FLOPs at 1e9 a second, and the start
    assert [p["basis"] for p in before["points"]] == ["profile"] * 3
    assert before["points"][0]["device_hours"] == pytest.approx(hours)
    assert (before["left_hours"], before["cost"]) == (pytest.approx(3 * hours), pytest.approx(6 * hours))
    assert unisc(*plan) == 0
    text = capsys.readouterr().out
    assert "3.6e+12" in text and "1,000" in text and "3 points, 0 done; on here (1 x cpu a worker)" in text

    assert unisc(*plan, "--max-device-hours", "1") == 2
    assert capsys.readouterr().err.startswith("unisc sweep: --max-device-hours 1: 0 spent and 3.01 predicted are more")
    assert unisc(*RUN, "--preset", "small", "--max-device-hours", "1") == 2
    assert not list(place.glob("out/sweep/runs/*/record.json"))

    assert unisc(*RUN, "--preset", "small") == 0
    capsys.readouterr()
    assert unisc("plan", "mine.py", "--preset", "small", "--out", "out", "--profile", "here", "--json") == 0
    after = json.loads(capsys.readouterr().out)
    assert [p["state"] for p in after["points"]] == ["done"] * 3
    assert 0 < after["spent_hours"] < 0.1 and after["left_hours"] == 0


def test_a_larger_sweep_after_a_part_is_done_is_predicted_from_that_part(place, capsys):
    assert unisc(*RUN, "--preset", "small") == 0
    (place / "mine.py").write_text(FILE.replace('"small": 3', '"small": 5'))
    capsys.readouterr()
    assert unisc("plan", "mine.py", "--preset", "small", "--out", "out", "--profile", "here", "--json") == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert [p["basis"] for p in points] == ["taken"] * 3 + ["runs"] * 2
    assert all(p["device_hours"] < 0.1 for p in points)
    assert unisc(*RUN, "--preset", "small", "--max-device-hours", "1e-9") == 2
    assert "spent already" in capsys.readouterr().err


def test_status_retry_export_and_gc(place, capsys):
    assert unisc(*RUN, "--preset", "bad") == command.EXIT_FAILED
    capsys.readouterr()
    assert unisc("status", "out") == command.EXIT_FAILED
    text = capsys.readouterr().out
    assert "1/2 runs, 0 running, 1 failed" in text and "point 1" in text and "SIGKILL" in text
    assert unisc("status", "out", "--json") == command.EXIT_FAILED
    found = json.loads(capsys.readouterr().out)
    assert (found["done"], found["failed"], found["runs"][0]["label"]) == (1, 1, "point 1")

    assert unisc("retry", "out") == 0
    assert capsys.readouterr().out.splitlines() == ["point 1", "1 of 2 runs have their attempts anew"]
    assert unisc("status", "out") == command.EXIT_UNFINISHED
    assert unisc(*RUN, "--preset", "bad") == 0
    assert unisc("status", "out") == 0
    assert unisc("export", "out", "--out", "table.parquet") == 0
    assert pq.read_table(place / "table.parquet")["config.index"].to_pylist() == [0, 1]

    folder = place / "out" / "sweep"
    own = run_folder(folder, read_plan(folder)[0].fingerprint)
    (own / "work" / "checkpoint").mkdir(parents=True)
    (own / "work" / "checkpoint" / "1").write_bytes(b"x" * 2**20)
    (own / "record.json.broken-1").write_text("half")
    capsys.readouterr()
    assert unisc("gc", "out", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 would go, 1.0 MiB"
    assert unisc("gc", "out") == 0
    assert not (own / "work" / "checkpoint").exists() and not (own / "record.json.broken-1").exists()
    assert len(read_records(folder)) == 2


def test_a_cancelled_sweep_is_taken_up_by_the_next_run(place, capsys):
    assert unisc("plan", "mine.py", "--preset", "small", "--out", "out", "--profile", "here") == 0
    assert unisc("cancel", "out") == 0
    assert (place / "out" / "sweep" / "cancelled.json").exists()
    assert unisc("status", "out") == command.EXIT_UNFINISHED
    assert unisc(*RUN, "--preset", "small") == 0
    assert not (place / "out" / "sweep" / "cancelled.json").exists()


def written(folder):
    """Return the events of the files of a folder, in the order TensorBoard reads them, and check every checksum."""
    events = []
    for path in sorted(folder.glob("events*")):
        content, offset = path.read_bytes(), 0
        while offset < len(content):
            length = content[offset : offset + 8]
            end = offset + 12 + struct.unpack("<Q", length)[0]
            message = content[offset + 12 : end]
            assert struct.unpack("<I", content[offset + 8 : offset + 12])[0] == masked_crc32c(length)
            assert struct.unpack("<I", content[end : end + 4])[0] == masked_crc32c(message)
            events.append(Event.FromString(message))
            offset = end + 4
    return events


def test_curves_reach_tensorboard_as_they_grow(place, sweep):
    run = sweep.run(0)
    path = run_folder(sweep.dir, run.fingerprint) / "work" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"step": 1, "train/loss": 0.5}\n{"step": 2, "train/lo')
    follow = curves.follower(sweep.dir, [run])
    follow()
    [folder] = sweep.dir.glob("tensorboard/tiny 0-*")
    version, start, *seen = written(folder)
    assert version.file_version == "brain.Event:2" and start.session_log.status == 1 and start.step == 1
    assert [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in seen] == [(1, "train/loss", 0.5)]
    follow()
    assert len(written(folder)) == 3, "half a line is no step"
    path.write_text('{"step": 1, "train/loss": 0.5}\n{"step": 2, "train/loss": 0.25}\n')
    follow()
    assert [(e.step, e.summary.value[0].simple_value) for e in written(folder)[2:]] == [(1, 0.5), (2, 0.25)]
    # A run that went on from a checkpoint replaces its file, and what was shown from there on is to be forgotten.
    path.with_name("new").write_text('{"step": 2, "train/loss": 0.75}\n')
    path.with_name("new").replace(path)
    follow()
    first, again, last = written(folder)[4:]
    assert first.file_version and again.session_log.status == 1 and again.step == 2
    assert last.step == 2 and last.summary.value[0].simple_value == 0.75


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (None, ("run", "none.py", "--preset", "small", "--out", "out"), "no such profile|profiles"),
        (None, ("run", "none.py", "--preset", "small", "--out", "out", "--profile", "here"), "none.py: no such sweep file"),
        (
            None,
            (*RUN[:4], "--preset", "small", "--profile", "heer"),
            "profile 'heer': not in profiles.toml; did you mean 'here'",
        ),
        (None, (*RUN, "--preset", "tiny"), "unknown preset 'tiny'; the presets are: small, large, bad"),
        (FILE + "\n1 / 0\n", (*RUN, "--preset", "small"), "mine.py, line 24: raised ZeroDivisionError: division by zero; mend"),
        (
            FILE.replace("COUNTS[preset])]", "COUNTS[9])]"),
            (*RUN, "--preset", "small"),
            "raised KeyError: 9; mend the sweep file",
        ),
        ("import sys; sys.exit(3)", (*RUN, "--preset", "small"), "line 1: raised SystemExit: 3; mend the sweep file"),
        ("x = 1", (*RUN, "--preset", "small"), "mine.py: has no runs"),
        ("def f(:", (*RUN, "--preset", "small"), "mine.py: raised SyntaxError: invalid syntax"),
        (None, (*RUN[:-4], "--preset", "small", "--workers", "-1"), "--workers -1: must be 0"),
        (None, (*RUN, "--preset", "small", "--max-device-hours", "0"), "--max-device-hours 0: must be more than 0"),
        (None, ("status", "out"), "no readable plan.jsonl"),
        (None, ("export", "out", "--out", "x.parquet"), "no readable plan.jsonl"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(place, capsys, change, words, message):
    if change is not None:
        (place / "mine.py").write_text(change)
    assert unisc(*words) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert any(part in said for part in message.split("|")), said


def test_another_sweep_under_the_same_name_is_refused_and_nothing_is_lost(place, capsys):
    assert unisc(*RUN, "--preset", "small") == 0
    before = {p: p.read_bytes() for p in place.glob("out/sweep/runs/*/record.json")}
    capsys.readouterr()
    assert unisc(*RUN, "--preset", "large") == 2
    assert "holds the sweep mine.py with preset small, not mine.py with large; give another --out" in capsys.readouterr().err
    (place / "other.py").write_text(FILE)
    assert unisc("run", "other.py", *RUN[2:], "--preset", "small") == 2
    assert {p: p.read_bytes() for p in place.glob("out/sweep/runs/*/record.json")} == before
    assert len(read_plan(place / "out" / "sweep")) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_store_that_cannot_be_written_is_one_line(place, capsys):
    (place / "out").mkdir(mode=0o555)
    assert unisc(*RUN, "--preset", "small") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_read_only_or_full_store_is_one_line_and_nothing_is_lost(place, capsys, monkeypatch):
    assert unisc(*RUN, "--preset", "small") == 0
    before = {p: p.read_bytes() for p in place.glob("out/sweep/**/*.json*")}
    capsys.readouterr()
    for number, words in ((30, "Read-only file system"), (28, "No space left on device")):

        def refuse(*args, number=number, **kwargs):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr("unisc.files._write_beside", refuse)
            assert unisc(*RUN, "--preset", "small") == 2
        said = capsys.readouterr().err
        assert words in said and len(said.splitlines()) == 1
    assert {p: p.read_bytes() for p in place.glob("out/sweep/**/*.json*")} == before


def test_a_gpu_that_is_not_there_is_one_line(place, capsys):
    assert unisc("run", "mine.py", "--preset", "small", "--out", "out", "--profile", "gpu") == 2
    said = capsys.readouterr().err
    assert "the profile wants cuda, and JAX finds " in said.splitlines()[-1]


def test_a_launcher_that_is_not_there_is_named(place, monkeypatch):
    monkeypatch.setitem(command.LAUNCHERS, "ray", "nowhere")
    with pytest.raises(InputError, match="--launcher ray: not in this installation"):
        command.main([*RUN, "--preset", "small", "--launcher", "ray"])


def test_the_command_itself_lists_its_commands_and_starts_without_jax(place):
    code = "import sys; sys.argv = ['unisc', 'sweep', 'status', 'nowhere']\nfrom unisc.cli import main\ntry: main()\nfinally: "
    code += "print(sorted({'jax', 'flax', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "nowhere: no readable plan.jsonl" in done.stderr
    assert done.stdout.strip() == "[]"
