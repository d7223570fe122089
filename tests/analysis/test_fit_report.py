"""The page of a fit says its concerns first, holds every figure as text, and is made again from its own JSON."""

import json
import sys

import numpy as np
import pytest

from unisc.cli import main
from unisc.errors import InputError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A table of runs; fits are made in its folder."""
    size, data = (a.ravel() for a in np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(1e5, 1e7, 5)))
    loss = (0.3 + 0.6 * size**-0.3 + 2 * data**-0.35) * np.exp(1e-3 * np.random.default_rng(0).standard_normal(len(size)))
    rows = np.stack([size, data, 0.3 * data, loss, np.arange(len(size)) * 3 % 4], axis=1)
    np.savetxt(tmp_path / "runs.csv", rows, delimiter=",", header="params,shown,other,loss,day", comments="")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unisc(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["unisc", *map(str, words)])
    main()


FIT = ("fit", "runs.csv", "--params-col", "params", "--data-col", "shown", "--loss", "squared", "--bootstrap", 40)


def test_a_fit_writes_its_page_and_the_page_is_made_again_from_the_json(runs, monkeypatch, capsys):
    unisc(monkeypatch, *FIT, "--target", "N=1e7,D=1e8", "--budget", "1e15", "--json", "fit.json", "--report", "page")
    page = (runs / "page" / "index.html").read_text()
    headings = [
        "Predictions and parameters",
        "The law",
        "Largest runs held out",
        "How far it is known",
        "Next runs",
        "Compute-optimal size",
        "Residuals",
    ]
    places = [page.index(f">{heading}</h2>") for heading in headings]
    assert places == sorted(places) and page.index('class="answer"') < places[0]
    assert page.count("<svg") >= 5 and "<text" in page and "N = 10M, D = 100M" in page
    kept = json.loads((runs / "page" / "fit.json").read_text())
    written = json.loads((runs / "fit.json").read_text())
    assert {name: kept[name] for name in written} == written and "compute_optimal" in kept
    unisc(monkeypatch, "report", "fit.json", "--out", "again")
    assert (runs / "again" / "index.html").read_text() == page
    assert capsys.readouterr().out.splitlines()[-1] == "again/index.html"


def test_concerns_come_first_and_missing_parts_are_said(runs, monkeypatch):
    unisc(monkeypatch, *FIT[:-1], 0, "--where", "day=1", "--report", "few")
    page = (runs / "few" / "index.html").read_text()
    assert "Not to be taken at its word" in page and "runs for 5 parameters" in page
    assert page.index("runs for 5 parameters") < page.index("<table")


def test_a_tournament_and_compositions_have_their_figures(runs, monkeypatch):
    unisc(monkeypatch, *FIT[:-1], 0, "--law", "all", "--report", "all")
    assert "Laws compared</h2>" in (runs / "all" / "index.html").read_text()


def test_what_is_no_fit_is_refused_in_one_line(runs):
    from analysis.fit_report import build_from

    (runs / "other.json").write_text('{"law": "chinchilla"}')
    for path, said in ((runs / "other.json", "not what `unisc fit --json` writes"), (runs / "none.json", "no such file")):
        with pytest.raises(InputError, match=said):
            build_from(path, runs / "out")
