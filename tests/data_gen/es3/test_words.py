"""Words of titles and queries: what counts as one, and codes that no order of rows changes."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.es3.words import tokenize, word_ids

texts = st.lists(st.none() | st.text(max_size=12) | st.text("ab 红色 あ\t", max_size=8), max_size=8)


def strings(values: list[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([values[::2], values[1::2]], pa.string())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Red  WOOL-coat, 42!", ["red", "wool", "coat", "42"]),
        ("Straße ＦＵＬＬ ﬁt", ["strasse", "full", "fit"]),
        ("u\u0308ber \u00dcber", ["über", "über"]),
        ("Προϊόν \u0390", ["προϊόν", "\u0390"]),
        ("红色羊毛", ["红", "色", "羊", "毛", "红色", "色羊", "羊毛"]),
        ("夏Nike鞋子", ["夏", "nike", "鞋", "子", "鞋子"]),
        ("ｶﾞﾗｽ 한글", ["ガ", "ラ", "ス", "ガラ", "ラス", "한", "글", "한글"]),
        ("\x00\u200b\ufeff…", []),
        ("", []),
        (None, []),
    ],
)
def test_words(text, words):
    assert tokenize(text) == words


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text())
def test_every_word_is_a_word_whatever_its_case_and_form(text):
    words = tokenize(text)
    assert all(re.fullmatch(r"\w+", word) for word in words)
    assert words == tokenize(text.casefold()) == tokenize(f" {text}\n")


@settings(derandomize=True, deadline=None, max_examples=100)
@given(texts, texts)
def test_ids_name_the_words_that_titles_share_with_queries(titles, queries):
    of_titles, of_queries, weights = word_ids(strings(titles), strings(queries))
    assert of_titles.type == of_queries.type == pa.list_(pa.int32())
    assert weights.dtype == np.int32
    vocabulary = sorted({word for query in queries for word in tokenize(query)})
    titles, queries = (strings(v).to_pylist() for v in (titles, queries))
    assert len(weights) == len(vocabulary)
    assert [[vocabulary[i] for i in ids] for ids in of_queries.to_pylist()] == [sorted(set(tokenize(q))) for q in queries]
    known = [sorted(set(tokenize(t)) & set(vocabulary)) for t in titles]
    assert [[vocabulary[i] for i in ids] for ids in of_titles.to_pylist()] == known


def test_rarity_counts_the_queries_with_the_word_once_each():
    _, queries, weights = word_ids(strings([]), strings(["red red coat", "red", None, "coat 42"]))
    assert queries.to_pylist() == [[1, 2], [], [2], [0, 1]]
    assert weights.tolist() == [round(1000 * (math.log(5 / (1 + n)) + 1)) for n in (1, 2, 2)]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(texts, texts, st.randoms(use_true_random=False))
def test_the_order_of_rows_moves_rows_and_nothing_else(titles, queries, random):
    moved = [random.sample(range(len(rows)), len(rows)) for rows in (titles, queries)]
    before = word_ids(pa.chunked_array([titles], pa.string()), pa.chunked_array([queries], pa.string()))
    after = word_ids(
        *(pa.chunked_array([[v[i] for i in m]], pa.string()) for v, m in zip((titles, queries), moved, strict=True))
    )
    for rows, order, expected in zip(after[:2], moved, before[:2], strict=True):
        assert rows.to_pylist() == [expected[i].as_py() for i in order]
    assert after[2].tolist() == before[2].tolist()
