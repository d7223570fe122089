"""Third level of the query fallback: the query whose text is nearest to an item's title."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from usearch.index import Index

from data_gen.es3.words import rarity, tokenize

DIMS = 256
# A word weighs its rarity, all its 3-grams together at most half of that: a shared word then counts for more than a similar
# one, whatever their lengths, and the grams still match inflections and misspellings, which whole words miss.
GRAM_WEIGHT = 0.5
# Up to this many different queries every item is compared with every query.
EXACT_LIMIT = 20_000
_NEIGHBOURS = 10
# Of usearch: links a node and nodes looked at a search. Hashed short texts are nearly orthogonal, which is hard for a graph: of
# the nearest queries of real titles its defaults, 16 and 64, miss a tenth and these a hundredth.
_LINKS, _LOOKS = 32, 256
_SAMPLE = 1000
_TEXTS = 4096  # a block
_SCORES = 2**23  # a block
# Single precision errs by far less than this in a product of two unit rows: what is within it is compared in double precision.
_MARGIN = 1e-4
_DECIMALS = 9


class TextSpace:
    """Vectors of texts by the words and the character 3-grams that a catalogue of queries has.

    The features and their rarities come from the catalogue alone, so that no vector depends on when or beside what it is made.
    Each feature is hashed to one of 256 dimensions and a sign. A feature that no query has is left out: it could match only by
    a collision of hashes.
    """

    def __init__(self, texts: Sequence[str | None]) -> None:
        counted: Counter[str] = Counter()
        for text in texts:
            counted.update({feature for word in tokenize(text) for feature in _features(word)})
        names = sorted(counted)
        self._ids = {name: i for i, name in enumerate(names)}
        hashes = np.array([_hash(name) for name in names], np.int64)
        weights = np.where(hashes >= DIMS, 1.0, -1.0) * [rarity(len(texts), counted[name]) for name in names]
        self._hashed = _sparse(weights, hashes % DIMS, np.arange(len(names) + 1), DIMS)

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        """Return float32 [texts, 256]: unit rows, zero for a text without a known feature. A repeated word counts once."""
        blocks = [self._embed(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)]
        return np.concatenate([np.zeros((0, DIMS), np.float32), *blocks])

    def share(self, a: str | None, b: str | None) -> bool:
        """Return whether two texts have a known feature in common, and not only hashes."""
        return not self._known(a).isdisjoint(self._known(b))

    def _known(self, text: str | None) -> set[str]:
        return {feature for word in set(tokenize(text)) for feature in _features(word) if feature in self._ids}

    def _embed(self, texts: Sequence[str | None]) -> np.ndarray:
        bags = [set(tokenize(text)) for text in texts]
        # In the order of the words, so that the same words add up to the same bits in any text and any process.
        words = sorted({word for bag in bags for word in bag})
        ids = {word: i for i, word in enumerate(words)}
        indices = [i for bag in bags for i in sorted(ids[word] for word in bag)]
        bag_of_words = _sparse(np.ones(len(indices)), indices, np.cumsum([0, *map(len, bags)]), len(words))
        rows = bag_of_words @ self._of_words(words)
        norm = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
        # Below the threshold only what is left of features that cancel out.
        return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 1e-9).astype(np.float32)

    def _of_words(self, words: Sequence[str]) -> np.ndarray:
        ids: list[int] = []
        weights: list[float] = []
        indptr = [0]
        for word in words:
            features = _features(word)
            for position, feature in enumerate(features):
                if feature in self._ids:
                    ids.append(self._ids[feature])
                    weights.append(GRAM_WEIGHT / (len(features) - 1) ** 0.5 if position else 1.0)
            indptr.append(len(ids))
        return (_sparse(weights, ids, indptr, len(self._ids)) @ self._hashed).toarray()


def nearest_queries(items: pa.Table, queries: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
    """Match items to queries by cosine of their text vectors (section 3, "by ANN on the title embedding").

    `items` has item_id and title, `queries` has query_id and text, both in any order. Returns near_item and near (a query_id,
    the smallest of equally near ones) of int32, by item, without the items whose nearest query has no word or 3-gram in common;
    and facts for the quality report. Up to EXACT_LIMIT different queries the search is exact. Above, an HNSW graph proposes ten
    that are compared in double precision; `recall_at_1` is then the share of a fixed sample of items whose match is as near as
    the exact one.

    Equal tables give equal matches on equal machines: one thread adds the queries by query_id, and usearch draws the levels of
    its graph from a generator that each index starts anew. It promises the same graph for no other release or processor.
    """
    items, queries = items.sort_by("item_id"), queries.sort_by("query_id")
    titles, texts = items["title"], queries["text"].to_pylist()
    space = TextSpace(texts)
    catalogue, rows = _different(space.embed(texts))
    index = None if len(catalogue) <= EXACT_LIMIT else _graph(catalogue)
    near, similarity = _search(space, titles, catalogue, index)
    found = np.flatnonzero(similarity > 0)
    pairs = zip(titles.take(pa.array(found)).to_pylist(), rows[near[found]], strict=True)
    matched = found[np.array([space.share(title, texts[row]) for title, row in pairs], bool)]
    facts = {
        "queries": len(texts),
        "items": len(items),
        "matched": len(matched),
        "method": "exact" if index is None else "hnsw",
        "recall_at_1": 1.0 if index is None else _recall(space, titles, similarity, catalogue),
        "mean_similarity": float(similarity[matched].mean()) if len(matched) else 0.0,
    }
    columns = [items["item_id"].take(pa.array(matched)), queries["query_id"].take(pa.array(rows[near[matched]]))]
    schema = pa.schema([("near_item", pa.int32()), ("near", pa.int32())])
    return pa.table(columns, names=schema.names).cast(schema), facts


def _features(word: str) -> list[str]:
    """Return the word, then its different 3-grams, with its ends marked; a word of one or two characters has none."""
    marked = f"<{word}>"
    grams = dict.fromkeys(marked[i : i + 3] for i in range(len(word))) if len(word) > 2 else ()
    return [word, *grams]


def _hash(feature: str) -> int:
    # Not crc32, which is linear: where two features collide, so do all pairs that differ in the same way.
    return int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=4).digest(), "little") % (2 * DIMS)


def _sparse(values: Any, indices: Any, indptr: Any, width: int) -> sp.csr_array:
    arrays = np.asarray(values, np.float64), np.asarray(indices, np.int64), np.asarray(indptr, np.int64)
    return sp.csr_array(arrays, shape=(len(indptr) - 1, width))


def _search(
    space: TextSpace, titles: pa.ChunkedArray, catalogue: np.ndarray, index: Index | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return each title's nearest row of the catalogue and their cosine, which is zero or less where there is none."""
    near, similarity = np.full(len(titles), -1, np.int64), np.zeros(len(titles))
    for start in range(0, len(titles), _TEXTS):
        block = slice(start, start + _TEXTS)
        vectors = space.embed(titles[block].to_pylist())
        found = _exact(vectors, catalogue) if index is None else _approximate(vectors, catalogue, index)
        near[block], similarity[block] = found
    return near, similarity


def _different(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different rows but zero, and where each is first: equal ones would fill the ten that the graph proposes."""
    first: dict[bytes, int] = {}
    for row in np.flatnonzero(vectors.any(axis=1)):
        first.setdefault(vectors[row].tobytes(), int(row))
    rows = np.fromiter(first.values(), np.int64, len(first))
    return vectors[rows], rows


def _recall(space: TextSpace, titles: pa.ChunkedArray, similarity: np.ndarray, catalogue: np.ndarray) -> float:
    matched = np.flatnonzero(similarity > 0)
    if not len(matched):
        return 1.0
    sample = matched[np.linspace(0, len(matched) - 1, min(_SAMPLE, len(matched))).astype(np.int64)]
    best = _exact(space.embed(titles.take(pa.array(sample)).to_pylist()), catalogue)[1]
    return float(np.mean(similarity[sample] >= best))


def _graph(catalogue: np.ndarray) -> Index:
    index = Index(ndim=DIMS, metric="ip", dtype="f32", connectivity=_LINKS, expansion_search=_LOOKS)
    index.add(np.arange(len(catalogue)), catalogue, threads=1)
    return index


def _exact(vectors: np.ndarray, catalogue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    near, similarity = np.full(len(vectors), -1, np.int64), np.zeros(len(vectors))
    # A zero row would be equally near to all queries.
    live = np.flatnonzero(vectors.any(axis=1)) if len(catalogue) else np.zeros(0, np.int64)
    step = max(1, _SCORES // max(1, len(catalogue)))
    for block in np.split(live, range(step, len(live), step)):
        scores = vectors[block] @ catalogue.T
        rows, columns = np.nonzero(scores >= scores.max(axis=1, keepdims=True, initial=-1) - _MARGIN)
        near[block], similarity[block] = _best(vectors[block], catalogue, rows, columns)
    return near, similarity


def _approximate(vectors: np.ndarray, catalogue: np.ndarray, index: Index) -> tuple[np.ndarray, np.ndarray]:
    found = np.atleast_2d(index.search(vectors, min(_NEIGHBOURS, len(catalogue))).keys).astype(np.int64)
    return _best(vectors, catalogue, np.repeat(np.arange(len(found)), found.shape[1]), found.ravel())


def _best(vectors: np.ndarray, catalogue: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose each row's best column in double precision, the first of equals; `rows` ascend and name every row."""
    products = np.empty(len(rows))
    for start in range(0, len(rows), _TEXTS):
        pairs = slice(start, start + _TEXTS)
        products[pairs] = np.einsum("ij,ij->i", vectors[rows[pairs]].astype(np.float64), catalogue[columns[pairs]])
    products = np.round(products, _DECIMALS)
    order = np.lexsort((columns, -products, rows))
    first = order[np.unique(rows, return_index=True)[1]]
    return columns[first], products[first]
