"""The true probabilities of a test split's candidates, for evaluation only: no training path reads them."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from jaxtyping import Float32

from unisc.data import manifest
from unisc.data.columns import Columns
from unisc.data.schema import ORACLE
from unisc.errors import InputError

COLUMNS = ("p_click", "p_purchase", "p_click_top")


@dataclass(frozen=True, kw_only=True, slots=True)
class Oracle:
    """True probabilities of each candidate row of some columns; see `unisc.data.schema.ORACLE` for what each one means."""

    p_click: Float32[np.ndarray, "N"]
    p_purchase: Float32[np.ndarray, "N"]
    p_click_top: Float32[np.ndarray, "N"]


def load_oracle(logs: Path, columns: Columns) -> Oracle | None:
    """Read the truth about the candidates of `columns`, or None where the logs have no oracle, as real ones do not.

    What is found is kept beside the columns, since every run of a sweep asks the same.

    Raises:
      InputError: the oracle does not know a candidate, or gives no probability for it.
    """
    if (logs / manifest.NAME).is_file() and not (logs / "oracle").is_dir():
        return None  # whatever kind of log it is
    fingerprint = manifest.read(logs, kind="logs")["fingerprint"]
    rows = f"{int(columns.request_id[0])}_{columns.num_requests}_{columns.num_examples}"
    kept = columns.cache / f"oracle-{fingerprint}-{rows}.npy"
    if kept.is_file():
        return Oracle(**dict(zip(COLUMNS, np.load(kept, mmap_mode="r"), strict=True)))
    found = _join(logs / "oracle", columns)
    with contextlib.suppress(OSError):  # a read-only cache costs time, not the result
        work = kept.with_name(f"{kept.name}.{os.getpid()}.tmp")
        with work.open("wb") as f:
            np.save(f, found)
        work.replace(kept)
    return Oracle(**dict(zip(COLUMNS, found, strict=True)))


def _join(directory: Path, columns: Columns) -> Float32[np.ndarray, "3 N"]:
    """Find each candidate's (request, item) row."""
    order = np.argsort(columns.request_id, kind="stable")
    request_id = columns.request_id[order]
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    key = (np.repeat(place, np.diff(columns.candidate_offsets)) << 32) + columns.item_id
    by_key = np.argsort(key, kind="stable")
    sorted_key = key[by_key]
    found = np.full((len(COLUMNS), len(key)), np.nan, np.float32)
    asked = (pc.field("request_id") >= int(request_id[0])) & (pc.field("request_id") <= int(request_id[-1]))
    source = ds.dataset(sorted(map(str, directory.glob("*.parquet"))), schema=ORACLE.columns)
    for batch in source.to_batches(filter=asked, use_threads=False):
        ids, items = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("request_id", "item_id"))
        request = np.minimum(np.searchsorted(request_id, ids), len(request_id) - 1)
        row_key = (request.astype(np.int64) << 32) + items
        at = np.minimum(np.searchsorted(sorted_key, row_key), len(sorted_key) - 1)
        hit = (request_id[request] == ids) & (sorted_key[at] == row_key)
        for out, name in zip(found, COLUMNS, strict=True):
            out[by_key[at[hit]]] = batch.column(name).to_numpy(zero_copy_only=False)[hit]
    unknown = ~((found >= 0) & (found <= 1)).all(axis=0)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        request = int(columns.request_id[np.searchsorted(columns.candidate_offsets, row, side="right") - 1])
        raise InputError(
            f"{directory}: no true probability of item {int(columns.item_id[row])} in request {request}"
            f" ({int(unknown.sum())} such rows); give the logs these samples were made from"
        )
    return found
