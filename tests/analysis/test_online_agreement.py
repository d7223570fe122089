"""Rank correlation of offline metrics with online lifts, and the figure of it."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from analysis.figures import offline_online
from analysis.online_agreement import Judged, rank_correlation
from unisc.report import style


def judged(seed, rankers=12, users=300, agree=1.0):
    """Rankers of known quality; the AUC says it with a share `agree`, the log loss says the same turned round."""
    rng = np.random.default_rng(seed)
    quality = rng.standard_normal(rankers)
    n = rng.poisson(6, users) + 1.0
    control = rng.poisson(2 * n).astype(float)
    sold = control + rng.poisson(n * (0.5 + 0.1 * quality[:, None]).clip(0.01), (rankers, users))
    auc = 0.7 + 0.01 * (agree * quality + (1 - agree) * rng.standard_normal(rankers))
    return Judged(
        names=[f"r{k}" for k in range(rankers)],
        families=["dlrm", "hhsft", "din"] * (rankers // 3),
        offline={"eval/exposed/auc_roc": auc, "eval/exposed/log_loss_calibrated": 1 - auc},
        metric="clicks",
        control_name="shop",
        requests=n,
        control=control,
        sold=sold,
    )


def test_the_correlation_is_spearmans_and_better_means_better():
    data = judged(0)
    auc = rank_correlation(data, "eval/exposed/auc_roc", resamples=200)
    loss = rank_correlation(data, "eval/exposed/log_loss_calibrated", resamples=200)
    lift = [of.value for of in data.lifts()]
    assert auc.value == pytest.approx(stats.spearmanr(data.offline["eval/exposed/auc_roc"], lift).statistic)
    assert auc.value == pytest.approx(loss.value) and auc.low > 0.3


def test_an_offline_metric_that_says_nothing_is_not_resolved():
    found = [rank_correlation(judged(seed, agree=0.0), "eval/exposed/auc_roc", resamples=200) for seed in range(12)]
    assert sum(of.sign == 0 for of in found) >= 9


def test_two_rankers_have_no_correlation_worth_the_name():
    data = judged(0)
    two = Judged(
        names=data.names[:2], families=data.families[:2], offline={k: v[:2] for k, v in data.offline.items()},
        metric="clicks", control_name="shop", requests=data.requests, control=data.control, sold=data.sold[:2],
    )  # fmt: skip
    assert np.isnan(rank_correlation(two, "eval/exposed/auc_roc").value)


def test_the_figure_has_a_panel_a_metric_and_says_what_was_counted():
    text = style.svg(offline_online(judged(1)))
    assert "12 rankers, 300 users" in text and "90% intervals" in text and text.count("Spearman") == 2


def test_no_two_families_look_the_same():
    many = dataclasses.replace(judged(0), families=[f"family {k}" for k in range(12)])
    figure = offline_online(many)
    looks = [(line.get_color(), line.get_marker()) for line, *_ in (box.lines for box in figure.axes[0].containers)]
    assert len(set(looks)) == len(looks) == 12
