"""Evaluation against values computed the long way, with and without a known truth."""

import dataclasses

import numpy as np
import pytest

from unisc import metrics
from unisc.errors import InputError
from unisc.train.evaluate import EvalConfig, Scores, evaluate, evaluate_scores, fit_platt, is_calibration, score
from unisc.train.oracle import Oracle, load_oracle
from unisc.train.ranking import train


@pytest.fixture(scope="module")
def trained(make_model, train_columns, config):
    return train(make_model(), train_columns, config, embed_dim=4)


@pytest.fixture(scope="module")
def truth(test_columns):
    rng = np.random.default_rng(5)
    p, top = rng.uniform(0.05, 0.6, (2, len(test_columns.item_id))).astype(np.float32)
    return Oracle(p_click=p, p_purchase=0.1 * p, p_click_top=top)


def per_request(columns):
    for q in np.flatnonzero(~is_calibration(columns.request_id)):
        yield slice(*columns.candidate_offsets[q : q + 2])


def test_scores_do_not_depend_on_the_batch(trained, test_columns):
    one, other = (
        score(trained.model, trained.state, test_columns, EvalConfig(batch_candidates=b, num_full_requests=40))
        for b in (37, 512)
    )
    for name in ("exposed", "full"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-5)
    assert (~np.isnan(one.exposed) == test_columns.exposed).all()
    scored = np.arange(len(one.full)) < test_columns.candidate_offsets[40]
    assert (~np.isnan(one.full) == scored).all()


def test_metrics_are_those_of_the_requests_not_used_for_calibration(trained, test_columns, truth):
    scores = score(trained.model, trained.state, test_columns, EvalConfig())
    got = evaluate_scores(scores, test_columns, oracle=truth).metrics
    labels, p = [], []
    hits, clicks_at_top, logits = [], [], []
    for rows in per_request(test_columns):
        shown = np.flatnonzero(test_columns.exposed[rows]) + rows.start
        labels += test_columns.labels[shown, 0].tolist()
        logits += scores.exposed[shown].tolist()
        p += truth.p_click[shown].tolist()
        best_first = np.argsort(-scores.full[rows], kind="stable")
        if test_columns.labels[rows, 0].any():
            hits.append(test_columns.labels[rows, 0][best_first[:5]].any())
        top = truth.p_click_top[rows].astype(float)
        clicks_at_top.append(top[best_first[:5]].sum() / np.sort(top)[-5:].sum())
    labels, logits, p = np.array(labels), np.array(logits), np.array(p, np.float64)
    assert got["eval/exposed/log_loss"] == pytest.approx(metrics.log_loss(labels, logits))
    assert got["eval/exposed/auc_roc"] == pytest.approx(metrics.auc_roc(labels, logits))
    assert got["eval/exposed/log_loss_expected_raw"] == pytest.approx(metrics.log_loss(p, logits))
    assert got["eval/oracle/log_loss"] == pytest.approx(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())
    assert got["eval/oracle/auc_roc"] == pytest.approx(metrics.auc_roc(p, p))
    assert got["eval/full/hr@5"] == pytest.approx(np.mean(hits))
    assert got["eval/full/oracle_clicks@5"] == pytest.approx(np.mean(clicks_at_top))
    calibrated = got["eval/exposed/platt_intercept"] + got["eval/exposed/platt_slope"] * logits
    assert got["eval/exposed/log_loss_calibrated"] == pytest.approx(metrics.log_loss(labels, calibrated))
    assert got["eval/exposed/log_loss_expected"] == pytest.approx(metrics.log_loss(p, calibrated))


def test_full_lists_are_held_against_the_truth_after_a_calibration_on_the_other_requests(trained, test_columns, truth):
    scores = score(trained.model, trained.state, test_columns, EvalConfig())
    got = evaluate_scores(scores, test_columns, oracle=truth).metrics
    aside = np.repeat(is_calibration(test_columns.request_id), np.diff(test_columns.candidate_offsets))
    p, logits = truth.p_click_top.astype(np.float64), scores.full.astype(np.float64)
    intercept, slope = fit_platt(p[aside], logits[aside])
    calibrated, p = intercept + slope * logits[~aside], p[~aside]
    assert got["eval/full/log_loss_expected"] == pytest.approx(metrics.log_loss(p, calibrated))
    assert got["eval/full/auc_roc_expected"] == pytest.approx(metrics.auc_roc(p, logits[~aside]))
    assert got["eval/oracle/full_log_loss"] == pytest.approx(metrics.entropy(p).mean())
    assert got["eval/full/log_loss_expected"] >= got["eval/oracle/full_log_loss"]


def test_every_key_of_the_contract_is_there(trained, test_columns, truth):
    got = evaluate(trained.model, trained.state, test_columns, EvalConfig(), oracle=truth).metrics
    exposed = ["log_loss", "log_loss_calibrated", "log_loss_expected", "auc_roc", "gauc", "ne", "hr@5", "mrr", "ndcg"]
    expected = [f"eval/exposed/{k}" for k in exposed] + [f"eval/full/{k}" for k in ("hr@5", "auc_roc", "oracle_clicks@5")]
    expected += ["eval/full/log_loss_expected", "eval/full/auc_roc_expected", "eval/oracle/full_log_loss"]
    assert {*expected, "eval/oracle/log_loss", "eval/oracle/auc_roc"} <= set(got)
    assert all(isinstance(v, float) and np.isfinite(v) for v in got.values())


def test_without_a_truth_there_are_no_keys_that_need_one(trained, test_columns):
    got = evaluate(trained.model, trained.state, test_columns, EvalConfig()).metrics
    assert not [k for k in got if "oracle" in k or "expected" in k]


def test_saved_sums_add_up_to_the_metrics(trained, test_columns, truth, tmp_path):
    result = evaluate(trained.model, trained.state, test_columns, EvalConfig(), oracle=truth)
    result.save(tmp_path / "eval.npz")
    with np.load(tmp_path / "eval.npz", allow_pickle=False) as saved:
        count = saved["exposed/num_candidates"].sum()
        for name in ("log_loss", "log_loss_calibrated", "log_loss_expected"):
            assert saved[f"exposed/{name}_sum"].sum() / count == pytest.approx(result.metrics[f"eval/exposed/{name}"])
        assert saved["exposed/oracle_log_loss_sum"].sum() / count == pytest.approx(result.metrics["eval/oracle/log_loss"])
        assert np.nanmean(saved["exposed/hr@5"]) == pytest.approx(result.metrics["eval/exposed/hr@5"])
        lengths = {len(saved[k]) for k in saved.files if k != "exposed/logits"}
        assert lengths == {len(saved["request_id"])} and len(saved["exposed/logits"]) == count


def test_the_true_probabilities_reach_the_floor_and_nothing_gets_below(test_columns, truth):
    logits = np.log(truth.p_click / (1 - truth.p_click)).astype(np.float32)
    perfect = evaluate_scores(shown_only(test_columns, logits), test_columns, oracle=truth).metrics
    noisy = evaluate_scores(shown_only(test_columns, logits + 0.5), test_columns, oracle=truth).metrics
    floor = perfect["eval/oracle/log_loss"]
    assert perfect["eval/exposed/log_loss_expected_raw"] == pytest.approx(floor, rel=1e-6)
    assert noisy["eval/exposed/log_loss_expected_raw"] > floor
    assert perfect["eval/exposed/auc_roc_expected"] == pytest.approx(perfect["eval/oracle/auc_roc"], rel=1e-6)


def shown_only(columns, logits):
    return Scores(exposed=np.where(columns.exposed, logits, np.nan), full=np.full(len(logits), np.nan))


def test_a_floor_is_evaluated_like_a_model(test_columns):
    position = [f.name for f in test_columns.spec.numeric].index("reciprocal_position")
    floor = shown_only(test_columns, test_columns.candidate_numeric[:, position])
    got = evaluate_scores(floor, test_columns).metrics["eval/exposed/mrr"]
    expected = []
    for rows in per_request(test_columns):
        clicked = np.flatnonzero(test_columns.labels[rows, 0])
        expected += [1 / (clicked[0] + 1)] if len(clicked) else []  # in these samples slot k is candidate k
    assert got == pytest.approx(np.mean(expected))


def test_platt_undoes_a_shift_and_a_scale():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=200_000)
    labels = rng.random(200_000) < 1 / (1 + np.exp(-logits))
    intercept, slope = fit_platt(labels, 3 * logits - 2)
    assert slope == pytest.approx(1 / 3, rel=0.02) and intercept == pytest.approx(2 / 3, rel=0.05)


@pytest.mark.parametrize(
    ("labels", "logits", "expected"),
    [
        ([0, 0, 0], [0.1, 0.2, 0.3], (0.0, 1.0)),
        ([], [], (0.0, 1.0)),
        ([0, 1, 0, 0], [2.0, 2.0, 2.0, 2.0], (np.log(1 / 3) - 2, 1.0)),
    ],
)
def test_platt_leaves_alone_what_the_data_does_not_say(labels, logits, expected):
    assert fit_platt(np.array(labels), np.array(logits)) == pytest.approx(expected, abs=1e-6)


def test_platt_survives_separable_data():
    intercept, slope = fit_platt(np.array([0, 0, 1, 1]), np.array([-2.0, -1, 1, 2]))
    assert np.isfinite([intercept, slope]).all() and slope > 1


def test_a_fifth_of_the_requests_calibrates_whatever_their_ids_look_like():
    for ids in (np.arange(50_000), -np.arange(50_000), 7 * np.arange(50_000)):
        assert is_calibration(ids).mean() == pytest.approx(0.2, abs=0.01)


def test_a_test_day_without_positives_is_named(trained, test_columns):
    silent = dataclasses.replace(test_columns, labels=np.zeros_like(test_columns.labels))
    with pytest.raises(InputError, match="test day without positives"):
        evaluate(trained.model, trained.state, silent, EvalConfig())


def test_a_test_day_on_which_nothing_was_shown_is_named(trained, test_columns):
    hidden = dataclasses.replace(test_columns, exposed=np.zeros_like(test_columns.exposed))
    with pytest.raises(InputError, match="without exposed candidates"):
        evaluate(trained.model, trained.state, hidden, EvalConfig())


def test_the_oracle_is_joined_by_request_and_item_and_kept(test_columns, truth, write_oracle, tmp_path):
    logs = write_oracle(tmp_path / "logs", test_columns, truth.p_click, truth.p_click_top, extra_requests=[5, 1003, 9999])
    for _ in range(2):
        found = load_oracle(logs, test_columns)
        np.testing.assert_array_equal(found.p_click, truth.p_click)
        np.testing.assert_array_equal(found.p_click_top, truth.p_click_top)
    part = test_columns.first(10)
    np.testing.assert_array_equal(load_oracle(logs, part).p_click, truth.p_click[: part.num_examples])


def test_logs_without_an_oracle_have_none_and_foreign_ones_are_refused(test_columns, truth, write_oracle, tmp_path):
    foreign = dataclasses.replace(test_columns, request_id=test_columns.request_id + 50)
    logs = write_oracle(tmp_path / "logs", foreign, truth.p_click, truth.p_click_top)
    with pytest.raises(InputError, match="no true probability of item"):
        load_oracle(logs, test_columns)
    for part in (logs / "oracle").iterdir():
        part.unlink()
    (logs / "oracle").rmdir()
    manifest_only = logs / "manifest.json"
    manifest_only.unlink()
    from unisc.data import manifest

    manifest.write(logs, kind="logs", config={}, counts={})
    assert load_oracle(logs, test_columns) is None
