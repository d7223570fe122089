"""What a directory of interests holds, in a page of text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unisc.data import manifest
from unisc.data.interests import KIND, SPLITS, Examples, load
from unisc.data.ragged import Ragged


def describe(directory: Path) -> str:
    """Return counts, lengths and shares of a directory of interests, and the quality that its manifest states.

    Raises:
      InputError: as `unisc.data.interests.load`.
    """
    found, about = load(directory), manifest.read(directory, kind=KIND)
    catalogue = found.catalogue
    lines = [
        f"{directory}: interests of {about['config']['made_from']['source']}, fingerprint {found.fingerprint}",
        f"  items        {catalogue.num_items:,}; category known of {_share(catalogue.category >= 0)}, brand of "
        f"{_share(catalogue.brand >= 0)}; visual vectors "
        + ("none" if catalogue.visual is None else f"of width {catalogue.visual.shape[1]}"),
        f"  users        {found.num_users:,}; known items {_lengths(found.known)}",
        f"  order        {'histories, oldest first' if found.is_ordered else 'none; known items stand for a history'}",
        f"  vocabulary   {about['counts']['vocab']:,} tokens; a title has {_lengths(catalogue.text)}",
        f"  corpus       {found.corpus.num_rows:,} texts, {len(found.corpus.values):,} tokens",
    ]
    for split in SPLITS:
        lines += list(_split(split, getattr(found, split)))
    return "\n".join([*lines, *(f"  {name}: {_said(value)}" for name, value in about["quality"].items())])


def _split(name: str, rows: Examples) -> Iterator[str]:
    yield f"  {name:12} {rows.num_examples:,} examples of {len(np.unique(rows.user)):,} users"
    if rows.num_examples:
        for what in ("query", "history", "targets", "shown"):
            lists = getattr(rows, what)
            yield f"    {what:10} {_lengths(lists)}; none in {_share(lists.lengths == 0)}"


def _lengths(rows: Ragged) -> str:
    if not rows.num_rows:
        return "none"
    low, middle, high = np.quantile(rows.lengths, (0.05, 0.5, 0.95))
    return f"{rows.lengths.mean():.1f} on average, {low:.0f} / {middle:.0f} / {high:.0f} at 5 / 50 / 95 %"


def _share(marks: np.ndarray) -> str:
    return f"{100 * marks.mean():.1f} %" if len(marks) else "none"


def _said(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else f"{value:,}" if isinstance(value, int) else str(value)
