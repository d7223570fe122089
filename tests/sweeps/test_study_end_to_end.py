"""A whole study, small: from nothing to the report, killed and typed again, and by mistaken users."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

REPO = Path(__file__).parents[2]
UNISC = [sys.executable, "-c", "from unisc.cli import main; main()"]
DRIVER = """
import sys
from pathlib import Path
from types import MappingProxyType
from sweeps import uniscale
from unisc.errors import run_command
tiny = uniscale.Preset(shop="default", requests=1_600, sizes=("xxs", "xs"), fractions=(0.5, 1.0), seeds=(0,),
                       ablation_sizes=(), baseline_sizes=("xs",), num_full_requests=20,
                       compositions=("exposed", "searchified"))
uniscale.PRESETS = MappingProxyType({"tiny": tiny})
work, out = map(Path, sys.argv[1:])
run_command("unisc", lambda: uniscale.study(preset="tiny", out=out, work=work, workers=2))
"""


def command(*words, **options):
    return subprocess.run([*words], cwd=REPO, capture_output=True, text=True, timeout=900, **options)


def tiny(work, out):
    return [sys.executable, "-c", DRIVER, str(work), str(out)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study, whose first attempt was killed after its first runs."""
    root = tmp_path_factory.mktemp("study")
    work, out = root / "work", root / "report"
    first = subprocess.Popen(
        tiny(work, out), cwd=REPO, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 600  # a busy machine is no failure
    while len(done := records(work)) < 2 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert len(done) >= 2
    second = command(*tiny(work, out))
    assert second.returncode == 0, second.stderr
    return work, out, done, second


def records(work):
    return {path: path.stat().st_mtime_ns for path in (work / "sweep" / "runs").glob("*/record.json")}


def test_a_killed_study_continues_and_repeats_nothing(study):
    work, _, done, second = study
    now = records(work)
    assert all(now[path] == stamp for path, stamp in done.items())
    assert len(now) == 2 * 2 * 2 + 1
    assert "left" in second.stderr  # the remaining time was on screen


def test_the_report_is_there_with_its_numbers(study):
    _, out, _, _ = study
    summary = json.loads((out / "summary.json").read_text())
    assert 0.1 < summary["oracle"]["log_loss"] < 0.6
    assert set(summary["fit"]) == {"exposed", "searchified"}
    assert {"E", "alpha", "beta"} <= set(summary["fit"]["exposed"])
    for key in ("interaction", "ablation", "held_out", "wall_seconds"):
        assert key in summary
    assert pq.read_table(out / "runs.parquet").num_rows == 9
    page = (out / "index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page.replace("https://www.w3.org", "")
    assert (out / "laws.json").is_file() and (out / "figures" / "gain.svg").is_file()


def test_a_finished_study_is_only_reported_again(study, tmp_path):
    work, _, _, _ = study
    before = records(work)
    assert command(*tiny(work, tmp_path / "other")).returncode == 0
    assert records(work) == before
    assert (tmp_path / "other" / "index.html").is_file()
    shown = command(*UNISC, "status", str(work / "sweep"))
    assert shown.returncode == 0 and "9/9 runs" in shown.stdout


def test_a_run_directory_of_another_version_is_one_line(study, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(study[0], work)
    config = next((work / "sweep" / "runs").glob("*/config.json"))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"version": 0}))
    untouched = {path.name: path.read_bytes() for path in config.parent.glob("record.json")}
    assert_one_line(command(*tiny(work, tmp_path / "out")), config.parent.name)
    assert untouched == {path.name: path.read_bytes() for path in config.parent.glob("record.json")}


def test_samples_of_other_logs_are_one_line(study, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(study[0], work)
    manifest = work / "logs" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 1', '"seed": 2'))
    assert_one_line(command(*tiny(work, tmp_path / "out")), "logs of another shop")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study", "clicks"], "unknown study 'clicks'"),
        (["study", "uniscale", "--preset", "huge"], "unknown preset 'huge'; the presets are: smoke"),
        (["study", "uniscale", "--source", "books"], "unknown source 'books'"),
        (["study", "uniscale", "--source", "trivago"], "needs --path"),
        (["study", "uniscale", "--path", "x"], "--path goes with --source trivago"),
        (["study", "uniscale", "--workers", "-1"], "--workers -1"),
        (["study", "uniscale", "--source", "trivago", "--path", "nowhere", "--work", "{tmp}/w", "--out", "{tmp}/o"], "nowhere"),
        (["study", "uniscale", "--work", "{tmp}/file/w", "--out", "{tmp}/o"], "file"),
        (["study", "uniscale", "--work", "{tmp}/w", "--out", "/proc/report"], "/proc/report"),
        (["status", "{tmp}"], "not a sweep directory"),
        (["report", "{tmp}"], "study.json is missing"),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(tmp_path, words, said):
    (tmp_path / "file").write_text("")
    assert_one_line(command(*UNISC, *(w.replace("{tmp}", str(tmp_path)) for w in words)), said)


def test_foreign_logs_are_one_line(tmp_path):
    events = tmp_path / "events"
    events.mkdir()
    pq.write_table(pa.table({"who": [1]}), events / "events.parquet")
    words = ["study", "uniscale", "--source", "trivago", "--path", str(events)]
    found = command(*UNISC, *words, "--work", str(tmp_path / "w"), "--out", str(tmp_path / "o"))
    assert_one_line(found, "column")


def assert_one_line(done, said):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = [line for line in done.stderr.splitlines() if line.startswith("unisc: ")]
    assert len(last) == 1 and said in last[0], done.stderr
