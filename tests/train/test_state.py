"""The sparse table optimisers against dense references, and the state's independence of the model it came from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unisc.train import state as train_state
from unisc.train.optimizers import ADAM_B1, ADAM_B2, ADAM_EPS
from unisc.train.state import read_rows, update_rows

NUM_ROWS, DIM = 7, 3


def batches(seed=0, count=5):
    """Row sets, padded by the number of rows, with gradients."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        rows = rng.choice(NUM_ROWS, 3, replace=False)
        yield np.array([*rows, NUM_ROWS, NUM_ROWS], np.int32), rng.normal(size=(5, DIM)).astype(np.float32)


def run(moments, rate=0.1):
    table = jnp.ones((NUM_ROWS, DIM))
    for rows, grads in batches():
        table, moments = update_rows(table, moments, rows, read_rows(table, rows), jnp.asarray(grads), jnp.float32(rate))
    return np.asarray(table), moments


def test_adagrad_divides_a_row_by_the_root_of_its_summed_mean_squares():
    got, moments = run({"sum": jnp.zeros(NUM_ROWS)})
    table, total = np.ones((NUM_ROWS, DIM)), np.zeros(NUM_ROWS)
    for rows, grads in batches():
        for row, grad in zip(rows[:3], grads, strict=False):
            total[row] += np.mean(grad.astype(np.float64) ** 2)
            table[row] -= 0.1 * grad / np.sqrt(total[row])
    np.testing.assert_allclose(got, table, rtol=1e-5)
    np.testing.assert_allclose(moments["sum"], total, rtol=1e-5)


def test_adam_corrects_its_bias_by_how_often_a_row_was_touched():
    zeros = jnp.zeros((NUM_ROWS, DIM))
    got, _ = run({"m": zeros, "v": zeros, "touches": jnp.zeros(NUM_ROWS)})
    table, m, v, touches = np.ones((NUM_ROWS, DIM)), np.zeros((NUM_ROWS, DIM)), np.zeros((NUM_ROWS, DIM)), np.zeros(NUM_ROWS)
    for rows, grads in batches():
        for row, grad in zip(rows[:3], grads, strict=False):
            touches[row] += 1
            m[row] = ADAM_B1 * m[row] + (1 - ADAM_B1) * grad
            v[row] = ADAM_B2 * v[row] + (1 - ADAM_B2) * grad.astype(np.float64) ** 2
            corrected = v[row] / (1 - ADAM_B2 ** touches[row])
            table[row] -= 0.1 * m[row] / (1 - ADAM_B1 ** touches[row]) / (np.sqrt(corrected) + ADAM_EPS)
    np.testing.assert_allclose(got, table, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_rows_that_are_not_touched_or_get_no_gradient_stay(optimizer, make_model):
    state = train_state.create(
        make_model(), num_rows=NUM_ROWS, embed_dim=DIM, seed=0, table_init_std=1.0, table_optimizer=optimizer, clip_norm=1.0
    )
    rows = np.array([1, 4, NUM_ROWS], np.int32)
    table, moments = state.table, state.table_moments
    for grads in (np.ones((3, DIM), np.float32), np.array([[1.0] * DIM, [0.0] * DIM, [9.0] * DIM], np.float32)):
        before = table
        table, moments = update_rows(table, moments, rows, read_rows(table, rows), jnp.asarray(grads), jnp.float32(0.1))
    changed = (table != before).any(axis=1)[:NUM_ROWS]
    assert changed.tolist() == [False, True, False, False, False, False, False]


def test_a_run_leaves_the_model_it_was_given_usable(make_model):
    model = make_model()
    state = train_state.create(
        model, num_rows=NUM_ROWS, embed_dim=DIM, seed=0, table_init_std=1.0, table_optimizer="adagrad", clip_norm=1.0
    )
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)
    assert np.isfinite(model.hidden.kernel[...]).all()
