"""From planted label quality to loss: slopes and their intervals, samples through a known law, and what the page says."""

import json

import numpy as np
import pytest

from analysis import label_quality, label_text
from analysis.label_quality import METRICS, analyse, of_records, slopes
from unisc.errors import InputError
from unisc.scaling import Cells
from unisc.sweep.plan import Run, run_fingerprint, run_folder, write_plan
from unisc.sweep.record import write_record

GROUPS = 40
SETS = {"clean": 0.75, "wrong-0.3": 0.51, "wrong-0.6": 0.27, "wrong-1": -0.05, "window-7d": 0.72, "relevance-off": 0.73}
FRACTIONS = (0.125, 0.25, 0.5, 0.7071, 1.0)
EXAMPLES = 200_000
WORTH = 2e-4
"""Log loss that a point of precision is worth in the planted sweep."""


def estimate(value, error=0.01, seed=0):
    """A precision with its jackknife replicates, whose spread is `error`; all sets share the groups' errors."""
    away = np.random.default_rng(seed).standard_normal(GROUPS)
    away = (away - away.mean()) / away.std() * error / np.sqrt(GROUPS - 1)
    low, high = value - 1.7 * error, value + 1.7 * error
    return {"value": value, "low": low, "high": high, "level": 0.9, "replicates": (value + away).tolist()}


def cells(noise, rng, sets=SETS, seeds=3, shape=lambda lost: lost):
    values = np.array([[0.35 + 100 * WORTH * shape(0.75 - p)] * seeds for p in sets.values()])
    values = values + noise * rng.standard_normal(seeds) + noise * rng.standard_normal(values.shape)
    names = np.repeat(list(sets), seeds)
    return Cells.of(np.ones(len(names)), names, np.tile(np.arange(seeds), len(sets)), values.ravel())


WRONG = ["clean", "wrong-0.3", "wrong-0.6", "wrong-1"]


def of_wrong(table, error=1e-6, draws=400):
    return slopes(table, WRONG, [estimate(SETS[name], error) for name in WRONG], METRICS[0], draws)[0]


def test_a_planted_slope_is_recovered():
    found = of_wrong(cells(1e-9, np.random.default_rng(0)))
    assert found["worth"]["value"] == pytest.approx(WORTH, rel=1e-4)
    assert found["worth"]["verdict"] == "resolved positive"
    assert (found["num_sets"], found["worth"]["num_runs"], found["line_rejected"]) == (4, 12, False)
    assert "at_clean" not in found


def test_the_interval_of_the_slope_covers_the_truth():
    rng = np.random.default_rng(1)
    found = [of_wrong(cells(2e-3, rng), draws=200)["worth"] for _ in range(200)]
    held = sum(one["low"] <= WORTH <= one["high"] for one in found)
    # Of 200 at 90 %: at least 166 but once in a thousand times. A line refused by chance only widens.
    assert held >= 166
    assert np.mean([one["value"] for one in found]) == pytest.approx(WORTH, rel=0.1)


def test_the_error_of_the_precisions_widens_the_interval():
    table = cells(1e-4, np.random.default_rng(2))
    close, loose = of_wrong(table)["worth"], slopes(
        table, WRONG, [estimate(SETS[n], 0.08, seed) for seed, n in enumerate(WRONG)], METRICS[0], 400
    )[0]["worth"]  # fmt: skip
    assert loose["high"] - loose["low"] > 1.5 * (close["high"] - close["low"])


def test_where_no_line_fits_its_interval_widens_and_a_parabola_says_what_holds_at_the_clean_set():
    bent = of_wrong(cells(1e-5, np.random.default_rng(3), shape=lambda lost: lost**2))
    straight = of_wrong(cells(1e-5, np.random.default_rng(0)))
    assert bent["line_rejected"] and not straight["line_rejected"]
    widths = [one["worth"]["high"] - one["worth"]["low"] for one in (bent, straight)]
    assert widths[0] > 10 * widths[1]
    assert abs(bent["at_clean"]["value"]) < 0.1 * WORTH, "at the clean set the planted parabola is flat"
    assert bent["at_clean"]["low"] < 0 < bent["at_clean"]["high"]
    summary = analyse(of_records(*planted(noise=1e-5, shape=lambda lost: lost**2 / 80)), draws=200)
    said = label_text.worth_sentence(summary, "wrong")
    assert "no line fits (p = " in said and "so this is a mean over the span" in said and "a parabola gives" in said


def test_one_seed_has_no_interval():
    found = of_wrong(cells(1e-4, np.random.default_rng(4), seeds=1))
    assert (found["worth"]["low"], found["worth"]["verdict"]) == (None, "unresolved (no interval)")


def law(examples):
    return 0.31 + 8.0 * np.asarray(examples) ** -0.4


def planted(noise=2e-5, seeds=(0, 1, 2), worth=WORTH, shape=lambda lost: lost):
    """Records and facts of a sweep whose loss follows a data law and falls with precision alone."""
    rng, records = np.random.default_rng(5), []
    drawn = [(name, 1.0) for name in SETS] + [("clean", f) for f in FRACTIONS if f < 1]
    for name, fraction in drawn:
        for seed in seeds:
            lost = 100 * (SETS["clean"] - SETS[name])
            loss = float(law(fraction * EXAMPLES) + worth * shape(lost) + noise * rng.standard_normal())
            metrics = {"eval/full/log_loss_expected": loss, "eval/exposed/log_loss_expected": loss + 0.08}
            metrics |= {"eval/full/auc_roc_expected": 1.1 - loss, "eval/exposed/auc_roc_expected": 1.05 - loss}
            run = {"data": {"samples": name, "fraction": fraction}, "train": {"seed": seed}}
            counts = {"num_examples": round(fraction * EXAMPLES), "num_params_dense": 34_602}
            records.append({"config": {"degradation": name, "run": run}, "counts": counts, "metrics": metrics})
    families = {name: name.split("-")[0] for name in SETS}
    label = {"labels": 3_923, "labels_per_request": 0.6, "recall": estimate(0.03, 0.001)}
    sets = {
        name: {
            "samples": name, "family": families[name], "title": name, "counts": {"samples": EXAMPLES}, "wrong_label_rate": 0.0,
            "click": {**label, "precision": estimate(p)}, "purchase": {**label, "precision": estimate(p / 2)},
        }
        for name, p in SETS.items()
    }  # fmt: skip
    return records, {"preset": "planted", "degradations": sets}


def test_a_point_of_precision_is_turned_into_samples_by_the_law():
    summary = analyse(of_records(*planted()), draws=400)
    metric = summary["metrics"]["eval/full/log_loss_expected"]
    wrong = metric["families"]["wrong"]
    point = 100 * ((1 - WORTH / (8.0 * EXAMPLES**-0.4)) ** (-1 / 0.4) - 1)
    assert wrong["worth"]["value"] == pytest.approx(WORTH, rel=0.02)
    assert wrong["samples"]["value"] == pytest.approx(point, rel=0.05)
    assert wrong["samples"]["low"] < point < wrong["samples"]["high"]
    assert set(metric["families"]) == {"wrong", "window", "relevance"}
    half = metric["changes"]["wrong-0.6"]["equivalent"]
    truth = ((law(EXAMPLES) + 48 * WORTH - 0.31) / 8.0) ** (-1 / 0.4) / EXAMPLES
    assert half["value"] == pytest.approx(truth, rel=0.05)
    assert summary["metrics"]["eval/full/auc_roc_expected"]["families"]["wrong"]["worth"]["value"] == pytest.approx(
        0.02, rel=0.05
    )
    json.dumps(summary, allow_nan=False)


def test_sentences_carry_n_seeds_and_intervals_and_say_what_is_not_resolved():
    resolved = label_text.worth_sentence(analyse(of_records(*planted()), draws=400), "wrong")
    assert resolved.startswith("Wrong labels: over all candidates one point of precision is worth +0.0002 [+0.000")
    assert "% of samples" in resolved and "n = 12 runs, 3 seeds" in resolved
    noisy = analyse(of_records(*planted(noise=5e-3, worth=0.0)), draws=400)
    for family in ("wrong", "window", "relevance"):
        assert "not resolved over all candidates" in label_text.worth_sentence(noisy, family)


@pytest.fixture
def folder(tmp_path):
    records, facts = planted()
    (tmp_path / "labels.json").write_text(json.dumps(facts))
    planned, name = [], label_quality.EXPERIMENT
    for record in records:
        config = record.pop("config")
        about = {"experiment": name, "version": 1, "config": config, "cost": 1.0, "label": "", "compile_key": ""}
        planned.append(Run(**about, fingerprint=run_fingerprint(name, 1, config)))
    (tmp_path / "sweep").mkdir()
    write_plan(tmp_path / "sweep", planned)
    for run, record in zip(planned, records, strict=True):
        run_folder(tmp_path / "sweep", run.fingerprint).mkdir(parents=True, exist_ok=True)
        write_record(tmp_path / "sweep", run, record)
    return tmp_path


def test_a_folder_becomes_a_page(folder, tmp_path):
    label_quality.main(folder, out=tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "What a right label is worth" in page and "<svg" in page and "by precision alone" in page
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["num_runs"] == 3 * (len(SETS) + len(FRACTIONS) - 1)


def test_runs_on_other_samples_are_not_counted(folder):
    facts = json.loads((folder / "labels.json").read_text())
    for one in facts["degradations"].values():
        one["samples"] += " made anew"
    (folder / "labels.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="no finished run on these sample sets; run the sweep to its end first"):
        label_quality.load(folder)


def test_a_folder_without_a_sweep_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"labels\.json is missing; give the folder"):
        label_quality.load(tmp_path)
    records, facts = planted()
    with pytest.raises(InputError, match="finished runs of clean; it needs 'clean' and another"):
        analyse(of_records([r for r in records if r["config"]["degradation"] == "clean"], facts))
