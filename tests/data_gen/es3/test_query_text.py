"""The query nearest to a title: the exact search against a dense one, the graph against the exact search."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.es3 import query_text
from data_gen.es3.query_text import DIMS, TextSpace, nearest_queries

WORDS = ["red", "wool", "coat", "coats", "Chair", "für", "42", "红色", "\x00", "\u200b"]
text = st.none() | st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join) | st.text(max_size=6)
fuzzy = settings(derandomize=True, deadline=None, max_examples=60)


def catalogue(texts: list[str | None], ids: list[int] | None = None) -> pa.Table:
    return pa.table({"query_id": pa.array(ids or range(len(texts)), pa.int32()), "text": pa.array(texts, pa.string())})


def shop(titles: list[str | None], ids: list[int] | None = None) -> pa.Table:
    return pa.table({"item_id": pa.array(ids or range(len(titles)), pa.int32()), "title": pa.array(titles, pa.string())})


def matches(items: pa.Table, queries: pa.Table) -> dict[int, int]:
    found, facts = nearest_queries(items, queries)
    assert found.schema == pa.schema([("near_item", pa.int32()), ("near", pa.int32())])
    assert found["near_item"].to_pylist() == sorted(found["near_item"].to_pylist())
    assert facts["matched"] == len(found)
    assert (facts["items"], facts["queries"]) == (len(items), len(queries))
    return dict(zip(found["near_item"].to_pylist(), found["near"].to_pylist(), strict=True))


def dense(titles: list[str | None], texts: list[str | None]) -> dict[int, int]:
    space = TextSpace(texts)
    scores = np.round(space.embed(titles).astype(np.float64) @ space.embed(texts).astype(np.float64).T, 9)
    best = {i: int(row.argmax()) for i, row in enumerate(scores) if row.max(initial=0) > 0}
    return {i: j for i, j in best.items() if space.share(titles[i], texts[j])}


@pytest.fixture
def graph(monkeypatch):
    monkeypatch.setattr(query_text, "EXACT_LIMIT", 0)


@fuzzy
@given(st.lists(text, max_size=8), st.lists(text, max_size=8))
def test_equals_a_dense_cosine(titles, texts):
    assert matches(shop(titles), catalogue(texts)) == dense(titles, texts)


@fuzzy
@given(st.lists(text, max_size=8), st.lists(text, max_size=8), st.randoms(use_true_random=False))
def test_no_order_of_rows_changes_a_match(titles, texts, random):
    items, queries = (random.sample(range(len(rows)), len(rows)) for rows in (titles, texts))
    moved = matches(shop([titles[i] for i in items], items), catalogue([texts[i] for i in queries], queries))
    assert moved == matches(shop(titles), catalogue(texts))


@fuzzy
@given(st.lists(text, max_size=8))
def test_vectors_are_unit_rows_and_do_not_depend_on_their_neighbours(texts):
    space = TextSpace(["red coat", "coats", "für 红色"])
    rows = space.embed(texts)
    assert rows.shape == (len(texts), DIMS)
    assert rows.dtype == np.float32
    norms = np.linalg.norm(rows, axis=1)
    assert np.all((norms == 0) | (np.abs(norms - 1) < 1e-6))
    for row, one in zip(rows, texts, strict=True):
        assert row.tobytes() == space.embed([one])[0].tobytes()


def test_a_repeated_word_counts_once():
    red, repeated = TextSpace(["red coat"]).embed(["red coat", "coat red, red"])
    assert red.tobytes() == repeated.tobytes()


def test_unrelated_texts_are_unlike_on_average():
    rng = np.random.default_rng(0)
    texts = [" ".join("".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 7)) for _ in range(6)) for _ in range(100)]
    rows = TextSpace(texts).embed(texts)
    assert abs(np.mean((rows @ rows.T)[~np.eye(100, dtype=bool)])) < 0.03


def test_best_rounds_before_it_compares():
    vector, queries = np.array([[1, 1e-6]], np.float32), np.array([[0.5, 0], [0.5, 1e-6], [0.5, -1]], np.float32)
    near, similarity = query_text._best(vector, queries, np.zeros(3, int), np.array([2, 1, 0]))
    assert (near.tolist(), similarity.tolist()) == ([0], [0.5])


def test_exact_compares_in_double_precision():
    rng = np.random.default_rng(0)
    vectors, base = rng.normal(size=(50, DIMS)), rng.normal(size=DIMS)
    vectors, base = vectors / np.linalg.norm(vectors, axis=1, keepdims=True), base / np.linalg.norm(base)
    vectors, queries = vectors.astype(np.float32), (base + rng.normal(scale=1e-8, size=(40, DIMS))).astype(np.float32)
    scores = np.round(vectors.astype(np.float64) @ queries.astype(np.float64).T, 9)
    assert query_text._exact(vectors, queries)[0].tolist() == scores.argmax(axis=1).tolist()


def test_a_shared_word_outweighs_two_like_ones():
    assert matches(shop(["coat hangers"]), catalogue(["coats hanger", "coat"])) == {0: 1}


def test_a_word_outweighs_what_is_like_it_and_a_like_one_beats_nothing():
    queries = catalogue(["coats", "coat", "chair"])
    assert matches(shop(["coat", "coatss", "armchair", "table", None, "", "\x00"]), queries) == {0: 1, 1: 0, 2: 2}


def test_a_rare_word_outweighs_a_common_one():
    assert matches(shop(["red zipper"]), catalogue(["red", "zipper", "red hat", "red shoe"])) == {0: 1}


@pytest.mark.parametrize("limit", [0, 100])
def test_equal_texts_and_equal_words_go_to_the_smallest_query(monkeypatch, limit):
    monkeypatch.setattr(query_text, "EXACT_LIMIT", limit)
    queries = catalogue(["coat red", "red coat", *["Red, coat!"] * 40], [39, 4, *range(50, 90)])
    assert matches(shop(["a red coat"], [7]), queries) == {7: 4}


def test_ties_beyond_ten_go_to_the_smallest_query():
    words = [f"{a}{b}" for a in "abcdef" for b in "uvwxyz"]  # of two characters, so without grams; all equally rare
    space = TextSpace(words)
    assert dense([" ".join(words)], words) == matches(shop([" ".join(words)]), catalogue(words))
    assert len(np.unique(space.embed(words), axis=0)) > 10


def test_a_collision_of_hashes_is_no_match(monkeypatch):
    monkeypatch.setattr(query_text, "_hash", lambda _: 0)
    assert matches(shop(["ab", "cd"]), catalogue(["ab", "ef", "ef cd"])) == {0: 0}


def test_one_query_and_none():
    assert matches(shop(["red coat", "chair"]), catalogue(["coat"], [5])) == {0: 5}
    assert matches(shop(["red coat"]), catalogue([])) == {}
    assert matches(shop(["red coat"]), catalogue([None, "", "…"])) == {}
    assert matches(shop([]), catalogue(["coat"])) == {}


def test_facts_of_the_exact_search():
    _, facts = nearest_queries(shop(["red", "red coat", "table"]), catalogue(["red", "red"]))
    assert facts == {
        "queries": 2,
        "items": 3,
        "matched": 2,
        "method": "exact",
        "recall_at_1": 1.0,
        "mean_similarity": pytest.approx(1, abs=1e-6),
    }


@pytest.mark.usefixtures("graph")
@pytest.mark.parametrize("number", [1, 2, 9, 300])
def test_the_graph_finds_the_exact_match_among_few(number):
    rng = np.random.default_rng(number)
    texts, titles = ([" ".join(rng.choice(WORDS[:7], 3)) for _ in range(n)] for n in (number, 40))
    assert matches(shop([*titles, None]), catalogue(texts)) == dense(titles, texts)
    facts = nearest_queries(shop(titles), catalogue(texts))[1]
    assert (facts["method"], facts["recall_at_1"]) == ("hnsw", 1.0)


def test_recall_counts_the_misses_of_the_graph(monkeypatch):
    monkeypatch.setattr(query_text, "EXACT_LIMIT", 0)
    monkeypatch.setattr(
        query_text, "_approximate", lambda vectors, *_: (np.zeros(len(vectors), int), np.full(len(vectors), 0.1))
    )
    assert nearest_queries(shop(["red", "coat"]), catalogue(["red", "coat"]))[1]["recall_at_1"] == 0


def words_of(seed: int, rows: int, length: int, vocabulary: int = 30000) -> list[str]:
    """Texts of made-up words, as unevenly frequent as real ones."""
    rng = np.random.default_rng(seed)
    syllables = np.array([a + b for a in "bdfgklmnprst" for b in "aeiou"])
    names = ["".join(syllables[rng.integers(0, 60, 2 + i % 3)]) for i in range(vocabulary)]
    ranks = np.minimum(rng.pareto(0.7, (rows, length)) * 5, vocabulary - 1).astype(int)
    return [" ".join(names[i] for i in row) for row in ranks]


def shop_and_catalogue(items: int, queries: int) -> tuple[pa.Table, pa.Table]:
    """Queries are parts of titles, as most are."""
    titles, rng = words_of(1, max(items, queries), 8), np.random.default_rng(2)
    starts, lengths = rng.integers(0, 5, queries), rng.integers(1, 5, queries)
    parts = [" ".join(t.split()[s : s + n]) for t, s, n in zip(titles[:queries], starts, lengths, strict=True)]
    return shop(titles[-items:]), catalogue(parts)


def digest() -> str:
    """Of the vectors of titles and of their matches."""
    items, queries = shop_and_catalogue(500, 3000)
    vectors = TextSpace(queries["text"].to_pylist()).embed(items["title"].to_pylist())
    found = nearest_queries(items, queries)[0]
    return hashlib.sha256(b"".join(np.ascontiguousarray(a) for a in [vectors, found["near_item"], found["near"]])).hexdigest()


BUILD = f"""
import runpy
here = runpy.run_path({__file__!r})
here["query_text"].EXACT_LIMIT = 0
print(here["digest"]())
"""


@pytest.mark.usefixtures("graph")
def test_two_processes_build_the_same_graph():
    root, command = Path(__file__).parents[3], [sys.executable, "-c", BUILD]
    builds = [
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]
    assert {build.stdout.strip() for build in builds} == {digest()}


@pytest.mark.slow
def test_a_hundred_thousand_queries():
    _, facts = nearest_queries(*shop_and_catalogue(20_000, 100_000))
    assert facts["method"] == "hnsw"
    assert facts["recall_at_1"] > 0.8  # made-up words have no topics, which help the graph: among real titles it is 0.99
    assert facts["matched"] > 19_000
