"""An index on disk: what it finds against exact search, that it comes back as it was, and what it refuses."""

import numpy as np
import pytest

from unisc.data import manifest
from unisc.errors import InputError
from unisc.retrieval.exact import exact_top
from unisc.retrieval.index import FILE, Index, IndexConfig, recall_of


def vectors(n, dim=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.fixture(scope="module")
def items():
    return vectors(400)


@pytest.fixture(scope="module")
def index(items):
    return Index.build(items)


@pytest.fixture
def saved(index, tmp_path):
    index.save(tmp_path / "index")
    return tmp_path / "index"


def test_it_finds_nearly_what_exact_search_finds_and_its_scores_are_inner_products(index, items):
    queries = vectors(50, seed=1)
    scores, rows = index.search(queries, 10)
    np.testing.assert_allclose(scores, np.einsum("nd,nkd->nk", queries, items[rows]), atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()
    recall = recall_of(index, queries, items, 10)
    assert recall.mean > 0.95 and recall.low <= recall.mean <= recall.high and recall.num_queries == 50


def test_recall_is_the_share_of_the_exact_top_that_was_returned(items):
    poor = Index.build(items, IndexConfig(connectivity=2, expansion_add=2, expansion_search=1))
    queries = vectors(60, seed=2)
    _, found = poor.search(queries, 10)
    _, best = exact_top(queries, items, 10)
    by_hand = np.mean([len(set(f) & set(b)) / 10 for f, b in zip(found, best, strict=True)])
    recall = recall_of(poor, queries, items, 10)
    assert recall.mean == pytest.approx(by_hand) and recall.mean < 0.9
    assert recall.low < recall.mean < recall.high


def test_equal_vectors_are_as_good_as_each_other():
    twins = np.repeat(vectors(20), 4, axis=0)
    assert recall_of(Index.build(twins), vectors(30, seed=1), twins, 2).mean == 1


def test_cosine_ignores_length(items):
    index = Index.build(items, IndexConfig(metric="cos"))
    queries = vectors(20, seed=3)
    scores, rows = index.search(queries, 5)
    np.testing.assert_array_equal(index.search(7 * queries, 5)[1], rows)
    assert np.abs(scores).max() <= 1 + 1e-5 and recall_of(index, 3 * queries, items, 5).mean > 0.9


def test_what_is_loaded_answers_as_what_was_saved_and_the_same_vectors_make_the_same_file(index, items, saved, tmp_path):
    queries = vectors(5, seed=4)
    back = Index.load(saved)
    assert back.config == index.config and (back.num_items, back.dim) == (400, 16)
    for a, b in zip(back.search(queries, 3), index.search(queries, 3), strict=True):
        np.testing.assert_array_equal(a, b)
    Index.build(items).save(tmp_path / "again")
    prints = [manifest.read(folder, kind="index")["fingerprint"] for folder in (saved, tmp_path / "again")]
    assert prints[0] == prints[1]
    assert manifest.read(saved, kind="index")["versions"]["usearch"]


def test_one_query_and_none(index):
    assert [x.shape for x in index.search(vectors(1), 400)] == [(1, 400)] * 2
    assert [x.shape for x in index.search(vectors(0), 3)] == [(0, 3)] * 2


def corrupt(folder):
    data = bytearray((folder / FILE).read_bytes())
    data[len(data) // 2] ^= 255
    (folder / FILE).write_bytes(bytes(data))


def cut(folder):
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:100])


def foreign(folder):
    (folder / FILE).write_bytes(b"not an index" * 50)
    (folder / manifest.NAME).unlink()
    config = {"metric": "ip", "connectivity": 16, "expansion_add": 8, "expansion_search": 8, "dtype": "f32", "dim": 16}
    manifest.write(folder, kind="index", config=config, counts={"items": 400})


def another_kind(folder):
    (folder / manifest.NAME).unlink()
    manifest.write(folder, kind="samples", config={}, counts={})


def undescribed(folder):
    (folder / manifest.NAME).unlink()
    manifest.write(folder, kind="index", config={"dim": 16, "metric": "ip", "colour": 3}, counts={"items": 400})


def other_width(folder):
    (folder / FILE).unlink()
    (folder / manifest.NAME).unlink()
    Index.build(vectors(9, dim=4)).save(folder / "inner")
    (folder / "inner" / FILE).rename(folder / FILE)
    manifest.write(folder, kind="index", config={"dim": 16}, counts={"items": 400})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (corrupt, "does not match the manifest's size or checksum"),
        (cut, "does not match the manifest's size or checksum"),
        (foreign, "usearch cannot read it"),
        (another_kind, "holds samples, but index are needed"),
        (undescribed, "does not describe an index"),
        (other_width, "not the 400 vectors of width 16"),
        (lambda folder: (folder / FILE).unlink(), "missing"),
        (lambda folder: (folder / manifest.NAME).unlink(), "no manifest.json"),
    ],
)
def test_a_damaged_folder_is_refused(saved, damage, message):
    damage(saved)
    with pytest.raises(InputError) as e:
        Index.load(saved)
    assert message in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: Index.build(np.full((2, 3), np.nan, np.float32)), "items: vector 0 has a value"),
        (lambda index: Index.build(vectors(0)), "items: none"),
        (lambda index: Index.build(np.zeros((2, 3), np.float32), IndexConfig(metric="cos")), "vector 0 is zero"),
        (lambda index: index.search(vectors(2, dim=5), 3), "queries: width 5 against the index's 16"),
        (lambda index: index.search(vectors(2), 401), "k 401: of 400 items"),
        (lambda index: index.search(np.full((1, 16), np.inf, np.float32), 3), "queries: vector 0"),
        (lambda index: recall_of(index, vectors(3), vectors(7), 3), "items: shape (7, 16)"),
        (lambda index: recall_of(index, vectors(0), vectors(400), 3), "queries: none"),
        (lambda index: IndexConfig(metric="l2"), "metric 'l2': unknown"),
        (lambda index: IndexConfig(connectivity=1), "connectivity 1"),
        (lambda index: IndexConfig(dtype="i8"), 'dtype "i8"'),
    ],
)
def test_a_mistake_is_named(index, call, message):
    with pytest.raises(InputError) as e:
        call(index)
    assert message in str(e.value) and "\n" not in str(e.value)


def test_a_folder_that_holds_something_is_not_written_over(index, saved):
    with pytest.raises(InputError, match="already exists"):
        index.save(saved)
