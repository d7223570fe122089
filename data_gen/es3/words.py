"""Words of titles and queries, as integers that every engine joins and sums to the same result."""

import math
import re
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa

_WORD = re.compile(r"\w+")
# Han with its repetition marks and extensions, Kana, Hangul syllables and letters. Halfwidth forms are gone after NFKC.
_CJK = r"\u1100-\u11ff\u3005-\u3007\u3041-\u30ff\u3131-\u318e\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f"
_CJK += r"\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
_RUNS = re.compile(rf"([{_CJK}]+)|([^{_CJK}]+)")


def tokenize(text: str | None) -> list[str]:
    r"""Return the words of a text in their order: runs of `\w` after NFKC and case folding; null has none.

    Titles of Taobao are Chinese, which is written without spaces: as one run a title would equal no query. So a run of Han,
    Kana or Hangul gives its single characters and its bigrams, as most words there are one or two characters long.
    """
    if not text:
        return []
    if text.isascii():  # nothing to normalize, and four times as fast
        return _WORD.findall(text.lower())
    # Folding can undo the composition, so the text is composed again.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words: list[str] = []
    for run in _WORD.findall(folded):
        for cjk, other in [("", run)] if run.isascii() else _RUNS.findall(run):
            words.extend([*cjk, *(a + b for a, b in pairwise(cjk))] if cjk else [other])
    return words


def word_ids(titles: pa.ChunkedArray, texts: pa.ChunkedArray) -> tuple[pa.ListArray, pa.ListArray, np.ndarray]:
    """Code titles and query texts by the words of the texts.

    Returns for each title and for each text its distinct word ids, ascending, as lists of int32; and int32 [words], the rarity
    of each word in thousandths: 1000 * (log((1 + texts) / (1 + texts with the word)) + 1), rounded. Rarities are integers since
    engines sum floats in different orders. Words of a title that no text has are left out; a null is an empty list. Ids follow
    the sorted words, so that the order of the rows changes nothing.
    """
    of_texts = [set(tokenize(text)) for text in texts.to_pylist()]
    frequency = Counter(word for words in of_texts for word in words)
    ids = {word: i for i, word in enumerate(sorted(frequency))}
    weights = [round(1000 * rarity(len(of_texts), frequency[word])) for word in ids]
    queries = _lists([sorted(ids[word] for word in words) for words in of_texts])
    return _title_lists(titles, ids), queries, np.array(weights, np.int32)


def rarity(texts: int, texts_with_it: int) -> float:
    """Return the inverse document frequency of a word, smoothed so that it is at least one."""
    return math.log((1 + texts) / (1 + texts_with_it)) + 1


def _title_lists(titles: pa.ChunkedArray, ids: dict[str, int]) -> pa.ListArray:
    # A chunk's Python strings are dropped before the next one's are made.
    parts = [_lists([sorted({ids[w] for w in tokenize(t) if w in ids}) for t in part.to_pylist()]) for part in titles.chunks]
    return pa.concat_arrays(parts) if parts else _lists([])


def _lists(rows: list[list[int]]) -> pa.ListArray:
    return pa.array(rows, pa.list_(pa.int32()))
