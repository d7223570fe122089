"""What next-interest models and retrieval encoders are trained and judged on: a catalogue with texts, and who wanted what.

A directory with a manifest (kind "interests"), `tokenizer.json` and one `.npy` file an array, which readers map into memory:

    catalogue/  item_id, category, brand, text_values, text_offsets, and visual where there is one
    train/ validation/ test/   user, and query, history, targets and shown as _values and _offsets
    known/ corpus/             rows_values, rows_offsets

Items are rows 0 to I-1 of the catalogue, users 0 to U-1. `data_gen.interests` makes such directories.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int32, Int64

from unisc.data import manifest
from unisc.data.ragged import Ragged
from unisc.data.text import Tokenizer
from unisc.errors import InputError

KIND = "interests"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "validation", "test")
_ITEM_ROWS = ("history", "targets", "shown")


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """The I items: their ids in the source, the tokens of their texts, and what else is known of them.

    `category` and `brand` are -1 where unknown; `visual` is a vector of about unit size a coordinate, or None.
    """

    item_id: Int64[np.ndarray, " I"]
    text: Ragged
    category: Int32[np.ndarray, " I"]
    brand: Int32[np.ndarray, " I"]
    visual: Float32[np.ndarray, "I Dv"] | None = None

    @property
    def num_items(self) -> int:
        """I, one more than the largest item row."""
        return len(self.item_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """The N times that a user wanted something: tokens of the query, item rows of everything else.

    `history` is oldest first and from before the example; `targets` holds one item in train and at least one elsewhere; `shown`
    was exposed beside them and not clicked, and is empty where nobody recorded lists.
    """

    user: Int32[np.ndarray, " N"]
    query: Ragged
    history: Ragged
    targets: Ragged
    shown: Ragged

    @property
    def num_examples(self) -> int:
        """N."""
        return len(self.user)

    def take(self, rows: Int[np.ndarray, " n"]) -> "Examples":
        """Return some of the examples, in that order."""
        lists = {name: getattr(self, name).take(rows) for name in ("query", *_ITEM_ROWS)}
        return Examples(user=self.user[rows], **lists)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interests:
    """A whole directory.

    `known` holds by user the item rows of train, each once, by row: what evaluation masks where a protocol says so, and in data
    without an order (`is_ordered` false, histories empty) the history of the user's examples less their own target. `corpus`
    holds tokens of the distinct texts of items and of the queries of train, to pretrain a language model on.
    """

    catalogue: Catalogue
    train: Examples
    validation: Examples
    test: Examples
    known: Ragged
    corpus: Ragged
    num_users: int
    is_ordered: bool
    fingerprint: str
    tokenizer: Path
    path: Path


def load(path: Path, *, fingerprint: str | None = None, needs_order: bool = False) -> Interests:
    """Read a directory of interests; arrays are mapped into memory, so that opening one costs little.

    Raises:
      InputError: no such directory, another kind or another `fingerprint`, pairs where an order is needed; a file missing, of
        another size, holding Python objects, or arrays that do not fit together (named).
    """
    about = manifest.read(path, kind=KIND)
    if fingerprint not in (None, about["fingerprint"]):
        raise InputError(f"{path}: interests {about['fingerprint']}, but this run is of {fingerprint}; give those")
    counts, is_ordered = about.get("counts"), about.get("is_ordered")
    num_users = counts.get("users") if isinstance(counts, dict) else None
    if not isinstance(num_users, int) or not isinstance(is_ordered, bool):
        raise InputError(f"{path / manifest.NAME}: says nothing of users or of their order; make {path} again")
    if needs_order and not is_ordered:
        raise InputError(f"{path}: its pairs have no order, so no history; give interests made of sequences or logs")
    reader = _Reader(path, num_users)
    catalogue = reader.catalogue()
    splits = {split: reader.examples(split, catalogue.num_items) for split in SPLITS}
    lengths = splits["train"].targets.lengths
    if np.any(lengths != 1):
        row = int(np.flatnonzero(lengths != 1)[0])
        raise InputError(f"{path / 'train'}: example {row} has {lengths[row]} targets, not one; make {path} again")
    known = reader.ragged("known/rows", num_rows=num_users, below=catalogue.num_items)
    if not (path / TOKENIZER).is_file():
        raise InputError(f"{path / TOKENIZER}: missing; make {path} again")
    return Interests(
        catalogue=catalogue,
        **splits,
        known=known,
        corpus=reader.ragged("corpus/rows"),
        num_users=num_users,
        is_ordered=is_ordered,
        fingerprint=str(about["fingerprint"]),
        tokenizer=path / TOKENIZER,
        path=path,
    )


def save(
    directory: Path,
    *,
    catalogue: Catalogue,
    splits: Mapping[str, Examples],
    known: Ragged,
    corpus: Ragged,
    tokenizer: Tokenizer,
    is_ordered: bool,
    config: Mapping[str, Any],
    quality: Mapping[str, Any],
) -> dict[str, Any]:
    """Write interests into an empty folder, the manifest last; return the manifest. `splits` are by the names of SPLITS.

    Raises:
      InputError: the folder cannot be written.
    """
    _save(directory / "catalogue", catalogue)
    for split in SPLITS:
        _save(directory / split, splits[split])
    _save_arrays(directory / "known", _named("rows", known))
    _save_arrays(directory / "corpus", _named("rows", corpus))
    tokenizer.save(directory / TOKENIZER)
    counts = {
        "items": catalogue.num_items,
        "users": known.num_rows,
        **{split: splits[split].num_examples for split in SPLITS},
        "corpus": corpus.num_rows,
        "vocab": tokenizer.vocab_size,
    }
    return manifest.write(directory, kind=KIND, config=config, counts=counts, is_ordered=is_ordered, quality=dict(quality))


def _save(folder: Path, part: Catalogue | Examples) -> None:
    arrays: dict[str, np.ndarray] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if value is not None:
            arrays |= _named(field.name, value) if isinstance(value, Ragged) else {field.name: value}
    _save_arrays(folder, arrays)


def _named(name: str, rows: Ragged) -> dict[str, np.ndarray]:
    return {f"{name}_values": rows.values.astype(np.int32, copy=False), f"{name}_offsets": rows.offsets}


def _save_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


class _Reader:
    """Maps the arrays of a directory and checks that they are what they should be."""

    def __init__(self, path: Path, num_users: int):
        self.path, self.num_users = path, num_users

    def catalogue(self) -> Catalogue:
        item_id = self.array("catalogue/item_id", np.int64)
        num, visual = len(item_id), None
        if (self.path / "catalogue/visual.npy").exists():
            visual = self.array("catalogue/visual", np.float32, num=num, ndim=2)
        category, brand = (self.array(f"catalogue/{name}", np.int32, num=num) for name in ("category", "brand"))
        text = self.ragged("catalogue/text", num_rows=num)
        return Catalogue(item_id=item_id, text=text, category=category, brand=brand, visual=visual)

    def examples(self, split: str, num_items: int) -> Examples:
        user = self.array(f"{split}/user", np.int32)
        self._check_range(f"{split}/user", user, self.num_users)
        rows = {name: self.ragged(f"{split}/{name}", num_rows=len(user), below=num_items) for name in _ITEM_ROWS}
        if np.any(rows["targets"].lengths == 0):
            raise InputError(f"{self.path / split}: an example has no target; make {self.path} again")
        return Examples(user=user, query=self.ragged(f"{split}/query", num_rows=len(user)), **rows)

    def ragged(self, name: str, *, num_rows: int | None = None, below: int | None = None) -> Ragged:
        num = None if num_rows is None else num_rows + 1
        values, offsets = self.array(f"{name}_values", np.int32), self.array(f"{name}_offsets", np.int64, num=num)
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(values) or np.any(np.diff(offsets) < 0):
            self._fail(f"{name}_offsets", "not the bounds of its values")
        self._check_range(f"{name}_values", values, below)
        return Ragged(values, offsets)

    def array(self, name: str, dtype: Any, *, num: int | None = None, ndim: int = 1) -> np.ndarray:
        file = self.path / f"{name}.npy"
        try:
            found = np.load(file, mmap_mode="r", allow_pickle=False)
        except OSError as e:
            raise InputError(f"{file}: cannot be read ({e.strerror or e}); make {self.path} again") from e
        except ValueError as e:
            raise InputError(f"{file}: not an array ({' '.join(str(e).split())[:100]}); make {self.path} again") from e
        if not isinstance(found, np.ndarray) or found.dtype != dtype or found.ndim != ndim or num not in (None, len(found)):
            shape = "x".join(map(str, getattr(found, "shape", ())))
            self._fail(name, f"{getattr(found, 'dtype', 'no array')} of {shape}, not {np.dtype(dtype)} of {num or 'any'} rows")
        return found

    def _check_range(self, name: str, values: np.ndarray, below: int | None) -> None:
        if len(values) and (values.min() < 0 or (below is not None and values.max() >= below)):
            self._fail(name, f"holds {values.min()} to {values.max()}, not numbers from 0 and below {below}")

    def _fail(self, name: str, what: str) -> None:
        raise InputError(f"{self.path / name}.npy: {what}; make {self.path} again")
