"""What a run promises: it learns, counts what it used, repeats itself bit by bit, and stops at a loss that is no number."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from unisc import metrics
from unisc.errors import InputError
from unisc.train import step as train_step
from unisc.train.logger import MetricsLogger
from unisc.train.loop import Runtime
from unisc.train.progress import DivergedError
from unisc.train.ranking import train


def leaves(result):
    return [np.asarray(x) for x in jax.tree.leaves(result.state)]


def test_training_learns_more_than_the_base_rate(make_model, train_columns, config):
    result = train(make_model(), train_columns, dataclasses.replace(config, num_epochs=8), embed_dim=4)
    rates = train_columns.labels.mean(axis=0)
    base = metrics.entropy(rates)
    assert result.loss < 0.9 * (base[0] + 0.5 * base[1]) / 1.5  # tasks weigh 1 and .5


def test_what_was_trained_on_is_counted(make_model, train_columns, config):
    result = train(make_model(), train_columns, config, embed_dim=4)
    counts = result.counts
    assert counts.num_examples == 2 * train_columns.num_examples
    assert counts.num_requests == 2 * train_columns.num_requests
    assert counts.num_positives == 2 * train_columns.labels[:, 0].sum()
    assert counts.num_steps == result.num_steps == int(result.state.step)
    assert 0 < counts.train_secs < 60


def test_the_same_run_gives_the_same_bits_and_another_seed_does_not(make_model, train_columns, config):
    once, again = (train(make_model(), train_columns, config, embed_dim=4) for _ in range(2))
    other = train(make_model(), train_columns, dataclasses.replace(config, seed=1), embed_dim=4)
    assert all((a == b).all() for a, b in zip(leaves(once), leaves(again), strict=True))
    assert (np.asarray(once.state.table) != np.asarray(other.state.table)).any()


def test_runs_that_differ_in_rates_seed_or_data_share_one_program(make_model, train_columns, config):
    first = train(make_model(), train_columns, config, embed_dim=4)
    before = train_step._compiled.cache_info().misses
    other = dataclasses.replace(config, learning_rate=0.002, weight_decay=0.1, purchase_weight=0.0, seed=5, num_epochs=1)
    train(make_model(3), train_columns.first(50), other, embed_dim=4, shape=first.shape)
    assert train_step._compiled.cache_info().misses == before


def test_rows_no_request_names_keep_their_first_values(make_model, train_columns, config):
    frozen = dataclasses.replace(config, table_learning_rate=0.0)
    still = train(make_model(), train_columns, frozen, embed_dim=4)
    moved = train(make_model(), train_columns, config, embed_dim=4)
    named = np.zeros(train_columns.spec.num_rows, bool)
    for fields in (train_columns.request_fields, train_columns.candidate_fields, train_columns.history_fields):
        named[fields] = True
    named[train_columns.spec.table_offsets()["position"]] = True  # position dropout
    changed = (np.asarray(still.state.table) != np.asarray(moved.state.table)).any(axis=1)
    assert not changed[len(named) :].any(), "rows that only fill the table up"
    changed = changed[: len(named)]
    assert not changed[~named].any() and changed[named].mean() > 0.9


def test_dropout_keys_advance_with_the_state(make_model, train_columns, config):
    model = make_model(dropout=0.5)
    result = train(model, train_columns, config, embed_dim=4)
    assert int(result.state.rest["dropout"]["rngs"]["count"]) == result.num_steps


@pytest.mark.parametrize("table_optimizer", ["adagrad", "adam"])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(make_model, train_columns, config, table_optimizer):
    wild = dataclasses.replace(config, learning_rate=1e38, warmup_frac=0.0, table_optimizer=table_optimizer)
    with pytest.raises(DivergedError, match=r"at step \d+: lower learning_rate"):
        train(make_model(), train_columns, wild, embed_dim=4)


def test_a_feature_that_is_no_number_is_named_with_its_step(make_model, train_columns, config, tmp_path):
    numeric = np.array(train_columns.candidate_numeric)
    numeric[-1, 1] = np.nan
    name = train_columns.spec.numeric_at("candidate")[1].name
    spoiled = dataclasses.replace(train_columns, candidate_numeric=numeric)
    with pytest.raises(InputError, match=rf"feature {name}: not a number in the batch of step \d+; correct the samples"):
        train(make_model(), spoiled, config, embed_dim=4, runtime=Runtime(directory=tmp_path, checkpoint_every_steps=1))
    assert list((tmp_path / "checkpoint").glob("[0-9]*")), "the last good checkpoint stays"


def test_bfloat16_learns_about_as_well_and_keeps_its_state_in_float32(make_model, train_columns, config):
    longer = dataclasses.replace(config, num_epochs=4)
    exact = train(make_model(), train_columns, longer, embed_dim=4)
    narrow = train(make_model(), train_columns, dataclasses.replace(longer, compute="bfloat16"), embed_dim=4)
    assert narrow.loss != exact.loss
    assert narrow.loss == pytest.approx(exact.loss, rel=0.05)
    assert all(x.dtype != jax.numpy.bfloat16 for x in leaves(narrow))


def test_the_rate_of_arithmetic_is_logged_and_steps_are_traced_where_asked(make_model, train_columns, config, tmp_path):
    runtime = Runtime(directory=tmp_path, log_every_steps=1, flops_of=lambda examples, requests: 1000 * examples, profile=True)
    result = train(make_model(), train_columns, dataclasses.replace(config, num_epochs=4), embed_dim=4, runtime=runtime)
    assert result.num_steps > 15
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["perf/gflops_per_sec"] == pytest.approx(1e-6 * result.counts.num_examples / result.counts.train_secs, rel=1e-3)
    assert "perf/mfu" not in last, "what this CPU can do is not known"
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_the_schedule_warms_up_and_falls(config):
    rates = [dataclasses.replace(config, warmup_frac=0.2, final_frac=0.1).rate_at(s, 10) for s in range(11)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[10] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[1:]))
    linear = dataclasses.replace(config, warmup_frac=0.0, decay="linear")
    assert [linear.rate_at(s, 4) for s in range(4)] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("change", [{"learning_rate": -1.0}, {"batch_candidates": 0}, {"warmup_frac": 2.0}, {"seed": -1}])
def test_impossible_settings_are_refused_by_name(config, change):
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(config, **change)


def test_the_log_and_the_callback_follow_the_run(make_model, train_columns, config, tmp_path):
    seen = []
    runtime = Runtime(
        directory=tmp_path, log_every_steps=5, on_step=lambda counts, total: seen.append((counts.num_steps, total))
    )
    result = train(make_model(), train_columns, config, embed_dim=4, runtime=runtime)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    assert lines[-1]["step"] == result.num_steps and lines[-1]["train/loss"] == result.loss
    assert seen == [(s + 1, result.num_steps) for s in range(result.num_steps)]


def test_a_resumed_log_drops_what_was_lost_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLogger(path) as log:
        for step in (10, 20, 30):
            log.write(step, loss=0.5)
    with path.open("a") as f:
        f.write('{"step": 3')
    with MetricsLogger(path, resumed_step=20) as log:
        log.write(25, loss=0.25)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 25]
