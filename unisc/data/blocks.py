"""Reads samples from a TFDS dataset of block records, checked block by block, as the same columns the memory-mapped path gives.

The dataset is what `python -m data_gen.es3 dataset` writes; its format is described in `data_gen/blocks.py`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int32

from unisc.data import manifest
from unisc.data.chunk import Chunk
from unisc.data.columns import Columns, Split, encode, first_line
from unisc.data.encode import ENCODING_VERSION, Catalog, Encoder
from unisc.data.features import FeatureSpec
from unisc.data.schema import SAMPLES
from unisc.data.survey import layout_from_json
from unisc.errors import InputError

TABLES = ("items", "users", "queries")
LENGTHS = "lengths"
ORIGINS = ("logged", "searchified")
REMEDY = "make the dataset again"

_LISTS = tuple(f.name for f in SAMPLES if pa.types.is_list(f.type))
HISTORY_LISTS = tuple(name for name in _LISTS if name.startswith("history_"))
CANDIDATE_LISTS = tuple(name for name in _LISTS if not name.startswith("history_"))
_SCALARS = tuple(f.name for f in SAMPLES if f.name not in _LISTS)
_GROUPS = (HISTORY_LISTS, CANDIDATE_LISTS)
"""Lists of equal lengths, row by row; the first of each names the feature that holds the lengths."""
_DTYPES = {
    f.name: np.dtype((f.type.value_type if f.name in _LISTS else f.type).to_pandas_dtype())
    for f in SAMPLES
    if not pa.types.is_string(f.type)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """Q requests of a split, stored as blocks of `requests_per_block` of them, the last one smaller.

    `lengths` counts the candidates of each request. `cache` names the data, as that of `Columns` does; nothing lies there.
    """

    directory: Path
    cache: Path
    spec: FeatureSpec
    requests_per_block: int
    lengths: Int32[np.ndarray, " Q"]
    _reader: "_Reader"

    @property
    def num_requests(self) -> int:
        """Requests in this split, or in the part of it taken."""
        return len(self.lengths)

    @property
    def num_examples(self) -> int:
        """Candidates of those requests."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def num_blocks(self) -> int:
        """Blocks that hold those requests; the last one may hold others beyond them."""
        return -(-self.num_requests // self.requests_per_block)

    def rows_of(self, block: int) -> slice:
        """Return which requests a block holds."""
        start = block * self.requests_per_block
        return slice(start, min(start + self.requests_per_block, self.num_requests))

    def read(self, blocks: Sequence[int]) -> Columns:
        """Decode and encode some blocks, laid end to end in the given order.

        Raises:
          InputError: a record that is damaged, missing, or not the one that belongs there.
        """
        decoded = [self._reader.block(block, self.lengths[self.rows_of(block)]) for block in blocks]
        chunk = Chunk(_Joined(decoded, self._reader.domains), self._reader.domains, self.directory)
        arrays: dict[str, Any] = encode(self._reader.encoder, chunk)
        return Columns(spec=self.spec, cache=self.cache.with_name(f"{self.cache.name}-read"), **arrays)

    def columns(self) -> Columns:
        """Read all of it into memory, in stored order: for evaluation.

        Raises:
          InputError: as `read`.
        """
        return self.read(range(self.num_blocks))


def load(directory: Path, split: Split, *, history_len: int, fraction: float = 1.0, verify: bool = True) -> Blocks:
    """Open a split of a dataset directory; nothing of its records is decoded yet.

    `history_len` is how many of a request's history entries a batch will hold. `fraction` takes the first share of the requests
    in their stored (hash) order, so that a smaller fraction is a subset of a larger one. Without `verify` the records are not
    compared with the manifest's checksums: damage is still noticed when a record is read, another dataset's record may not be.

    Raises:
      InputError: no dataset there, files that do not match its manifest, or an empty split.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction} of the {split} split: give a number above 0 and at most 1")
    if history_len < 0:
        raise InputError(f"history_len {history_len}: give at least 0")
    made = manifest.read(directory, kind="blocks", verify=verify)
    _check(directory, made)
    try:
        config = made["config"]
        domains, layout = tuple(config["domains"]), layout_from_json(config["layout"])
        per_block, num_requests = int(config["requests_per_block"]), int(made["counts"][f"{split}_requests"])
    except InputError as e:
        raise InputError(f"{directory / manifest.NAME}: {e}") from e
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as e:
        raise InputError(f"{directory / manifest.NAME}: config or counts cannot be read ({first_line(e)}); {REMEDY}") from e
    lengths = _lengths(directory / LENGTHS / f"{split}.npy")
    reader = _Reader(directory, split, Encoder(Catalog(directory), layout, domains), domains, per_block)
    if per_block < 1 or len(lengths) != num_requests or reader.num_blocks != max(1, -(-num_requests // per_block)):
        raise InputError(f"{directory}: its records, lengths and manifest count different requests; {REMEDY}")
    if not lengths.sum(dtype=np.int64):
        raise InputError(
            f"{directory}: the {split} split holds no candidates; make the samples again from more days or requests"
        )
    return Blocks(
        directory=directory,
        cache=directory.with_name(directory.name + ".columns") / f"{made['fingerprint']}-v{ENCODING_VERSION}",
        spec=dataclasses.replace(reader.encoder.spec, history_len=history_len),
        requests_per_block=per_block,
        lengths=lengths[: max(1, round(fraction * len(lengths)))],
        _reader=reader,
    )


def _check(directory: Path, made: dict[str, Any]) -> None:
    """Check every file but the records against the manifest, and the manifest against itself."""
    try:
        same = manifest.fingerprint(made) == made.get("fingerprint")
    except (LookupError, ValueError):
        same = False
    if not same:
        raise InputError(f"{directory / manifest.NAME}: does not match its own fingerprint; {REMEDY}")
    for name, shard in made["shards"].items():
        if ".array_record-" not in name and manifest.file_sha256(directory / name) != shard["sha256"]:
            raise InputError(f"{directory / name}: does not match the manifest's checksum; {REMEDY}")


def _lengths(file: Path) -> Int32[np.ndarray, " Q"]:
    try:
        found = np.load(file, allow_pickle=False)
    except Exception as e:  # a damaged header is parsed as Python is
        raise InputError(f"{file}: cannot be read ({first_line(e)}); {REMEDY}") from e
    if not isinstance(found, np.ndarray) or found.dtype != np.int32 or found.ndim != 1 or (found < 0).any():
        raise InputError(f"{file}: not the lengths of requests; {REMEDY}")
    return found


class _Reader:
    """Reads single blocks of a split and checks that each is what it should be; safe to call from several threads."""

    def __init__(self, directory: Path, split: str, encoder: Encoder, domains: tuple[str, ...], per_block: int):
        # Not imported above: a process that reads no dataset should not wait for it.
        import tensorflow_datasets as tfds

        self.encoder, self.domains, self._per_block = encoder, domains, per_block
        try:
            builder: Any = tfds.builder_from_directory(directory)
            info = builder.info.splits[split]
            self._files, self._ends = info.filenames, np.cumsum(info.shard_lengths)
            self._source: Any = builder.as_data_source(split)
        except Exception as e:  # whatever a foreign description raises
            raise InputError(f"{directory}: not a dataset with a {split} split ({first_line(e)}); {REMEDY}") from e
        self._directory = directory
        self.num_blocks = int(self._ends[-1])

    def block(self, block: int, lengths: Int32[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        """Return a block's first n requests by column, the lengths of their lists among them.

        Raises:
          InputError: the record cannot be read, or is not the one that belongs there.
        """
        try:
            stored = self._source[block]
        except Exception as e:  # a damaged chunk or record
            raise InputError(f"{self._where(block)}: cannot be read ({first_line(e)}); {REMEDY}") from e
        wrong = self._disagreement(stored, block, lengths)
        if wrong:
            raise InputError(f"{self._where(block)}: {wrong}; {REMEDY}")
        return _first(stored, len(lengths))

    def _disagreement(self, stored: dict[str, Any], block: int, lengths: Int32[np.ndarray, " n"]) -> str | None:
        """Say what is wrong with a block, if anything is."""
        try:
            if stored["first_row"] != block * self._per_block:
                return f"holds the requests from {stored['first_row']} on, not those from {block * self._per_block}"
            num_rows = len(stored["request_id"])
            for name in _SCALARS:
                if stored[name].shape != (num_rows,):
                    return f"column {name} has shape {stored[name].shape} for {num_rows} requests"
            for name, dtype in _DTYPES.items():
                if stored[name].dtype != dtype:
                    return f"column {name} is {stored[name].dtype}, not {dtype}"
            for name, names in (("domain", self.domains), ("origin", ORIGINS)):
                if num_rows and not (stored[name].min() >= 0 and stored[name].max() < len(names)):
                    return f"column {name} holds a code beyond its names {list(names)}"
            for group in _GROUPS:
                each = stored[f"{group[0]}_lengths"]
                if each.shape != (num_rows,) or (each < 0).any():
                    return f"column {group[0]} has lengths of shape {each.shape} for {num_rows} requests, or negative ones"
                for name in group:
                    if stored[name].shape != (each.sum(dtype=np.int64),):
                        return f"column {name} has shape {stored[name].shape} for {each.sum(dtype=np.int64)} entries"
        except (KeyError, AttributeError, TypeError) as e:
            return f"not a block of samples ({first_line(e)})"
        if not np.array_equal(stored[f"{CANDIDATE_LISTS[0]}_lengths"][: len(lengths)], lengths):
            return "holds other numbers of candidates than the dataset's lengths say"
        return None

    def _where(self, block: int) -> str:
        shard = int(np.searchsorted(self._ends, block, side="right"))
        start = int(self._ends[shard - 1]) if shard else 0
        return f"{self._directory / str(self._files[shard])}, record {block - start}"


def _first(block: dict[str, Any], num_rows: int) -> dict[str, np.ndarray]:
    """Cut a block's columns to its first requests."""
    if num_rows == len(block["request_id"]):
        return block
    ends = {group: int(block[f"{group[0]}_lengths"][:num_rows].sum(dtype=np.int64)) for group in _GROUPS}
    cut = {name: block[name][:end] for group, end in ends.items() for name in group}
    cut |= {f"{group[0]}_lengths": block[f"{group[0]}_lengths"][:num_rows] for group in _GROUPS}
    return cut | {name: block[name][:num_rows] for name in _SCALARS}


class _Joined:
    """Blocks laid end to end, read like a record batch of SAMPLES; a column is joined when it is asked for."""

    def __init__(self, blocks: list[dict[str, np.ndarray]], domains: tuple[str, ...]):
        self._blocks = blocks
        self._names = {"domain": domains, "origin": ORIGINS}
        self._offsets = {group: _offsets(self._join(f"{group[0]}_lengths")) for group in _GROUPS}
        self.num_rows = sum(len(block["request_id"]) for block in blocks)

    def column(self, name: str) -> pa.Array:
        """Return a column as its declared type says, strings as a dictionary, nulls as their fill values."""
        values = pa.array(self._join(name))
        for group in _GROUPS:
            if name in group:
                return pa.ListArray.from_arrays(self._offsets[group], values)
        names = self._names.get(name)
        return values if names is None else pa.DictionaryArray.from_arrays(values, pa.array(names))

    def _join(self, name: str) -> np.ndarray:
        return np.concatenate([block[name] for block in self._blocks])


def _offsets(lengths: Int32[np.ndarray, " n"]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int32)]).astype(np.int32))
