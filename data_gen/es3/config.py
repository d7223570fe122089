"""What decides the samples: one frozen configuration, and how its durations and sizes are written."""

import re
from dataclasses import dataclass
from typing import Any

from unisc.data.schema import COMPOSITIONS
from unisc.errors import InputError

RELEVANCE = ("category", "text", "none")
"""Relevance rules of the attribution, in the words of the command line."""
SAMPLING = ("uniform", "stratum", "hard")
"""How unexposed candidates are drawn; see `sampling`."""
NEGATIVES = ("similar", "all", "random")
"""Which unclicked items of a list stand beside the clicked one in a pseudo request; see `searchify`."""

_MOST = 2**31 - 1
_WORDS = {"composition": COMPOSITIONS, "relevance": RELEVANCE, "sampling": SAMPLING, "negatives": NEGATIVES}
_LEAST = {
    "click_window": 0,
    "purchase_window": 0,
    "unexposed_per_exposed": 0,
    "strata": 1,
    "history_len": 0,
    "history_max_age": 0,
    "label_half_life": 0,
    "seed": 0,
}
_SHARES = {
    # Titles are compared in thousandths: below half of one, every title would pass.
    "text_threshold": (lambda x: 0.001 <= x <= 1, "from 0.001 to 1"),
    "level_confidence": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    # At 1 nothing would be left for the candidates below the best, whose chance would be 0.
    "hard_share": (lambda x: 0 <= x < 1, "from 0 to below 1"),
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"MB": 10**6, "MIB": 2**20, "GB": 10**9, "GIB": 2**30}


@dataclass(frozen=True, kw_only=True, slots=True)
class ES3Config:
    """The part of a build that decides its samples; defaults are those of UniScale section 8. Raises InputError.

    Attributes:
      composition: one of COMPOSITIONS, each of which holds all before it.
      click_window: seconds from a request within which an outside click may label it.
      purchase_window: the same for purchases.
      relevance: one of RELEVANCE, what an outside event's item must have in common with the request's query.
      text_threshold: share of the query's words, weighted by rarity, that a title must hold under relevance "text".
      label_half_life: seconds of lag that halve an attributed label's weight; 0 for no discount.
      level_confidence: factor on an attributed label's weight for each level below the first; 1 for no discount.
      sampling: one of SAMPLING.
      unexposed_per_exposed: unexposed candidates drawn for each exposed one of the request, as far as there are so many.
      strata: strata of the pre-rank order under sampling "stratum".
      hard_share: share of a request's draws that goes to the best by pre-rank under sampling "hard".
      negatives: one of NEGATIVES.
      history_len: latest events of history kept a request.
      history_max_age: seconds that history reaches back; 0 for no limit.
      seed: of draws, of random negatives and of the order of rows.
    """

    composition: str
    click_window: int = 24 * 3600
    purchase_window: int = 72 * 3600
    relevance: str = "category"
    unexposed_per_exposed: int = 2
    history_len: int = 20
    history_max_age: int = 0
    text_threshold: float = 0.5
    label_half_life: int = 0
    level_confidence: float = 1.0
    sampling: str = "uniform"
    strata: int = 4
    hard_share: float = 0.5
    negatives: str = "similar"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            if (value := getattr(self, name)) not in words:
                raise InputError(f"{name} {value!r}: unknown; give one of {', '.join(words)}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
                raise InputError(f"{name} {value!r}: {_fault(value, int)}; give a whole number from {least} to {_MOST}")
        for name, (fits, words) in _SHARES.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not fits(value):
                raise InputError(f"{name} {value!r}: {_fault(value, int | float)}; give a number {words}")
            object.__setattr__(self, name, float(value))  # 1 and 1.0 are one configuration, also once written down

    @property
    def stage(self) -> int:
        """Place of the composition in COMPOSITIONS, each of which holds all before it."""
        return COMPOSITIONS.index(self.composition)

    @property
    def searchifies(self) -> bool:
        """Whether clicks of other domains become pseudo requests."""
        return self.composition == "searchified"

    @property
    def needs_words(self) -> bool:
        """Whether titles are compared: by the relevance rule, or for similar negatives and nearest queries."""
        return self.relevance == "text" or self.searchifies


def parse_duration(text: str) -> int:
    """Read "90s", "30m", "24h", "3d" or bare seconds; return seconds. Raises InputError."""
    match = re.fullmatch(r"(\d{1,18})\s*([smhd]?)", text.strip().lower())
    if match is None:
        raise InputError(f"duration {text!r}: not understood; write it like 90s, 30m, 24h or 3d")
    return int(match[1]) * _SECONDS[match[2] or "s"]


def parse_bytes(text: str) -> int:
    """Read "512MiB", "4GiB", "4GB"; return bytes. Raises InputError, also below 256 MiB."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([MG]I?B)", text.strip().upper())
    if match is None:
        raise InputError(f"memory {text!r}: not understood; write it like 512MiB or 4GiB")
    size = int(float(match[1]) * _BYTES[match[2]])
    if size < 2**28:
        raise InputError(f"memory {text!r}: too little to work with; give at least 256MiB")
    return size


def _fault(value: Any, types: Any) -> str:
    typed = isinstance(value, types) and not isinstance(value, bool)
    return "out of range" if typed else f"of type {type(value).__name__}"
