"""The page of KARMA's ablation: differences are taken seed by seed, signs are called by their intervals, and figures drawn."""

import itertools
import json

import numpy as np
import pytest

from analysis import karma
from unisc.errors import InputError


def records(*, seeds=(0, 1, 2), objectives=("act", "rec", "gen"), sizes=("xs",), fractions=(1.0,)):
    """Runs whose reconstruction lifts HR@200 by five points and halves the sinks, beside what a seed has in common."""
    rng = np.random.default_rng(0)
    luck = {seed: 0.05 * rng.standard_normal() for seed in seeds}
    for name, size, fraction, seed in itertools.product(objectives, sizes, fractions, seeds):
        noise = 0.002 * rng.standard_normal()
        found = 0.5 + 0.05 * (name == "rec") + luck[seed] + noise + 0.02 * sizes.index(size)
        yield {
            "experiment": "experiments.karma",
            "label": f"{name} {size} users {fraction:g} seed {seed}",
            "metrics": {
                "eval/hr@200": found,
                "eval/gauc": 0.6 + noise,
                "eval/popularity/hr@200": 0.3,
                "eval/semantics/sink_rate": (1.0 if name == "rec" else 2.0) + 10 * noise,
                "eval/before/sink_rate": 0.9,
            },
            "counts": {"num_params_dense": 1000 * (1 + sizes.index(size)), "num_examples": 100},
        }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    def make(**options):
        found = list(records(**options))
        monkeypatch.setattr(karma, "read_records", lambda sweep: found)
        return tmp_path

    return make


def test_differences_are_of_one_seed_and_called_by_their_interval(folder):
    summary = karma.summarise(karma.load(folder()))
    less = summary["objectives"]["rec"]["hr@200"]["less"]
    assert less.low < 5 < less.high and less.high - less.low < 3 and less.verdict == "resolved positive"
    mean = summary["objectives"]["rec"]["hr@200"]["mean"]
    assert mean.high - mean.low > 4, "what seeds have in common does not cancel in a mean"
    assert summary["objectives"]["gen"]["hr@200"]["less"].verdict == "unresolved"
    assert summary["objectives"]["rec"]["sink_rate"]["less"].verdict == "resolved negative"
    text = " ".join(karma.answer(summary))
    assert "+ reconstruction: HR@200 +" in text and "n = 6 runs, 3 seeds, 90% intervals" in text


def test_one_seed_resolves_nothing(folder):
    summary = karma.summarise(karma.load(folder(seeds=(0,))))
    assert summary["objectives"]["rec"]["hr@200"]["less"].verdict == "unresolved (no interval)"


def test_scaling_has_recall_and_what_is_added_in_every_cell(folder):
    summary = karma.summarise(karma.load(folder(objectives=("act", "rec"), sizes=("xs", "s"), fractions=(0.5, 1.0))))
    cells = {(p["objective"], p["num_params"], p["fraction"]): p for p in summary["scaling"]}
    assert len(cells) == 8 and all(p["less"] is None for p in cells.values() if p["objective"] == "act")
    for (objective, *cell), point in cells.items():
        if objective == "rec":
            base = cells["act", *cell]
            assert point["less"].value == pytest.approx(point["hr"].value - base["hr"].value)
            assert point["less"].low < 5 < point["less"].high and point["less"].num_seeds == 3
    assert len(karma.scaling(summary).axes) == 3


def test_the_page_has_its_figures_and_numbers(folder, tmp_path):
    page = karma.build(folder(sizes=("xs", "s"), fractions=(0.5, 1.0)), tmp_path / "out")
    text = page.read_text()
    assert text.count("<figure") == 3 and "share of users trained on" in text
    assert "n = 36 runs" in text  # three objectives, two sizes, two shares, three seeds
    numbers = json.loads((tmp_path / "out" / "karma.json").read_text())
    assert numbers["objectives"]["rec"]["hr@200"]["less"]["verdict"] == "resolved positive"
    assert {path.suffix for path in (tmp_path / "out" / "figures").iterdir()} == {".png", ".svg", ".pdf"}


def test_a_sweep_without_runs_or_without_the_action_alone_is_one_line(folder, tmp_path):
    with pytest.raises(InputError, match=r"no finished run of KARMA; run `python -m sweeps\.karma"):
        karma.load(folder(seeds=()))
    with pytest.raises(InputError, match="no objective beside the action loss alone"):
        karma.summarise(karma.load(folder(objectives=("rec",))))
