"""Differences of a sweep on real logs: planted effects are found with their sign, chance stays unresolved, gaps are said."""

import json
from itertools import product

import numpy as np
import pytest

from analysis import real_differences, real_logs
from analysis.real_differences import RealLogs, summarise
from analysis.study import ISOLATIONS, of_records
from unisc.errors import InputError
from unisc.report.page import Page

LISTS, SEEDS = 400, (0, 1, 2)
EFFECT = {"exposed": 0.0, "attributed": 0.0, "searchified": -0.05}
"""What the data does to MRR without isolation; both modules take the loss of searchified data away."""


def synthetic(*, seeds=SEEDS, sizes=(("xs", 8e3), ("s", 3e4)), compositions=tuple(EFFECT), isolations=ISOLATIONS, volume=False):
    rng = np.random.default_rng(0)
    difficulty = rng.beta(2, 1, LISTS)
    records, mrr = [], {}

    def add(study, size, params, composition, isolation, seed, fraction):
        effect = EFFECT[composition] if isolation == "none" else 0.0
        name = f"{study}-{size}-{composition}-{isolation}-{seed}"
        mrr[name] = np.clip(difficulty + effect + rng.normal(0, 0.02, LISTS), 0, 1)
        records.append(
            {
                "fingerprint": name,
                "label": f"{study}/{size}/{composition}@{fraction}/{isolation}/seed{seed}",
                "config": {
                    "size": size,
                    "data": {"composition": composition, "fraction": fraction},
                    "model": {"isolation": isolation},
                    "train": {"seed": seed},
                },
                "counts": {"num_params_dense": params},
                "metrics": {"eval/exposed/auc_roc": 0.8 + effect / 5 + rng.normal(0, 1e-4)},
                "timing": {},
            }
        )

    for (size, params), composition, isolation, seed in product(sizes, compositions, isolations, seeds):
        add("grid" if isolation == "both" else "ablation", size, params, composition, isolation, seed, 1.0)
        if volume and isolation == "both" and composition != "exposed":
            add("volume", size, params, composition, isolation, seed, 0.4)
        if isolation == "both":
            add("shares", size, params, composition, isolation, seed, 0.5)
    for record in records:
        if record["label"].startswith("shares"):
            record["label"] = "grid" + record["label"].removeprefix("shares")
    floors = {"last_touched_first": difficulty - 0.1, "popular_first": difficulty - 0.3}
    counts = {"train_requests": 10, "train_samples": 100, "train_clicks": 12}
    samples = {c: {"counts": counts, "quality": {"test cart lists with their item": 0.58}} for c in compositions}
    return RealLogs("retailrocket", of_records(records, {}), mrr, floors, samples)


def verdicts(section, what, metric="mrr"):
    return {entry["verdict"] for entry in section["differences"][metric][what]}


def test_planted_effects_have_their_sign_and_nothing_else_is_claimed():
    section = summarise(synthetic())
    assert verdicts(section, "searchified − exposed, none") == {"resolved negative"}
    assert verdicts(section, "both − none, searchified") == {"resolved positive"}
    assert verdicts(section, "(searchified − exposed), both − none") == {"resolved positive"}
    assert "resolved positive" not in verdicts(section, "attributed − exposed, both")
    entry = section["differences"]["mrr"]["searchified − exposed, none"][0]
    assert entry["value"] == pytest.approx(-5, abs=0.6), "points, of clipped lists"
    assert (entry["num_runs"], entry["num_seeds"], section["num_requests"]) == (6, 3, LISTS)
    assert section["base"] == "exposed"
    assert [size["size"] for size in section["sizes"]] == ["xs", "s"], "smallest first"


def test_the_interval_of_mrr_covers_the_draw_of_lists():
    found = synthetic()
    rng = np.random.default_rng(1)
    noisy = {name: np.clip(lists + rng.normal(0, 0.4, LISTS), 0, 1) for name, lists in found.mrr.items()}
    wide = summarise(RealLogs(found.source, found.result, noisy, found.floors, found.samples))
    narrow = summarise(found)
    what = "dref − none, exposed"
    errors = [s["differences"]["mrr"][what][0]["standard_error"] for s in (wide, narrow)]
    assert errors[0] > 5 * errors[1]


def test_runs_on_a_share_of_the_data_do_not_enter():
    section = summarise(synthetic())
    assert section["num_runs"] == 2 * 3 * 4 * 3


def test_models_are_compared_with_the_best_rule():
    entries = summarise(synthetic())["over_floor"]
    assert [entry["rule"] for entry in entries] == ["last_touched_first"] * 3
    assert all(entry["verdict"] == "resolved positive" and entry["value"] == pytest.approx(10, abs=1) for entry in entries)


def test_equal_volumes_are_compared_where_they_were_run():
    assert summarise(synthetic())["equal_volumes"] == []
    entries = summarise(synthetic(volume=True))["equal_volumes"]
    assert [(e["composition"], e["size"]) for e in entries] == list(product(("attributed", "searchified"), ("xs", "s")))


def test_one_seed_has_no_interval_and_the_page_says_so():
    section = summarise(synthetic(seeds=(0,)))
    assert verdicts(section, "searchified − exposed, none") == {"unresolved (no interval: one seed)"}
    assert section["num_resolved"] == 0
    page = Page("p")
    real_logs.write(page, section, {})
    assert "no interval" in page.html()
    real_logs.draw(section)


@pytest.mark.parametrize("isolations", [ISOLATIONS, ("none", "both"), ("both",)])
def test_the_page_holds_numbers_limits_and_figure(tmp_path, monkeypatch, isolations):
    found = synthetic(isolations=isolations, volume=True)
    monkeypatch.setattr(real_differences, "load", lambda _: found)
    real_logs.main(tmp_path, out=tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    for text in (
        "no list was recorded",
        "400 test lists",
        "3 seeds",
        "last touched first",
        "<svg",
        "test cart lists with their item 58%",
    ):
        assert text in page
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["num_intervals"] > 0


def test_what_cannot_be_compared_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no floors.npz, so no sweep on real logs"):
        real_differences.load(tmp_path)
    with pytest.raises(InputError, match="one composition, so nothing to compare"):
        summarise(synthetic(compositions=("exposed",)))
    np.savez(tmp_path / "floors.npz", **{"a/mrr": np.zeros(1)})
    with pytest.raises(InputError, match="so not a sweep directory"):
        real_differences.load(tmp_path)
