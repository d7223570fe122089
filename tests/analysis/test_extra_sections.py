"""Other sweeps' findings in a study's folder become sections of its page, and a folder without them adds nothing."""

import importlib
import json

import pytest

from analysis import extra, online_agreement, phase


@pytest.mark.parametrize("name", extra.SECTIONS)
def test_a_study_alone_has_no_extra_section(name, tmp_path):
    assert importlib.import_module(name).study_section(tmp_path) is None
    assert list(extra.sections(tmp_path)) == []


def test_an_online_test_of_a_zoo_becomes_a_section(tmp_path):
    folder = tmp_path / "online"
    folder.mkdir()
    (folder / "agreement.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>')
    found = {
        "control": "shop",
        "users": 1_666,
        "requests_in_charge": 20_000,
        "rankers": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        "spearman": {
            "clicks": {
                "eval/exposed/auc_roc": {"value": 0.83, "low": 0.46, "high": 1.0},
                "eval/exposed/gauc": {"value": 0.5, "low": None, "high": None},
                "eval/full/auc_roc": {"value": None, "low": None, "high": None},
            }
        },
    }
    (folder / "agreement.json").write_text(json.dumps(found))
    html = online_agreement.study_section(tmp_path)
    assert html is not None and html in list(extra.sections(tmp_path))
    assert "+0.83" in html and "[+0.46, +1.00]" in html and "unbounded" in html and "eval/full/auc_roc" not in html
    assert "20,000 requests on common random numbers of 1,666 users" in html


def test_a_phase_diagram_becomes_a_section(tmp_path, monkeypatch):
    (tmp_path / "phase" / "sweep").mkdir(parents=True)
    seen = []

    def section(page, folder):
        seen.append(folder)
        page.heading("Where pooling hurts")
        return {}

    monkeypatch.setattr(phase, "section", section)
    assert phase.study_section(tmp_path) is None  # nothing found there
    monkeypatch.setattr(phase, "section", lambda page, folder: section(page, folder) or {"found": 1})
    assert "Where pooling hurts" in (phase.study_section(tmp_path) or "")
    assert seen == [tmp_path / "phase"] * 2
