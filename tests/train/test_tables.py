"""Hashed tables through the real step, against gradients of the whole table; and what a store of bfloat16 keeps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.data.features import Table
from unisc.data.hashing import HashConfig, RowMap
from unisc.data.pack import BatchShape
from unisc.data.pipeline import PackedRequests
from unisc.errors import InputError
from unisc.mesh import make_mesh
from unisc.nn.tables import compose, to_store
from unisc.objectives.ranking import ranking_loss
from unisc.train import state as train_state
from unisc.train.evaluate import EvalConfig, score
from unisc.train.optimizers import ADAM_B1, ADAM_B2, ADAM_EPS
from unisc.train.ranking import train
from unisc.train.state import ROW_MULTIPLE, read_rows, update_rows
from unisc.train.step import Hyper, make_eval_step, make_train_step, parts_of

EMBED_DIM, RATE = 4, 0.05


def reference(optimizer, table, moments, grads):
    """Step the rows that have a gradient, in float64; all others stay."""
    for row in np.flatnonzero(np.any(grads != 0, axis=1)):
        g = grads[row].astype(np.float64)
        if optimizer == "adagrad":
            moments["sum"][row] += np.mean(g**2)
            table[row] -= RATE * g / np.sqrt(moments["sum"][row])
        else:
            moments["touches"][row] += 1
            age = moments["touches"][row]
            moments["m"][row] = ADAM_B1 * moments["m"][row] + (1 - ADAM_B1) * g
            moments["v"][row] = ADAM_B2 * moments["v"][row] + (1 - ADAM_B2) * g**2
            v = moments["v"][row] / (1 - ADAM_B2**age)
            table[row] -= RATE * moments["m"][row] / (1 - ADAM_B1**age) / (np.sqrt(v) + ADAM_EPS)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
@pytest.mark.parametrize("collision", ["share", "double", "quotient_remainder"])
def test_a_step_on_hashed_tables_is_that_of_the_whole_tables_gradient(collision, optimizer, make_model, columns, shape):
    row_map, model = RowMap(columns.spec, HashConfig(hash_rows=16, collision=collision)), make_model()
    graphdef, none = nnx.graphdef(model), row_map.spec.num_rows
    state = train_state.create(
        model, num_rows=none, embed_dim=EMBED_DIM, seed=0, table_init_std=0.5, table_optimizer=optimizer, clip_norm=1.0
    )
    state = state._replace(table=state.table.at[none:].set(0))
    step = make_train_step(graphdef, 1.0, make_mesh(devices=jax.devices()[:1]))
    table = np.asarray(state.table, np.float64)
    moments = {name: np.zeros(m.shape) for name, m in state.table_moments.items()}

    @jax.jit
    def slope(whole_table, dense, batch):
        """The gradient of the loss in every row of the table, read id by id with no notion of distinct rows."""

        def loss(whole_table):
            padded = jnp.concatenate([whole_table, jnp.zeros((1, EMBED_DIM))])  # the last stands for no row
            rows = jnp.sum(padded[batch.row_parts], axis=1)
            logits = nnx.merge(graphdef, nnx.State(dense))(rows, batch)
            return ranking_loss(logits, batch.labels, batch.weights, task_weights=jnp.array([1.0, 0.5])).mean

        return jax.grad(loss)(whole_table)

    source = PackedRequests(columns, shape, seed=0)
    for index in range(4):
        whole = source[index]
        real = whole.unique_rows < columns.spec.num_rows
        parts = np.full((len(real), row_map.num_parts), len(table))
        parts[real] = row_map.rows(whole.unique_rows[real])
        parts = np.where(parts == none, len(table), parts)
        grads = slope(jnp.asarray(table, jnp.float32), state.dense, whole._replace(row_parts=parts.astype(np.int32)))
        reference(optimizer, table, moments, np.asarray(grads))
        hyper = Hyper(learning_rate=0.01, table_learning_rate=RATE, weight_decay=0.0, purchase_weight=0.5)
        state, _ = step(state, parts_of(row_map(whole), 1), np.asarray(hyper, np.float32))
        np.testing.assert_allclose(state.table, table, rtol=2e-4, atol=2e-5)
        for name, wanted in moments.items():
            np.testing.assert_allclose(state.table_moments[name], wanted, rtol=2e-4, atol=1e-8)

    logits = make_eval_step(graphdef)(state.dense, state.rest, state.table, row_map(source[0]))
    assert logits.shape == (shape.candidates, 2) and np.isfinite(logits).all()


def test_a_sum_of_rows_gives_each_the_gradient_of_the_sum():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    parts = jnp.asarray([[0, 1], [1, 3], [2, 4], [1, 1]])
    np.testing.assert_allclose(
        compose(rows, parts), np.stack([rows[0] + rows[1], rows[1] + rows[3], rows[2], 2 * rows[1]]), rtol=1e-6
    )
    slope = jax.grad(lambda r: jnp.sum(compose(r, parts) * jnp.arange(1.0, 5.0)[:, None]))(rows)
    np.testing.assert_allclose(slope[:, 0], [1, 1 + 2 + 4 + 4, 3, 2])
    assert compose(rows, None) is rows


def test_rounding_to_the_store_is_exact_where_it_can_be_and_right_on_average():
    values = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)), jnp.float32)
    below = values.astype(jnp.bfloat16)
    np.testing.assert_array_equal(to_store(values, values.dtype, 0), values)
    np.testing.assert_array_equal(to_store(below.astype(jnp.float32), below.dtype, 3), below)
    rounded = jax.jit(jax.vmap(lambda salt: to_store(values, below.dtype, salt)))(jnp.arange(2000))
    rounded = np.asarray(rounded, np.float64)
    spacing = 2.0 ** (np.floor(np.log2(np.abs(values))) - 7)
    assert (np.abs(rounded - values) < spacing).all(), "one of the two neighbours"
    bias = (rounded.mean(axis=0) - values) / spacing
    assert np.abs(bias).max() < 5 * 0.5 / np.sqrt(2000)
    special = jnp.asarray([[np.inf, -np.inf, np.nan, 0.0]], jnp.float32)
    np.testing.assert_array_equal(to_store(special, below.dtype, 7).astype(jnp.float32), special)


@pytest.mark.parametrize(("optimizer", "rate"), [("adagrad", 1e-3), ("adam", 2e-4)])
def test_a_store_of_bfloat16_learns_what_float32_does_from_updates_too_small_for_it(optimizer, rate, make_model):
    def run(dtype):
        state = train_state.create(
            make_model(),
            num_rows=64,
            embed_dim=8,
            seed=0,
            table_init_std=1.0,
            table_optimizer=optimizer,
            clip_norm=1.0,
            table_dtype=dtype,
        )
        assert state.table.dtype == dtype

        @jax.jit
        def step(table, moments, unique_rows, salt):
            rows = read_rows(table, unique_rows)
            return update_rows(table, moments, unique_rows, rows, jnp.ones_like(rows), jnp.float32(rate), salt)

        table, moments = state.table, state.table_moments
        for salt in range(300):
            table, moments = step(table, moments, jnp.arange(salt % 2, 64, 2, dtype=jnp.int32)[:16], jnp.int32(salt))
        return np.asarray(state.table, np.float64), np.asarray(table, np.float64), moments

    (start, single, moments), (start_half, half, moments_half) = run("float32"), run("bfloat16")
    np.testing.assert_array_equal(half[32:], start_half[32:])
    np.testing.assert_allclose((half - start_half)[:32].mean(), (single - start)[:32].mean(), rtol=0.05)
    for name in moments:
        assert moments_half[name].dtype == jnp.float32
        np.testing.assert_allclose(moments[name], moments_half[name])


@pytest.fixture(scope="module")
def columns(train_columns):
    return train_columns


@pytest.fixture(scope="module")
def shape(columns):
    return BatchShape.of(columns.spec, candidates=64, mean_list_len=columns.num_examples / columns.num_requests)


@pytest.mark.parametrize(
    "options",
    [
        {"hash_rows": 16},
        {"hash_rows": 16, "collision": "double", "num_parts": 4},
        {"hash_rows": 20, "collision": "quotient_remainder", "table_dtype": "bfloat16"},
        {"optimizer": "muon"},
        {"optimizer": "rmsprop_v2", "table_dtype": "bfloat16", "table_optimizer": "adam"},
    ],
)
def test_a_run_with_these_options_learns_and_is_scored_with_its_own_rows(options, make_model, config, columns, test_columns):
    config = dataclasses.replace(config, **options)
    trained = train(make_model(), columns, config, embed_dim=EMBED_DIM)
    stored = trained.row_map.spec.num_rows
    assert stored <= trained.state.table.shape[0] < stored + ROW_MULTIPLE
    assert (stored < columns.spec.num_rows) == ("hash_rows" in options)
    scores = score(trained.model, trained.state, test_columns, EvalConfig(), row_map=trained.row_map)
    assert np.isfinite(scores.exposed[test_columns.exposed]).all()
    assert trained.loss < 0.9


def test_scoring_without_the_rows_of_training_is_one_clear_error(make_model, config, columns, test_columns):
    wide = dataclasses.replace(
        columns, spec=dataclasses.replace(columns.spec, tables=(*columns.spec.tables, Table(name="z", num_rows=999)))
    )
    trained = train(make_model(), wide, dataclasses.replace(config, num_epochs=1), embed_dim=EMBED_DIM)
    with pytest.raises(InputError, match="rows: give the row_map that it was trained with"):
        score(trained.model, trained.state, test_columns, EvalConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer 'sgd': unknown; give one of adam, muon"),
        ({"table_dtype": "int8"}, "table_dtype 'int8': unknown; give one of float32, bfloat16"),
        ({"hash_rows": 1}, "hash_rows 1: give 0"),
        ({"collision": "x"}, "collision 'x': unknown"),
    ],
)
def test_bad_options_of_a_run(config, options, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(config, **options)
