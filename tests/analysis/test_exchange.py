"""The composition law of a study recovers what was planted, and says what it cannot tell."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import equal_counts, exchange, prose
from analysis.study import StudyResult
from unisc.errors import InputError
from unisc.scaling import Interval
from unisc.scaling.backtest import leave_largest_out


def law_of(study, isolation):
    """Return the law of the loss alone, of isolated models or of others."""
    runs = {name: column for name, column in study.runs.items() if name != exchange.FULL}
    keep = np.isin(runs["study"], ["grid", "volume"] if isolation == "both" else ["grid", "ablation"])
    study = StudyResult(runs, study.facts).select(keep)
    section = exchange.summarise(study, *exchange.fit_rates(study, draws=60))
    return section, next(law for law in section["laws"] if law["isolation"] == isolation)


def test_shares_of_kinds_follow_from_the_volumes(synthetic):
    mix = exchange.shares(synthetic.paper_study())
    assert mix["exposed"].tolist() == [1, 0, 0, 0]
    assert mix["unexposed"] == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert mix["searchified"] == pytest.approx([0.2, 0, 0.4, 0.4])
    by_runs = exchange.shares(synthetic.paper_study(facts={"volumes": None}))
    assert by_runs["searchified"] == pytest.approx(mix["searchified"], rel=1e-3)


def test_planted_rates_are_recovered(synthetic):
    section, law = law_of(synthetic.paper_study(noise=3.0), "both")
    for kind, rate in law["rates"].items():
        assert rate["low"] <= synthetic.RATES[kind] <= rate["high"], kind
        assert rate["seeds"]["low"] < rate["value"] < rate["seeds"]["high"]
    assert law["rates"]["attributed"]["verdict"] == "helps, worth less than an exposed sample"
    assert law["interaction"]["verdict"] == "additive model not rejected"
    assert law["num_seeds"] == 3 and law["num_cells"] < law["num_runs"]
    assert all(test["verdict"] == "additive model not rejected" for test in section["size_by_volume"].values())
    assert "not_fitted" in section and len(section["laws"]) == 1


def test_a_planted_interaction_is_found_and_the_interacting_law_predicts_better(synthetic):
    law = law_of(synthetic.paper_study(interaction=0.08, noise=3.0), "both")[1]
    assert law["interaction"]["verdict"] == "additive model rejected"
    change = law["rates"]["searchified"]["change_per_e"]
    assert change["low"] > 0 and change["low"] <= 0.08 <= change["high"]
    assert law["rates"]["unexposed"]["change_per_e"]["low"] < 0 < law["rates"]["unexposed"]["change_per_e"]["high"]
    assert law["backtest"]["interacting"] < law["backtest"]["additive"]


def test_models_without_isolation_have_a_law_of_their_own(synthetic):
    law = law_of(synthetic.paper_study(noise=3.0), "none")[1]
    assert law["num_cells"] == 60  # 3 sizes, 5 shares, 4 compositions
    assert law["rates"]["searchified"]["low"] <= 0.3 <= law["rates"]["searchified"]["high"]


def test_a_rate_is_judged_against_zero_and_against_an_exposed_sample():
    def word(low, high):
        return exchange.worth(Interval(value=0.5, low=low, high=high, level=0.9, method="profile"))

    assert word(-0.5, -0.1) == "harms"
    assert word(0.1, 0.9) == "helps, worth less than an exposed sample"
    assert word(1.1, 2.0) == word(1.1, None) == "worth more than an exposed sample"
    assert word(0.2, 1.4) == "helps; whether as much as an exposed one, unresolved"
    assert word(-0.2, 0.4) == word(None, 0.4) == "worth less than an exposed sample; whether it helps, unresolved"
    assert word(-0.2, 1.4) == "unresolved"


def test_a_study_without_shares_has_no_law_and_says_why(synthetic):
    study = synthetic.study(fractions=(1.0,), ablation=False)
    found, reasons = exchange.fit_rates(study, draws=50)
    assert not found
    assert "two data sizes and two model sizes" in exchange.summarise(study, found, reasons)["reason"]
    study.runs["composition"][study.runs["composition"] == "unexposed"] = "mixed"
    with pytest.raises(InputError, match="composition 'mixed' is no mix of exposed"):
        exchange.shares(study)


def test_diversity_and_volume_sum_to_the_whole_and_recover_what_was_planted(synthetic):
    section = equal_counts.compare(synthetic.paper_study())
    table = section["by_metric"]["auc_roc"]
    for name, parts in table.items():
        mean = parts["mean"]
        assert mean["diversity"]["value"] + mean["volume"]["value"] == pytest.approx(mean["total"]["value"])
        assert mean["diversity"]["num_seeds"] == 3 and len(parts["by_size"]) == 2, name
    assert table["searchified"]["mean"]["diversity"]["verdict"] == "resolved positive"


def test_equal_counts_that_are_not_equal_are_refused(synthetic):
    with pytest.raises(InputError, match="no composition was trained on as many samples"):
        equal_counts.compare(synthetic.study())
    study = synthetic.paper_study()
    cut = study.runs["study"] == "volume"
    study.runs["num_examples"][cut] *= 1.2
    with pytest.raises(InputError, match=r"off by 20% from the 410,000 samples"):
        equal_counts.compare(study)


def test_a_law_that_predicts_no_finite_loss_has_no_backtest(synthetic, monkeypatch):
    def diverging(name, *columns, **options):
        test = leave_largest_out(name, *columns, **options)
        score = replace(test.scores[name], mean_absolute=float("inf"))
        return replace(test, scores={**test.scores, name: score})

    monkeypatch.setattr(exchange, "leave_largest_out", diverging)
    law = law_of(synthetic.paper_study(noise=3.0), "both")[1]
    assert law["backtest"] is None
    assert "Without the largest size" not in prose.exchange_interaction(law)
