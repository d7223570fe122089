"""Samples made worse on purpose: attributed positives moved to a random other candidate of their request, at a known rate.

A moved label keeps its event (time, domain, weight) and its exposure: it goes to a candidate of the same request that has no
label of that kind and was shown if the right one was. Base rates by exposure, volumes and every feature stay as they were, so
that what a model loses is what the wrong items cost. Labels of the page itself and of pseudo requests are never moved, the test
split is copied.

Which labels move is decided by a hash of request, item and kind: the same in every engine and version, and those of a lower
rate are among those of a higher one, on the same targets.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64

from data_gen.es3.listwise import ROW_GROUP
from unisc.data import manifest
from unisc.data.schema import SAMPLES
from unisc.errors import InputError
from unisc.files import new_directory

TASKS = ("click", "purchase")
_EMPTY = {"": 0, "_level": 0, "_origin": -1, "_ts": -1, "_weight": 1.0}
"""The columns of a label, by what follows its kind, and what they hold where there is none."""
_COPIED = ("test", "items", "users", "queries")


def degrade(samples: Path, out: Path, *, wrong_label_rate: float, seed: int = 0) -> dict[str, Any]:
    """Write the samples with a share of their attributed train labels on wrong items; return the manifest.

    Its configuration is that of the samples and `wrong_label_rate`, `wrong_label_seed`; `degradation` says how many labels of
    each kind there were and how many moved.

    Raises:
      InputError: a rate not above 0 and at most 1, no list-wise samples there, none that hold an attributed label, samples
        degraded before, or an `out` that holds something or cannot be written.
    """
    if isinstance(wrong_label_rate, bool) or not 0 < wrong_label_rate <= 1:
        raise InputError(f"wrong_label_rate {wrong_label_rate!r}: give a share above 0 and at most 1")
    about = manifest.read(samples, kind="samples")
    if "wrong_label_rate" in about["config"]:
        raise InputError(f"{samples}: its labels were moved before; give the samples that it was made from")
    with new_directory(out) as aside:
        (aside / "train").mkdir()
        counts = {kind: {"labels": 0, "moved": 0} for kind in TASKS}
        for file in sorted((samples / "train").glob("*.parquet")):
            table = _moved(pq.read_table(file), wrong_label_rate, seed, counts)
            pq.write_table(table, aside / "train" / file.name, row_group_size=ROW_GROUP, compression="zstd")
        if not any(of["labels"] for of in counts.values()):
            raise InputError(f"{samples}: composition {about['composition']} has no attributed label; build one that has")
        for name in _COPIED:
            shutil.copytree(samples / name, aside / name)
        shutil.copyfile(samples / "quarantine.parquet", aside / "quarantine.parquet")
        # What the build said of its labels' accuracy is not true of these.
        quality = {name: section for name, section in about.get("quality", {}).items() if name != "oracle"}
        kept = {name: about[name] for name in ("domains", "composition", "logs", "test_start", "columns", "engine", "versions")}
        return manifest.write(
            aside,
            kind="samples",
            config={**about["config"], "wrong_label_rate": float(wrong_label_rate), "wrong_label_seed": seed},
            counts=about["counts"],
            quality=quality,
            degradation={"of": about["fingerprint"], **counts},
            **kept,
        )


def _moved(table: pa.Table, rate: float, seed: int, counts: dict[str, dict[str, int]]) -> pa.Table:
    """Move the labels of one file of rows; every other column is the same."""
    lists = table["item_id"].combine_chunks()
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    row = np.repeat(np.arange(len(table)), np.diff(offsets))
    flat = {name: _flat(table, name) for name in ("item_id", "exposed", *(k + c for k in TASKS for c in _EMPTY))}
    request_id = table["request_id"].to_numpy()[row]
    logged = (table["origin"].to_numpy() == "logged")[row]
    group = row * 2 + flat["exposed"]
    for number, kind in enumerate(TASKS):
        attributed = logged & (flat[f"{kind}_level"] > 1)
        chance, other = (_uniform(request_id, flat["item_id"], salt=4 * seed + 2 * number + k) for k in (0, 1))
        free = logged & (flat[f"{kind}_level"] == 0)
        source, target = _pairs(group, attributed & (chance < rate), free, chance, other)
        counts[kind]["labels"] += int(attributed.sum())
        counts[kind]["moved"] += len(source)
        for column, empty in _EMPTY.items():
            values = flat[f"{kind}{column}"]
            values[target], values[source] = values[source], empty
    _set_purchase_levels(flat, logged)
    for name in (k + c for k in TASKS for c in _EMPTY):
        kind = SAMPLES.field(name).type
        column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat[name], kind.value_type), type=kind)
        table = table.set_column(table.schema.get_field_index(name), SAMPLES.field(name), column)
    return table


def _pairs(
    group: Int64[np.ndarray, " N"],
    moves: Bool[np.ndarray, " N"],
    free: Bool[np.ndarray, " N"],
    chance: np.ndarray,
    other: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Give each moving row a free one of its group: the k-th by chance the k-th in another random order.

    Rows that move at a lower rate come first in every group, so they meet the same targets at a higher one. Where a group has
    fewer free rows than moving ones the last stay where they are.
    """
    found = []
    for chosen, key in ((moves, chance), (free, other)):
        rows = np.flatnonzero(chosen)
        rows = rows[np.lexsort((key[rows], group[rows]))]
        groups = group[rows]
        first = np.searchsorted(groups, groups, side="left")
        found.append((rows, groups * 2**20 + np.arange(len(rows)) - first))
    (source, wanted), (target, offered) = found
    _, here, there = np.intersect1d(wanted, offered, assume_unique=True, return_indices=True)
    return source[here], target[there]


def _set_purchase_levels(flat: Mapping[str, np.ndarray], logged: np.ndarray) -> None:
    """Say of every attributed purchase how its item stood: clicked on the page before, shown, or neither."""
    clicked = (flat["click_level"] == 1) & (flat["click_ts"] <= flat["purchase_ts"])
    levels = np.where(clicked, 2, np.where(flat["exposed"], 3, 4))
    attributed = logged & (flat["purchase_level"] > 1)
    flat["purchase_level"][attributed] = levels[attributed]


def _flat(table: pa.Table, name: str) -> np.ndarray:
    return table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).copy()


def _uniform(request_id: np.ndarray, item_id: np.ndarray, *, salt: int) -> np.ndarray:
    """Hash (splitmix64 of the three, one after the other) to numbers from 0 to below 1."""
    state = np.full(len(request_id), salt, np.uint64)
    for word in (request_id, item_id):
        state = (state ^ word.astype(np.int64).view(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53
