"""The ranking stage's sweep: its table of differences, and from nothing to a table."""

import sys

import pytest

from experiments.funnel import METRICS
from sweeps import funnel
from unisc.errors import InputError


def test_the_table_takes_differences_seed_by_seed():
    values = {("without", 0): 0.70, ("without", 1): 0.72, ("rec", 0): 0.71, ("rec", 1): 0.75}
    labels = {f"{arm}{seed}": f"s/{arm}/seed{seed}" for arm, seed in values}
    records = [
        {"fingerprint": f"{arm}{seed}", "metrics": dict.fromkeys(METRICS, value)} for (arm, seed), value in values.items()
    ]
    [without, *_] = [line for line in funnel.table(records, labels).splitlines() if line.startswith("  without")]
    [rec, *_] = [line for line in funnel.table(records, labels).splitlines() if line.startswith("  rec")]
    assert without.split()[1:3] == ["2", "0.7100"] and "+" not in without
    assert rec.split()[1:3] == ["2", "0.7300"] and "+0.0200 [" in rec


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(InputError, match="unknown preset 'huge'; the presets are: smoke, laptop"):
        funnel.runs(tmp_path, preset="huge")


@pytest.mark.slow
def test_from_nothing_to_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["funnel", str(tmp_path / "made"), "--preset", "smoke"])
    funnel.main()
    said = capsys.readouterr().out
    assert said.count("  without") == said.count("  rec") == len(METRICS)
