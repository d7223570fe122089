"""The portable hash: pinned values, and draws that are uniform and independent of each other."""

import ibis
import numpy as np
import pyarrow as pa
import pytest

from data_gen.es3.hashing import BUCKETS, with_hash
from data_gen.es3.session import DuckDBSession as Session


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    session = Session(tmp_path_factory.mktemp("hash"), threads=1, memory=2**29)
    yield session
    session.close()


def hashes(session: Session, request: np.ndarray, item: np.ndarray, seed: int) -> np.ndarray:
    rows = pa.table({"r": request.astype(np.int64), "i": item.astype(np.int32), "n": np.arange(len(request))})
    return session.fetch(with_hash(ibis.memtable(rows), "h", "r", "i", seed=seed).order_by("n"))["h"].to_numpy()


def reference(request: int, item: int, seed: int) -> int:
    mask = 2**31 - 1
    words = (seed, request & mask, (request >> 31) & mask, item & mask)
    factors = (0x2545F491, 0x5851F42D, 0x14057B7F, 0x369DEA0F)
    h = sum(w * f & mask for w, f in zip(words, factors, strict=True)) & mask
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        h = ((h ^ h >> shift) * factor) & mask
    return h ^ h >> 15


def test_equals_plain_integer_arithmetic(session):
    request = np.array([0, 1, -1, -5, 2**31, 2**63 - 1, -(2**63)], np.int64)
    item = np.array([0, 7, 0, 2**31 - 1, 3, 1, 2], np.int32)
    found = hashes(session, request, item, seed=5)
    assert found.tolist() == [reference(int(r), int(i), 5) for r, i in zip(request, item, strict=True)]
    assert found.min() >= 0
    assert found.max() < BUCKETS


@pytest.mark.parametrize(("stride", "seed"), [(1, 0), (256, 3), (2**32, 1)])
def test_draws_by_hash_are_uniform_and_pairwise_independent(session, stride, seed):
    requests, size, drawn = 4000, 40, 10
    h = hashes(session, np.repeat(np.arange(requests) * stride, size), np.tile(np.arange(size), requests), seed)
    taken = np.argsort(np.argsort(h.reshape(requests, size), axis=1), axis=1) < drawn
    p = drawn / size
    z = (taken.mean(axis=0) - p) / np.sqrt(p * (1 - p) / requests)
    assert np.abs(z).max() < 4.5, "every place in the list is drawn equally often"
    r = np.corrcoef(taken.T.astype(float))[np.triu_indices(size, 1)]
    assert r.std() * np.sqrt(requests) == pytest.approx(1, abs=0.15), "pairs spread as those of independent draws do"
