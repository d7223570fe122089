"""Encoders are trained by the loop that trains rankers: resumed bit by bit, on any number of devices."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.errors import InputError, Stopped
from unisc.train.encoder import EncoderTrainConfig, train_encoder
from unisc.train.loop import Runtime

NUM_ROWS, DIM, BATCH = 50, 4, 8


class Batch(NamedTuple):
    """Features, a row for each example, the rows that are touched, and what is to be foretold."""

    x: np.ndarray
    row: np.ndarray
    unique_rows: np.ndarray
    y: np.ndarray


class Source:
    """Forty batches of a noiseless rule: a linear map of the features and a bias of the example's row."""

    batch_size, identity = BATCH, "rule"

    def __len__(self):
        return 40

    def __getitem__(self, index):
        draw = np.random.default_rng([3, index])
        x, row = draw.standard_normal((BATCH, DIM), np.float32), draw.integers(0, 10, BATCH)
        unique, place = np.unique(row, return_inverse=True)
        padded = np.full(BATCH, NUM_ROWS, np.int32)
        padded[: len(unique)] = unique
        return Batch(x, place.astype(np.int32), padded, (x @ np.arange(DIM) + row / 5).astype(np.float32))


class Linear(nnx.Module):
    """A linear map with dropout, and a scale that is not trained."""

    def __init__(self, *, rate=0.0):
        self.kernel = nnx.Param(jnp.zeros((DIM,)))
        self.scale = nnx.Variable(jnp.ones(()))
        self.dropout = nnx.Dropout(rate, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dropout(x) @ self.kernel[...] * self.scale[...]


def loss(model, rows, batch, shared):
    """Return the mean squared error; `shared` is added to what is foretold."""
    bias = 0.0 if rows is None else rows[batch.row, 0]
    error = jnp.mean((model(batch.x) + bias + shared - batch.y) ** 2)
    return error, {"rmse": jnp.sqrt(error)}


CONFIG = EncoderTrainConfig(batch_size=BATCH, learning_rate=0.2, weight_decay=0.0, seed=0, table_learning_rate=1.0)


def absolute(model, rows, batch, shared):
    """Return the mean absolute error."""
    return jnp.mean(jnp.abs(model(batch.x) + rows[batch.row, 0] - batch.y)), {}


def fit(config=CONFIG, *, rate=0.0, num_rows=NUM_ROWS, runtime=None, of=loss):
    return train_encoder(
        Linear(rate=rate), Source(), config, loss=of, shared=np.float32(0), num_rows=num_rows, embed_dim=2, runtime=runtime
    )


def test_it_learns_the_rule_and_moves_only_touched_rows_and_parameters():
    result = fit()
    assert result.loss < 0.25
    assert result.counts.num_examples == 40 * BATCH and result.num_steps == 40
    np.testing.assert_allclose(result.model.kernel[...], np.arange(DIM), atol=0.5)
    assert result.model.scale[...] == 1.0
    before = fit(dataclasses.replace(CONFIG, learning_rate=0.0, table_learning_rate=0.0)).state.table
    moved = np.any(np.asarray(result.state.table) != np.asarray(before), axis=1)
    assert moved[:10].all() and not moved[10:].any()
    assert fit(num_rows=0).loss > 2 * result.loss  # without the table the rows' biases cannot be learnt


@pytest.mark.parametrize("stop_at", [1, 7, 39])
def test_a_stopped_run_ends_where_an_undisturbed_one_does(tmp_path, stop_at):
    whole = fit(rate=0.3)
    steps = []
    runtime = Runtime(
        directory=tmp_path,
        checkpoint_every_steps=5,
        on_step=lambda counts, _: steps.append(counts.num_steps),
        should_stop=lambda: len(steps) == stop_at - 1,
    )
    with pytest.raises(Stopped):
        fit(rate=0.3, runtime=runtime)
    resumed = fit(rate=0.3, runtime=Runtime(directory=tmp_path, checkpoint_every_steps=5))
    for a, b in zip(jax.tree.leaves(whole.state.dense), jax.tree.leaves(resumed.state.dense), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.state.table, resumed.state.table)
    assert whole.loss == resumed.loss and resumed.counts.num_examples == whole.counts.num_examples


def test_another_run_s_checkpoint_is_refused(tmp_path):
    fit(runtime=Runtime(directory=tmp_path, checkpoint_every_steps=20))
    other = dataclasses.replace(CONFIG, learning_rate=0.1)
    with pytest.raises(InputError, match="holds the checkpoint of another run"):
        fit(other, runtime=Runtime(directory=tmp_path, checkpoint_every_steps=20))
    with pytest.raises(InputError, match="holds the checkpoint of another run"):
        fit(runtime=Runtime(directory=tmp_path, checkpoint_every_steps=20), of=absolute)


def test_bfloat16_keeps_parameters_wide_and_comes_close():
    result = fit(dataclasses.replace(CONFIG, compute="bfloat16"))
    assert result.model.kernel[...].dtype == jnp.float32
    np.testing.assert_allclose(result.model.kernel[...], fit().model.kernel[...], atol=0.2)


DEVICES = """
import sys
sys.path.insert(0, sys.argv[1])
import jax, numpy as np
from test_encoder import fit
found = fit()
np.savez(sys.argv[2], devices=jax.device_count(), loss=found.loss, table=found.state.table, kernel=found.model.kernel[...])
"""


def test_eight_devices_train_as_one(tmp_path):
    found = {}
    for count in (1, 8):
        environ = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", DEVICES, str(Path(__file__).parent), str(tmp_path / f"{count}.npz")]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found[count] = np.load(tmp_path / f"{count}.npz")
        assert found[count]["devices"] == count
    for name in ("loss", "table", "kernel"):
        np.testing.assert_allclose(found[1][name], found[8][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: give a number of at least 1"),
        ({"optimizer": "sgd"}, "optimizer 'sgd': unknown; give one of adam"),
        ({"warmup_frac": 1.5}, "warmup_frac 1.5: give a number from 0 to 1"),
        ({"learning_rate": float("nan")}, "learning_rate nan: give a number of at least 0"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        dataclasses.replace(CONFIG, **changes)
