"""Fixtures for tests of training: small samples, a small model, and a truth to evaluate against."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flax import nnx

from unisc.data import manifest
from unisc.data.columns import load
from unisc.data.schema import ORACLE
from unisc.train.ranking import TrainConfig

EMBED_DIM = 4


@pytest.fixture(scope="session")
def samples(tiny, tmp_path_factory):
    """A samples directory of 400 train and 150 test requests."""
    train, test = tiny.random_requests(400, seed=1), tiny.random_requests(150, seed=2, first_id=1000)
    return tiny.write_samples(tmp_path_factory.mktemp("train") / "exposed", train=train, test=test)


@pytest.fixture(scope="session")
def train_columns(samples):
    return load(samples, "train", history_len=3)


@pytest.fixture(scope="session")
def test_columns(samples):
    return load(samples, "test", history_len=3)


@pytest.fixture(scope="session")
def make_model(load_file, train_columns):
    """Build the test model from a seed."""
    module = load_file(Path(__file__).with_name("tiny_model.py"))

    def make(seed=0, hidden_dim=8, **options):
        return module.TinyModel(train_columns.spec, EMBED_DIM, hidden_dim, rngs=nnx.Rngs(seed), **options)

    return make


@pytest.fixture(scope="session")
def config():
    return TrainConfig(
        batch_candidates=128,
        learning_rate=0.01,
        table_learning_rate=0.1,
        weight_decay=0.0,
        purchase_weight=0.5,
        seed=0,
        num_epochs=2,
    )


@pytest.fixture
def write_oracle():
    """Write a logs directory with nothing in it but the given truth about the test requests' candidates."""

    def write(directory, columns, p_click, p_click_top, *, extra_requests=(), num_shards=2):
        n = len(columns.item_id)
        table = {
            "request_id": np.repeat(columns.request_id, np.diff(columns.candidate_offsets)),
            "item_id": columns.item_id,
            "p_click": p_click.astype(np.float32),
            "p_purchase": (0.1 * p_click).astype(np.float32),
            "p_click_top": p_click_top.astype(np.float32),
        }
        others = {name: np.zeros(len(extra_requests), column.dtype) for name, column in table.items()}
        others["request_id"] = np.array(extra_requests, np.int64)
        order = np.random.default_rng(0).permutation(n + len(extra_requests))
        whole = {name: np.concatenate([column, others[name]])[order] for name, column in table.items()}
        (directory / "oracle").mkdir(parents=True)
        for shard in range(num_shards):
            part = {name: column[shard::num_shards] for name, column in whole.items()}
            pq.write_table(pa.table(part, schema=ORACLE.columns), directory / "oracle" / f"part-{shard:05d}.parquet")
        manifest.write(directory, kind="logs", config={}, counts={}, domains=["search"], test_start=0, end_ts=1)
        return directory

    return write
