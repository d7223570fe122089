"""The nearest query by TF-IDF cosine, against a dense computation."""

import math

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.es3.query_text import nearest_queries

WORDS = ["red", "wool", "coat", "Chair", "für", "42"]
text = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)


def dense(titles: list[str], queries: list[str]) -> dict[int, set[int]]:
    vocabulary = sorted({w for q in queries for w in q.lower().split()})
    frequency = {w: sum(w in q.lower().split() for q in queries) for w in vocabulary}

    def vector(words: str) -> np.ndarray:
        v = np.array(
            [words.lower().split().count(w) * (math.log((1 + len(queries)) / (1 + frequency[w])) + 1) for w in vocabulary]
        )
        return v / (np.linalg.norm(v) or 1)

    best = {}
    for i, title in enumerate(titles):
        scores = np.array([vector(title) @ vector(q) for q in queries])
        if scores.max() > 0:
            best[i] = int(np.flatnonzero(scores >= scores.max() - 1e-9)[0])
    return best


@settings(max_examples=60, deadline=None)
@given(st.lists(text, min_size=1, max_size=8), st.lists(text, min_size=1, max_size=8))
def test_equals_dense_cosine(titles, queries):
    found = nearest_queries(
        pa.table({"item_id": pa.array(range(len(titles)), pa.int32()), "title": titles}),
        pa.table({"query_id": pa.array(range(len(queries)), pa.int32()), "text": queries}),
    )
    assert dict(zip(found["near_item"].to_pylist(), found["near"].to_pylist(), strict=True)) == dense(titles, queries)


def test_no_items_or_no_words_is_no_match():
    none = pa.table({"item_id": pa.array([], pa.int32()), "title": pa.array([], pa.string())})
    queries = pa.table({"query_id": pa.array([0], pa.int32()), "text": ["..."]})
    assert len(nearest_queries(none, queries)) == 0
    one = pa.table({"item_id": pa.array([3], pa.int32()), "title": pa.array([None], pa.string())})
    assert len(nearest_queries(one, queries)) == 0
