"""The same line on real request logs: floors agree with the converter's, and HHSFT beats the strongest of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SOURCE = Path(os.environ.get("UNISC_REAL_DATA", REPO.parent / "shared" / "data")) / "trivago_rs19_100k"
LAST_TOUCHED = 0.604
"""MRR of the last-touched rule over all click-outs of the extract."""

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not SOURCE.is_dir(), reason=f"no trivago extract at {SOURCE}; set UNISC_REAL_DATA to the real data's folder"
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("trivago")
    words = ["study", "uniscale", "--source", "trivago", "--path", str(SOURCE), "--preset", "smoke", "--workers", "2"]
    code = "from unisc.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--work", str(root / "work"), "--out", str(root / "report")],
        cwd=REPO, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root / "report"


def test_hhsft_beats_the_last_touched_floor(report):
    real = json.loads((report / "summary.json").read_text())["real"]
    assert real["composition"] == "attributed"
    assert real["mrr"] > max(LAST_TOUCHED, real["floor"]["last_touched_first"]["mrr"])
    assert real["beats_last_touched"]["low"] > 0


def test_floors_are_those_of_the_converter(report):
    real = json.loads((report / "summary.json").read_text())["real"]
    logs = json.loads((report.parent / "work" / "logs" / "manifest.json").read_text())["quality"]["floors"]
    assert logs["all"]["last_touched_first"]["mrr"] == pytest.approx(LAST_TOUCHED, abs=5e-4)
    for rule, found in real["floor"].items():
        # The study measures on the four fifths of the test lists that do not fit the calibration.
        assert found["mrr"] == pytest.approx(logs["test"][rule]["mrr"], abs=0.015)
    assert real["num_requests"] < logs["test"]["shown_order"]["clickouts"]


def test_the_page_says_what_was_compared(report):
    page = (report / "index.html").read_text()
    assert "last touched first" in page and "HHSFT, attributed data" in page


def test_logs_of_other_events_are_not_taken_for_these(report, tmp_path):
    code = "from unisc.cli import main; main()"
    words = ["study", "uniscale", "--source", "trivago", "--path", str(tmp_path), "--preset", "smoke"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--work", str(report.parent / "work"), "--out", str(tmp_path / "report")],
        cwd=REPO, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 2 and "not made from" in done.stderr
