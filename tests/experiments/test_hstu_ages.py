"""HSTU trained by the experiment reads the ages of the samples' events, hashed tables or not, and they decide its scores."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import rankers
from unisc.config import Runtime, override
from unisc.data.columns import load
from unisc.data.pack import Views
from unisc.data.pipeline import PackedViews
from unisc.errors import InputError
from unisc.nn.tables import compose
from unisc.objectives.ranking import bce
from unisc.train.ranking import batch_shape
from unisc.train.state import read_rows

ROOT = Path(__file__).parents[2]
SMALL = {"train.batch_candidates": 128, "train.num_epochs": 3, "data.history_len": 5}
HASHED = [{}, {"train.hash_rows": 40}, {"train.hash_rows": 40, "train.collision": "double"}]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("tiny_samples", ROOT / "tests" / "data" / "tiny_samples.py")
    assert spec is not None and spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    train, test = tiny.random_requests(120, seed=1), tiny.random_requests(60, seed=2, first_id=1000)
    return tiny.write_samples(tmp_path_factory.mktemp("ages") / "exposed", train=train, test=test)


@pytest.fixture(scope="module", params=HASHED, ids=["whole", "share", "double"])
def trained(request, samples, tmp_path_factory):
    """Return what the experiment trained, the samples' columns in their order, and a batch of them as it was given."""
    config = override(rankers.default(samples, model="hstu", size="xxs"), SMALL | request.param)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            rankers.ranking, "train", lambda *a, train=rankers.ranking.train, **k: found.append(train(*a, **k)) or found[0]
        )
        rankers.run(config, Runtime(data_dir=str(samples), work_dir=str(tmp_path_factory.mktemp("run"))))
    columns = load(samples, "train", history_len=5)
    whole = PackedViews(columns, Views.all_of(columns), batch_shape(columns, config.train))[0]
    return found[0], columns, jax.tree.map(jnp.asarray, found[0].row_map(whole))


def rows_of(result, batch):
    return compose(read_rows(result.state.table, batch.unique_rows), batch.row_parts)


def test_the_ages_it_reads_are_those_of_the_samples(trained):
    result, columns, batch = trained
    read = np.asarray(result.model.ages(batch))[:, ::-1]
    column = [f.name for f in columns.spec.at("history")].index("history_age")
    stored = columns.history_fields[:, column] - columns.spec.table_offsets()["history_age"]
    seen = set()
    for r in range(int(batch.request_index.max()) + 1):
        ages = stored[columns.history_offsets[r] : columns.history_offsets[r + 1]][:5]
        np.testing.assert_array_equal(read[r, : len(ages)].argmax(axis=1), ages)
        np.testing.assert_array_equal(read[r].sum(axis=1)[batch.history_mask[r]], 1)
        seen |= set(ages.tolist())
    assert len(seen) > 4 and 0 not in seen


def test_its_time_tables_are_trained(trained):
    result, _, batch = trained
    graphdef, params, rest = nnx.split(result.model, nnx.Param, ...)

    def loss(params):
        return bce(nnx.merge(graphdef, params, rest)(rows_of(result, batch), batch), batch.labels, batch.weights)

    grads = jax.jit(jax.grad(loss))(params)
    for layer in range(result.model.config.num_layers):
        assert np.abs(grads["layers"][layer]["time"][...]).max() > 1e-6
        assert np.abs(result.model.layers[layer].time[...]).max() > 1e-3, "bias tables start at 0"


def test_ages_exchanged_among_events_change_scores_through_the_bias_alone(trained):
    """The embeddings stay as they are: only which row of the table an id means is exchanged, and HSTU alone reads that."""
    result, _, batch = trained
    spec = result.model.spec
    first = spec.table_offsets()["history_age"]
    ages = np.flatnonzero((batch.unique_rows > first) & (batch.unique_rows < first + 26))
    exchanged = batch.unique_rows.at[ages].set(batch.unique_rows[ages[::-1]])
    score = jax.jit(lambda rows, batch: result.model(rows, batch))
    rows, last = rows_of(result, batch), int(batch.request_index.max())
    moved = np.abs(score(rows, batch) - score(rows, batch._replace(unique_rows=exchanged))).max(axis=1)
    events = batch.history_mask.sum(axis=1)[batch.request_index]
    real = np.arange(len(moved)) < np.flatnonzero(batch.request_index == last)[-1] + 1
    assert moved[real & (events > 0)].mean() > 1e-5
    np.testing.assert_array_equal(moved[real & (events == 0)], 0)


def test_ages_too_coarsely_hashed_to_be_times_are_refused(samples, tmp_path):
    config = override(rankers.default(samples, model="hstu", size="xxs"), SMALL | {"train.hash_rows": 20})
    with pytest.raises(InputError, match="hash_rows 20: hashes table history_age, which HSTU reads as times; give more rows"):
        rankers.run(config, Runtime(data_dir=str(samples), work_dir=str(tmp_path)))
