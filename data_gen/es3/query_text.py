"""Third level of the query fallback: the query whose text is nearest to an item's title."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

_WORD = re.compile(r"\w+")
_BLOCK = 4096


def nearest_queries(titles: pa.Table, queries: pa.Table) -> pa.Table:
    """Match titles to queries by cosine of TF-IDF word vectors, exactly.

    `titles` has item_id and title, `queries` has query_id and text. Returns near_item and near (a query id), one row for each
    item that shares a word with some query; the smallest query_id of equally near ones. The vocabulary and its weights come
    from the query catalogue alone, so that no match depends on when it is made.
    """
    items, query_ids = titles["item_id"].to_numpy(), queries["query_id"].to_numpy()
    texts = queries["text"].to_pylist()
    vocabulary = {w: i for i, w in enumerate(sorted({w for text in texts for w in _words(text)}))}
    near = np.full(len(items), -1, np.int64)
    if vocabulary and len(items):
        counts = _counts(texts, vocabulary)
        frequency = np.bincount(counts.indices, minlength=len(vocabulary))
        weight = sp.diags_array(np.log((1 + len(texts)) / (1 + frequency)) + 1)
        index = _unit(counts @ weight).T.tocsr()
        vectors = _unit(_counts(titles["title"].to_pylist(), vocabulary) @ weight)
        for start in range(0, len(items), _BLOCK):
            near[start : start + _BLOCK] = _argmax(vectors[start : start + _BLOCK] @ index)
    found = near >= 0
    return pa.table(
        {
            "near_item": pa.array(items[found], pa.int32()),
            "near": pa.array(query_ids[near[found]], pa.int32()),
        }
    )


def _words(text: str | None) -> list[str]:
    return _WORD.findall((text or "").lower())


def _counts(texts: Sequence[str | None], vocabulary: dict[str, int]) -> sp.csr_array:
    indptr, indices, data = [0], [], []
    for text in texts:
        counted = Counter(vocabulary[w] for w in _words(text) if w in vocabulary)
        indices.extend(sorted(counted))
        data.extend(counted[i] for i in sorted(counted))
        indptr.append(len(indices))
    return sp.csr_array((np.array(data, np.float64), indices, indptr), shape=(len(texts), len(vocabulary)))


def _unit(rows: sp.csr_array) -> sp.csr_array:
    norm = np.sqrt(rows.multiply(rows).sum(axis=1))
    return sp.csr_array(sp.diags_array(1 / np.where(norm > 0, norm, 1)) @ rows)


def _argmax(scores: sp.csr_array) -> np.ndarray:
    """Column of each row's largest entry, the first of equals; -1 for a row without entries."""
    lengths = np.diff(scores.indptr)
    best = np.full(len(lengths), -1, np.int64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    # Rounded, since equal scores summed in different orders differ in the last digit.
    order = np.lexsort((scores.indices, -np.round(scores.data, 12), rows))
    firsts = scores.indptr[:-1][lengths > 0]
    best[rows[order[firsts]]] = scores.indices[order[firsts]]
    return best
