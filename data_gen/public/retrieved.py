"""List-wise samples from histories alone: item-to-item retrieval proposes the candidates, what came next is the label.

For sources that recorded no lists (see `histories`), as the second stage of a funnel meets them: a request's candidates are the
best items by `item_to_item`, learned from the train part, and the history that a request is from counts for nothing in its own
list. Test requests hold every candidate; a target that retrieval missed is among none of them, and the table `targets` says
what was to be found, so that metrics can be of the whole catalogue. Train requests are drawn by the seed; lists that miss their
target are left out, and of the other candidates a uniform draw is kept, its chance as `probability`: ranks, scores and how hard
a candidate is are then spread as in testing.

What nobody recorded is filled in (`retrieved_rows`), and means this:

- every candidate is `exposed`, since the list is what a ranker is asked to order; nobody was shown it, and a candidate that is
  no target is a sampled negative;
- time counts steps: a history's last item has age 1, a request's `ts` is how many items came before it. Interactions have no
  order: every age is 1, and a history stands in the order of the file;
- sessions have user 0, since none is seen again.

What retrieval knows of a candidate are its numbers: its score over the best of the list, its score and the count of other
histories that hold it on a log scale, and the reciprocal of its rank. In sessions an item of the history can be a candidate
again, as it can be met again; in interactions it cannot, as the benchmark has it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.blocks import new_directory
from data_gen.public import histories, listed
from data_gen.public.dataset import read_manifest
from data_gen.public.histories import Requests
from data_gen.public.item_to_item import ItemToItem, Lists
from data_gen.public.next_floors import floors
from data_gen.public.retrieved_rows import DOMAIN, rows
from unisc.data import manifest
from unisc.data.schema import ITEMS, QUERIES, USERS
from unisc.errors import InputError

REQUESTS_AT_ONCE = 32
VERSION = 1
"""Raised by hand when the same histories and configuration would give other lists."""

TARGETS = pa.schema([("request_id", pa.int64()), ("item_ids", pa.list_(pa.int32()))])
"""What was to be found for each test request, whether or not it is among the candidates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrieveConfig:
    """What decides the lists.

    Attributes:
      candidates: of a test list.
      train_requests: drawn, at most; those whose target is retrieved are kept.
      train_candidates: kept in a train list, the target among them.
      test_requests: drawn, at most; 0 for all.
      seed: of the draws.
    """

    candidates: int = 100
    train_requests: int = 30_000
    train_candidates: int = 20
    test_requests: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "candidates": (2, 2**15 - 1),
            "train_requests": (1, 2**31 - 1),
            "train_candidates": (2, self.candidates),
            "test_requests": (0, 2**31 - 1),
            "seed": (0, 2**31 - 1),
        }
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} {getattr(self, name)}: out of range; give a whole number from {least} to {most}")


def retrieve(converted: Path, out: Path, config: RetrieveConfig) -> dict[str, Any]:
    """Write samples of a directory of sequences or interactions that `convert` made; return their manifest.

    Its `quality` gives the share of the targets that retrieval found, of the train requests drawn and of the test requests, and
    the `floors` of `next_floors` on the latter.

    Raises:
      InputError: as `histories.read`; an output folder that holds something or cannot be written; no target of a train request
        found.
    """
    source = read_manifest(converted, verify=True)
    with new_directory(out) as aside:
        found, num_items = histories.read(converted), source["counts"]["items"]
        rng = np.random.default_rng(config.seed)
        train = found.draw(config.train_requests, rng)
        test = found.test.take(np.sort(rng.permutation(len(found.test))[: config.test_requests or None]))
        rule = ItemToItem(found.train, num_items=num_items, ordered=found.ordered)
        counts: dict[str, int] = {}
        quality: dict[str, Any] = {"floors": floors(found, test, num_items=num_items)}
        for split, requests, of in (("test", test, None), ("train", train, rng)):
            # Ids of train requests follow those of the test requests, which are places in `test`.
            made, ceiling = _lists(rule, requests, config, of, first_id=0 if split == "test" else len(test))
            _write(aside / split, made)
            counts |= {f"{split}_asked": len(requests), f"{split}_requests": len(made)}
            quality[f"{split} targets retrieved"] = ceiling
        if not counts["train_requests"]:
            raise InputError(f"{converted}: no target of {len(train)} train requests is retrieved; give more candidates")
        targets = pa.ListArray.from_arrays(pa.array(test.targets.offsets, pa.int32()), pa.array(test.targets.items, pa.int32()))
        _write(aside / "targets", pa.table([pa.array(np.arange(len(test))), targets], schema=TARGETS))
        _write(aside / ITEMS.name, listed.declared(ITEMS, {"item_id": np.arange(num_items)}))
        _write(aside / USERS.name, listed.declared(USERS, {"user_id": np.arange(source["counts"].get(USERS.name, 1))}))
        _write(aside / QUERIES.name, QUERIES.columns.empty_table())
        made_from = {"source": source["config"]["source"], "fingerprint": source["fingerprint"]}
        return manifest.write(
            aside,
            kind="samples",
            config={**asdict(config), "version": VERSION, "made_from": made_from},
            counts=counts,
            domains=[DOMAIN],
            composition="retrieved",
            test_start=None,
            quality=quality,
        )


def _write(directory: Path, table: pa.Table) -> None:
    directory.mkdir()
    # One chunk a column: where a chunk ends would otherwise show in the file.
    pq.write_table(table.combine_chunks(), directory / "part-00000.parquet", compression="zstd", row_group_size=4096)


def _lists(
    rule: ItemToItem, requests: Requests, config: RetrieveConfig, rng: np.random.Generator | None, *, first_id: int
) -> tuple[pa.Table, float]:
    """Return the rows of requests, and the share of their targets that was retrieved; with `rng` those of train lists."""
    tables, found = [], 0
    for start in range(0, len(requests), REQUESTS_AT_ONCE):
        places = np.arange(start, min(start + REQUESTS_AT_ONCE, len(requests)))
        some = requests.take(places)
        proposed = rule.propose(some.asked, some.own, config.candidates, repeats=rule.ordered)
        # In a catalogue of few items, a list without repeats ends in items of the history: these are no candidates.
        kept = np.ones(proposed.items.shape, bool) if rule.ordered else ~_marked(some.asked, rule.num_items, proposed.items)
        target = _marked(some.targets, rule.num_items, proposed.items) & kept
        found += int(target.sum())
        chance = np.ones(target.shape)
        if rng is not None:
            kept, chance = _drawn(target, kept, config.train_candidates, rng)
        tables.append(rows(rule, some, proposed, target, kept, chance, first_id + places))
    return pa.concat_tables(tables), found / len(requests.targets.items)


def _marked(lists: Lists, num_items: int, items: np.ndarray) -> np.ndarray:
    """Say of the (R, K) items whether they are in their request's list."""
    marks = np.zeros((len(lists), num_items), bool)
    marks[lists.rows, lists.items] = True
    return np.take_along_axis(marks, items, 1)


def _drawn(target: np.ndarray, candidate: np.ndarray, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Keep the targets of lists that hold one, and a uniform draw of their other candidates up to `num`; with the chances."""
    keys = np.where(target, -1, np.where(candidate, rng.random(target.shape), 2))
    place = np.argsort(np.argsort(keys, axis=1), axis=1)
    targets = target.sum(axis=1, keepdims=True)
    kept = (place < np.maximum(num, targets)) & (targets > 0) & candidate
    chance = np.clip((num - targets) / np.maximum(candidate.sum(axis=1, keepdims=True) - targets, 1), 0, 1)
    return kept, np.where(target, 1.0, chance)
