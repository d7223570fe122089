"""Words of titles and queries, as integers that every engine joins and sums to the same result."""

import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator
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
    frequency = Counter(word for text in _values(texts) for word in set(tokenize(text)))
    ids = {word: i for i, word in enumerate(sorted(frequency))}
    weights = [round(1000 * rarity(len(texts), frequency[word])) for word in ids]
    return _coded(titles, ids), _coded(texts, ids), np.array(weights, np.int32)


def rarity(texts: int, texts_with_it: int) -> float:
    """Return the inverse document frequency of a word, smoothed so that it is at least one."""
    return math.log((1 + texts) / (1 + texts_with_it)) + 1


def _coded(texts: pa.ChunkedArray, ids: dict[str, int]) -> pa.ListArray:
    """Return the distinct ids of the words of each text that have one."""
    values, offsets = array("i"), array("q", [0])  # flat, as a million Python lists would outweigh the texts
    for text in _values(texts):
        values.extend(sorted({ids[word] for word in tokenize(text) if word in ids}))
        offsets.append(len(values))
    return pa.ListArray.from_arrays(pa.array(np.array(offsets), pa.int32()), pa.array(np.array(values, np.int32)))


def _values(texts: pa.ChunkedArray) -> Iterator[str | None]:
    for chunk in texts.chunks:  # a chunk's Python strings are dropped before the next one's are made
        yield from chunk.to_pylist()
