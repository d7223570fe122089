"""Words of the shop: pronounceable, all different, the same for the same seed."""

import numpy as np

_ONSETS = [*"bcdfghjklmnprstvwz", "br", "cl", "dr", "fl", "gr", "pl", "sk", "st", "tr"]
_VOWELS = [*"aeiou", "ai", "ea", "io", "ou"]
_CODAS = ["", "", "", *"lmnrstx"]


def make_words(rng: np.random.Generator, count: int, *, syllables: int, taken: set[str]) -> list[str]:
    """Return `count` new words and add them to `taken`; a word grows a syllable each time a draw is taken already."""
    words: list[str] = []
    while len(words) < count:
        size = (count - len(words), syllables)
        onset, vowel = rng.integers(len(_ONSETS), size=size), rng.integers(len(_VOWELS), size=size)
        coda = rng.integers(len(_CODAS), size=size[0])
        for o, v, c in zip(onset.tolist(), vowel.tolist(), coda.tolist(), strict=True):
            word = "".join(_ONSETS[a] + _VOWELS[b] for a, b in zip(o, v, strict=True)) + _CODAS[c]
            if word not in taken:
                taken.add(word)
                words.append(word)
        syllables += 1
    return words


def item_titles(
    brand: np.ndarray, attributes: np.ndarray, leaf: np.ndarray, words: tuple[list[str], list[str], list[str]]
) -> list[str]:
    """Return "brand attribute... leaf" titles; attribute ids past the last word are padding (`attributes` int (items, k))."""
    brand_words, attribute_words, leaf_words = words
    padded = [w + " " for w in attribute_words] + [""]
    return [
        f"{brand_words[b]} {''.join([padded[a] for a in attrs])}{leaf_words[c]}"
        for b, attrs, c in zip(brand.tolist(), attributes.tolist(), leaf.tolist(), strict=True)
    ]


def query_text(rng: np.random.Generator, parts: list[str]) -> str:
    """Return the intent's words as somebody might type them: in any order, now and then one letter short."""
    words = [parts[i] for i in rng.permutation(len(parts))]
    if rng.random() < 0.1:
        k = int(rng.integers(len(words)))
        cut = int(rng.integers(1, len(words[k])))
        words[k] = words[k][:cut] + words[k][cut + 1 :]
    return " ".join(words)
