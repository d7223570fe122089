"""Interests of what `data_gen.public convert` made of a source without times: sequences, or pairs without an order."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.interests.config import InterestsConfig
from data_gen.interests.found import Found, Rows, known_items, last, none_of, unknown
from data_gen.public.adapter import INTERACTIONS, SEQUENCES
from data_gen.public.dataset import REMEDY
from unisc.data.interests import SPLITS
from unisc.data.ragged import Ragged
from unisc.data.schema import ITEMS, USERS
from unisc.errors import InputError


def read(path: Path, config: InterestsConfig) -> Found:
    """Read a converted directory of sequences or of interactions.

    Raises:
      InputError: it holds neither, or a split without examples, or items that the catalogue does not have.
    """
    if (path / SEQUENCES.name).is_dir():
        parts = _of_sequences(path, config)
    elif (path / INTERACTIONS.name).is_dir():
        parts = _of_interactions(path, config)
    else:
        raise InputError(f"{path}: holds neither sequences nor interactions; give one that does, or log tables")
    for split in ("train", "test"):
        if not len(parts["splits"][split].user):
            raise InputError(f"{path}: no {split} example; give sequences of three items at least, or both parts of the pairs")
    return Found(visual=None, queries=[], train_queries=np.zeros(0, np.int64), **parts)


def _of_sequences(path: Path, config: InterestsConfig) -> dict[str, Any]:
    features = _items(path)
    num_items = len(features["titles"])
    table = pq.read_table(path / SEQUENCES.name)
    num_known = _num_users(path)
    # A session of nobody known is a user of its own.
    nobody = pc.is_null(table["user_id"]).to_numpy()
    user = np.where(nobody, num_known + np.cumsum(nobody) - 1, pc.fill_null(table["user_id"], 0).to_numpy())
    num_users = num_known + int(nobody.sum())
    lengths = pc.list_value_length(table["item_ids"]).to_numpy()
    values = pc.list_flatten(table["item_ids"]).to_numpy()
    whole = Ragged.laid(_checked(path, values, num_items), lengths)
    split = np.asarray(table["split"].to_pylist())
    splits, quality = {}, {"histories cut": {}, "empty histories": {}}
    train = whole.take(np.flatnonzero(split == "train"))
    owner, starts = user[split == "train"], train.offsets[:-1]
    row = np.repeat(np.arange(train.num_rows), train.lengths)
    places = np.arange(len(row))
    places = places[places > starts[row]]
    row = row[places]
    cut = {}
    history, cut["train"] = last(train.values, starts[row], places, config.history_len)
    splits["train"] = Rows.without_lists(owner[row], history, _single(train.values[places]))
    for name in SPLITS[1:]:
        asked = np.flatnonzero((split == name) & pc.is_valid(table["target_id"]).to_numpy())
        history, cut[name] = last(whole.values, whole.offsets[asked], whole.offsets[asked + 1], config.history_len)
        target = _checked(path, pc.fill_null(table["target_id"], -1).to_numpy()[asked], num_items)
        splits[name] = Rows.without_lists(user[asked], history, _single(target))
    quality = {
        "histories cut": cut,
        "empty histories": {name: none_of(rows.history) for name, rows in splits.items()},
        "train rows of one item, which make no example": int((train.lengths < 2).sum()),
        "sequences of nobody known": int(nobody.sum()),
    }
    known = known_items(np.repeat(owner, train.lengths), train.values, num_users=num_users, num_items=num_items)
    return {**features, "splits": splits, "known": known, "is_ordered": True, "quality": quality}


def _of_interactions(path: Path, config: InterestsConfig) -> dict[str, Any]:
    features = _items(path)
    num_items, num_users = len(features["titles"]), _num_users(path)
    table = pq.read_table(path / INTERACTIONS.name)
    user, item = table["user_id"].to_numpy().astype(np.int64), _checked(path, table["item_id"].to_numpy(), num_items)
    in_train = pc.equal(table["split"], "train").to_numpy()
    train, test = np.flatnonzero(in_train), np.flatnonzero(~in_train)
    held = np.zeros(len(train), bool)
    num_held = int((config.validation_share or 0.0) * len(train))
    held[np.random.default_rng(config.seed).permutation(len(train))[:num_held]] = True
    validation, train = train[held], train[~held]
    known = known_items(user[train], item[train], num_users=num_users, num_items=num_items)

    def by_user(pairs: np.ndarray) -> Rows:
        targets = known_items(user[pairs], item[pairs], num_users=num_users, num_items=num_items)
        asked = np.flatnonzero(targets.lengths)
        return Rows.without_lists(asked, _empty(len(asked)), targets.take(asked))

    splits = {
        "train": Rows.without_lists(user[train], _empty(len(train)), _single(item[train])),
        "validation": by_user(validation),
        "test": by_user(test),
    }
    key = user * num_items + item
    quality = {
        "train pairs held out for validation": num_held,
        "test pairs that train holds": int(np.isin(key[test], key[train]).sum()),
        "test users without a train item": int((known.lengths[splits["test"].user] == 0).sum()),
    }
    return {**features, "splits": splits, "known": known, "is_ordered": False, "quality": quality}


def _items(path: Path) -> dict[str, Any]:
    """Titles where there are any; these sources state neither category nor brand that could be relied on."""
    items = pq.read_table(path / ITEMS.name).sort_by("item_id")
    if not np.array_equal(items["item_id"].to_numpy(), np.arange(len(items))):
        raise InputError(f"{path / ITEMS.name}: column item_id does not number the items from 0, each once; {REMEDY}")
    said = items["title"] if "title" in items.column_names else pa.nulls(len(items), pa.string())
    titles = pc.fill_null(said, "").to_pylist()
    return {"titles": titles, "category": unknown(len(items)), "brand": unknown(len(items))}


def _num_users(path: Path) -> int:
    if not (path / USERS.name).is_dir():
        return 0
    return len(pq.read_table(path / USERS.name, columns=["user_id"]))


def _checked(path: Path, item: np.ndarray, num_items: int) -> np.ndarray:
    if len(item) and not 0 <= item.min() <= item.max() < num_items:
        raise InputError(f"{path}: items {item.min()} to {item.max()}, but its catalogue has 0 to {num_items - 1}; {REMEDY}")
    return item.astype(np.int32)


def _single(item: np.ndarray) -> Ragged:
    return Ragged.laid(item.astype(np.int32), np.ones(len(item), np.int64))


def _empty(num: int) -> Ragged:
    return Ragged.laid(np.zeros(0, np.int32), np.zeros(num, np.int64))
