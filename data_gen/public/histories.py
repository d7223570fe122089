"""Histories of a converted source, and the requests they make: a history, what followed it, and whose it is.

In `sequences` every item of a train row but the first can be asked for by the items before it, and a test row asks for its
target. In `interactions`, which have no order, every train item of a user can be asked for by all his others, and the test
items of a user by all his train items.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from data_gen.public.adapter import INTERACTIONS, SEQUENCES
from data_gen.public.item_to_item import Lists
from unisc.errors import InputError

Ids = Int64[np.ndarray, " R"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """R requests: histories oldest first, their targets, the counted history that each is from (-1: none), and its user."""

    asked: Lists
    targets: Lists
    own: Ids
    user: Ids

    def take(self, some: Ids) -> "Requests":
        """Return some of the requests."""
        return Requests(asked=self.asked.take(some), targets=self.targets.take(some), own=self.own[some], user=self.user[some])

    def __len__(self) -> int:
        return len(self.own)


@dataclass(frozen=True, kw_only=True, slots=True)
class Histories:
    """The train histories with their users (0 where nobody is known), whether they have an order, and the test requests."""

    train: Lists
    users: Ids
    ordered: bool
    test: Requests

    def draw(self, num: int, rng: np.random.Generator) -> Requests:
        """Draw at most `num` train requests in a random order: of ordered histories any item, else of each user one in turn."""
        row = self.train.rows
        first = self.train.steps_back == self.train.lengths[row] - 1
        places = rng.permutation(np.flatnonzero(~first if self.ordered else self.train.lengths[row] > 1))
        if not self.ordered:
            turn = np.empty(len(places), np.int64)
            by_row = np.argsort(row[places], kind="stable")
            turn[by_row] = _within(np.bincount(row[places]))
            places = places[np.argsort(turn, kind="stable")]
        return self.requests_at(places[:num])

    def requests_at(self, places: Ids) -> Requests:
        """Return the requests that ask for the train items at `places`."""
        own = self.train.rows[places]
        starts = self.train.offsets[own]
        if self.ordered:
            asked = Lists.of(self.train.items, starts, places - starts)
        else:
            whole, lengths = self.train.take(own), self.train.lengths[own]
            others = np.flatnonzero(_within(lengths) != np.repeat(places - starts, lengths))
            asked = Lists.of(whole.items[others], np.cumsum(lengths - 1) - (lengths - 1), lengths - 1)
        targets = Lists.of(self.train.items, places, np.ones_like(places))
        return Requests(asked=asked, targets=targets, own=own, user=self.users[own])


def read(converted: Path) -> Histories:
    """Read a directory of sequences or interactions that `convert` made.

    Raises:
      InputError: it holds neither, or has no train history of two items, or nothing to test.
    """
    if (converted / SEQUENCES.name).is_dir():
        found = _of_sequences(pq.read_table(converted / SEQUENCES.name))
    elif (converted / INTERACTIONS.name).is_dir():
        found = _of_interactions(pq.read_table(converted / INTERACTIONS.name))
    else:
        raise InputError(f"{converted}: holds neither sequences nor interactions; give a source whose kind is sequences")
    if not (found.train.lengths > 1).any():
        raise InputError(f"{converted}: no train history of two items, so nothing to learn from; give longer ones")
    if not len(found.test):
        raise InputError(f"{converted}: no test history with an item to find; give the source's test part")
    return found


def _of_sequences(rows: pa.Table) -> Histories:
    train, test = (rows.filter(pc.equal(rows["split"], split)) for split in ("train", "test"))
    owners = pc.index_in(test["user_id"], value_set=train["user_id"].combine_chunks(), skip_nulls=True)
    users = [pc.fill_null(table["user_id"], 0).to_numpy().astype(np.int64) for table in (train, test)]
    targets = test["target_id"].to_numpy().astype(np.int64)
    requests = Requests(
        asked=_lists(test["item_ids"]),
        targets=Lists.of(targets, np.arange(len(targets)), np.ones_like(targets)),
        own=pc.fill_null(owners, -1).to_numpy().astype(np.int64),
        user=users[1],
    )
    return Histories(train=_lists(train["item_ids"]), users=users[0], ordered=True, test=requests)


def _of_interactions(rows: pa.Table) -> Histories:
    num_users = int(pc.max(rows["user_id"]).as_py()) + 1
    train, test = (_by_user(rows.filter(pc.equal(rows["split"], split)), num_users) for split in ("train", "test"))
    users = np.arange(num_users)
    tested = np.flatnonzero((train.lengths > 0) & (test.lengths > 0))
    requests = Requests(asked=train, targets=test, own=users, user=users).take(tested)
    return Histories(train=train, users=users, ordered=False, test=requests)


def _lists(column: pa.ChunkedArray) -> Lists:
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    return Lists.of(pc.list_flatten(column).to_numpy(), np.cumsum(lengths) - lengths, lengths)


def _by_user(pairs: pa.Table, num_users: int) -> Lists:
    user = pairs["user_id"].to_numpy()
    lengths = np.bincount(user, minlength=num_users)
    items = pairs["item_id"].to_numpy()[np.argsort(user, kind="stable")]
    return Lists.of(items, np.cumsum(lengths) - lengths, lengths)


def _within(lengths: np.ndarray) -> np.ndarray:
    """Count from 0 within each of some lists laid end to end."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
