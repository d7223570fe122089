"""What decides the samples: one frozen configuration, and how its durations and sizes are written."""

import re
from dataclasses import dataclass

from unisc.data.schema import COMPOSITIONS
from unisc.errors import InputError

RELEVANCE = ("category", "text", "none")
"""Relevance rules of the attribution, in the words of the command line."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"MB": 10**6, "MIB": 2**20, "GB": 10**9, "GIB": 2**30}


@dataclass(frozen=True, kw_only=True, slots=True)
class ES3Config:
    """The part of a build that decides its samples; defaults are those of UniScale section 8.

    Windows are in seconds and count from the request to the outside event. `unexposed_per_exposed` is the number of
    uniformly drawn unexposed candidates an exposed one brings along; `history_len` the events of history kept a request.
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
        if self.composition not in COMPOSITIONS:
            raise InputError(f"composition {self.composition!r}: unknown; give one of {', '.join(COMPOSITIONS)}")
        if self.relevance not in RELEVANCE:
            raise InputError(f"relevance {self.relevance!r}: unknown; give one of {', '.join(RELEVANCE)}")
        for name in ("click_window", "purchase_window", "unexposed_per_exposed", "history_len", "seed"):
            value = getattr(self, name)
            if not 0 <= value < 2**31:
                raise InputError(f"{name} {value}: out of range; give a whole number from 0 to {2**31 - 1}")

    @property
    def stage(self) -> int:
        """Place of the composition in COMPOSITIONS, each of which holds all before it."""
        return COMPOSITIONS.index(self.composition)

    @property
    def searchifies(self) -> bool:
        return self.composition == "searchified"

    @property
    def needs_words(self) -> bool:
        return self.relevance == "text" or self.searchifies


def parse_duration(text: str) -> int:
    """Read "90s", "30m", "24h", "3d" or bare seconds; return seconds. Raises InputError."""
    match = re.fullmatch(r"(\d+)\s*([smhd]?)", text.strip().lower())
    if match is None:
        raise InputError(f"duration {text!r}: not understood; write it like 90s, 30m, 24h or 3d")
    return int(match[1]) * _SECONDS[match[2] or "s"]


def parse_bytes(text: str) -> int:
    """Read "512MiB", "4GiB", "4GB"; return bytes. Raises InputError, also below 256 MiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG]I?B)", text.strip().upper())
    if match is None:
        raise InputError(f"memory {text!r}: not understood; write it like 512MiB or 4GiB")
    size = int(float(match[1]) * _BYTES[match[2]])
    if size < 2**28:
        raise InputError(f"memory {text!r}: too little to work with; give at least 256MiB")
    return size
