"""List-wise samples from events of several kinds alone: each action is a request, retrieval proposes its list.

For sources that recorded what visitors viewed, put into the cart and bought, and no lists (kind "events"). A request is a
moment at which a visitor acted, and asks: on which of these items? Its domain is the kind of the action. One kind is the target
(a purchase, say); the others are foreign domains of other intent. The compositions stand where ES3's stand, but each adds one
thing to the first, so that its worth is not mixed with another's:

- `exposed`: requests of the target kind, the items acted on being the label;
- `attributed`: the same lists, and candidates on which the visitor acts in a foreign kind within `window_secs` are labels too;
- `searchified`: the first, and the requests of the foreign kinds with lists made in the same way, in domains of their own.

Nothing was shown and not bought, so there is no composition `unexposed`. The test part is the same in all: target requests from
`test_start` on, with their own labels.

A list holds what the visitor touched last (at most `touched` items, the latest first; an item that was bought is not proposed
again), then the best of the others by `item_to_item` over the latest events, learned from events before `test_start`; the
visitor's own count for nothing in them, in training and in testing alike. A target that is not in the list is no label, and a
list without one is left out: what was not proposed is lost in whatever order. `quality` states the shares.

Lists of the train part are whole, as those of the test part: what was touched last is told by ranks within the list.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.public import listed
from data_gen.public.action_rows import NUMBERS, ROW, Events, Requests, propose, rows
from data_gen.public.dataset import read_manifest
from data_gen.public.item_to_item import ItemToItem
from unisc.data import manifest
from unisc.data.schema import EVENTS, ITEMS, KINDS, QUERIES, USERS
from unisc.errors import InputError
from unisc.files import new_directory

COMPOSITIONS = ("exposed", "attributed", "searchified")
REQUESTS_AT_ONCE = 32
VERSION = 1
"""Raised by hand when the same events and configuration would give other samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionsConfig:
    """What decides the samples.

    Attributes:
      target: kind of the action to rank for; the other kinds of the log are the foreign domains.
      test_share: of the target requests, the last by time.
      candidates: of a list.
      touched: of them, at most, items of the visitor's own past.
      requests_a_user: of one kind, at most, drawn; a few resellers would be half of a log else.
      foreign_requests: of each foreign kind, at most, drawn.
      window_secs: in which a later foreign action is a label of a target list.
      seed: of the draws.
    """

    target: str = "purchase"
    test_share: float = 0.25
    candidates: int = 30
    touched: int = 15
    requests_a_user: int = 50
    foreign_requests: int = 20_000
    window_secs: int = 86_400
    seed: int = 0

    def __post_init__(self) -> None:
        if self.target not in KINDS:
            raise InputError(f"target {self.target!r}: no kind of event; give one of {', '.join(KINDS)}")
        bounds = {
            "candidates": (2, 2**15 - 1),
            "touched": (0, self.candidates),
            "requests_a_user": (1, 2**31 - 1),
            "foreign_requests": (1, 2**31 - 1),
            "window_secs": (1, 2**31 - 1),
            "seed": (0, 2**31 - 1),
        }
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} {getattr(self, name)}: out of range; give a whole number from {least} to {most}")


def build(
    converted: Path, out: Path, config: ActionsConfig, compositions: Sequence[str] = COMPOSITIONS
) -> dict[str, dict[str, Any]]:
    """Write samples of a directory of events that `convert` made as `<out>/<composition>/`; return their manifests.

    Raises:
      InputError: not a directory of events, no event of the target kind or of another, a part without a list that holds its
        target, an unknown composition, an output folder that holds something or cannot be written.
    """
    if unknown := [name for name in compositions if name not in COMPOSITIONS]:
        raise InputError(f"composition {unknown[0]!r}: events give none; give some of {', '.join(COMPOSITIONS)}")
    source = read_manifest(converted, verify=True)
    if source["kind"] != "events":
        raise InputError(f"{converted}: holds {source['kind']}, but events without lists are needed; give such a source")
    table, num_items = pq.read_table(converted / EVENTS.name), source["counts"][ITEMS.name]
    present = [kind for kind in reversed(KINDS) if pc.any(pc.equal(table["kind"], kind), min_count=0).as_py()]
    if config.target not in present or len(present) < 2:
        raise InputError(f"{converted}: events of {', '.join(present)}; {config.target} and another kind are needed")
    domains = (config.target, *(kind for kind in present if kind != config.target))
    events = Events.of(table, domains, num_users=source["counts"][USERS.name], num_items=num_items)

    requests, rng = events.requests(), np.random.default_rng(config.seed)
    test_start = listed.choose_test_start(requests.ts[requests.domain == 0], config.test_share)
    rule = ItemToItem(events.histories(test_start), num_items=num_items, ordered=True)
    made, counts, quality = {}, {}, {}
    for split, domain in (("test", 0), *(("train", d) for d in range(len(domains)))):
        of = (requests.domain == domain) & ((requests.ts >= test_start) == (split == "test"))
        chosen = requests.take(_drawn(requests.user, np.flatnonzero(of), config, rng, foreign=domain > 0))
        part = f"{split} {domains[domain]}"
        made[part] = _lists(rule, events, chosen, config, before=test_start if split == "train" and domain == 0 else None)
        counts[f"{part} drawn"], kept = len(chosen), len(made[part])
        if domain == 0 and not kept:
            raise InputError(f"{converted}: no list of {len(chosen)} {part} requests holds its item; give more candidates")
        quality[f"{part} lists with their item"] = kept / max(len(chosen), 1)
    if not any(len(made[f"train {domain}"]) for domain in domains[1:]):
        raise InputError(f"{converted}: no list of a foreign train request holds its item; give more candidates")
    quality |= _floors(made[f"test {domains[0]}"])
    stated = {"domains": list(domains), "test_start": test_start, "quality": quality}
    made_from = {"source": source["config"]["source"], "fingerprint": source["fingerprint"]}
    settings = {**asdict(config), "version": VERSION, "made_from": made_from}
    return {name: _write(out / name, name, made, settings, source, counts, stated) for name in compositions}


def _drawn(
    user: np.ndarray, places: np.ndarray, config: ActionsConfig, rng: np.random.Generator, *, foreign: bool
) -> np.ndarray:
    """Draw at most `requests_a_user` of each user's places and, of a foreign kind, `foreign_requests` in all; in order."""
    places = rng.permutation(places)
    by_user = np.argsort(user[places], kind="stable")
    lengths = np.bincount(user[places])
    turn = np.empty(len(places), np.int64)
    turn[by_user] = np.arange(len(places)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = places[turn < config.requests_a_user]
    return np.sort(places[: config.foreign_requests] if foreign else places)


def _lists(rule: ItemToItem, events: Events, requests: Requests, config: ActionsConfig, *, before: int | None) -> pa.Table:
    """Return the rows of the requests whose list holds an item acted on; `before` bounds the events that are attributed."""
    tables = []
    for start in range(0, len(requests), REQUESTS_AT_ONCE):
        some = requests.take(np.arange(start, min(start + REQUESTS_AT_ONCE, len(requests))))
        proposed = propose(rule, events, some, num=config.candidates, touched=config.touched)
        tables.append(rows(events, some, proposed, window=config.window_secs if before else 0, before=before or 0))
    return pa.concat_tables([ROW.empty_table(), *tables])


def _write(
    out: Path,
    composition: str,
    made: dict[str, pa.Table],
    settings: dict[str, Any],
    source: dict[str, Any],
    drawn: dict[str, int],
    stated: dict[str, Any],
) -> dict[str, Any]:
    domains = stated["domains"]
    train = made[f"train {domains[0]}"]
    if composition != "attributed":
        train = _own_labels(train)
    if composition == "searchified":
        train = pa.concat_tables([train, *(made[f"train {domain}"] for domain in domains[1:])])
    # In the order of a hash, so that a share of the rows is a share of each domain's, and a smaller one is part of it.
    train = train.take(np.argsort(_mixed(train["request_id"].to_numpy()), kind="stable"))
    test = _own_labels(made[f"test {domains[0]}"])
    with new_directory(out) as aside:
        for name, table in {
            "train": train,
            "test": test,
            ITEMS.name: listed.declared(ITEMS, {"item_id": np.arange(source["counts"][ITEMS.name])}),
            USERS.name: listed.declared(USERS, {"user_id": np.arange(source["counts"][USERS.name])}),
            QUERIES.name: QUERIES.columns.empty_table(),
        }.items():
            (aside / name).mkdir()
            pq.write_table(table.combine_chunks(), aside / name / "part-00000.parquet", compression="zstd", row_group_size=4096)
        label, level = (pc.list_flatten(train[name]) for name in ("click", "click_level"))
        counts = {
            "train_requests": len(train),
            "train_samples": len(label),
            "train_clicks": pc.sum(label).as_py(),
            "train_attributed": pc.sum(pc.greater(level, 1)).as_py(),
            "test_requests": len(test),
            "test_samples": pc.sum(pc.list_value_length(test["item_id"])).as_py(),
        }
        by_domain = pc.value_counts(train["domain"]).to_pylist()
        counts |= {f"train_requests {entry['values']}": entry["counts"] for entry in by_domain}
        return manifest.write(
            aside,
            kind="samples",
            config={**settings, "composition": composition},
            counts=counts | drawn,
            composition=composition,
            **stated,
        )


def _floors(test: pa.Table) -> dict[str, float]:
    """Return the mean reciprocal rank of the first item acted on by two rules: as proposed, and what is in the cart first."""
    lists = (len(test), -1)
    acted = pc.list_flatten(test["click_level"]).to_numpy().reshape(lists) == 1
    in_cart = pc.list_flatten(test[NUMBERS[0]]).to_numpy().reshape(lists)
    found = {}
    for rule, key in {"as proposed": np.zeros_like(in_cart), "in the cart first": -in_cart}.items():
        order = np.argsort(key, axis=1, kind="stable")
        found[f"test MRR, {rule}"] = float(np.mean(1 / (1 + np.take_along_axis(acted, order, 1).argmax(axis=1))))
    return found


def _own_labels(table: pa.Table) -> pa.Table:
    """Take back the labels that another domain's events gave."""
    level = pc.list_flatten(table["click_level"]).to_numpy()
    own, offsets = level == 1, np.arange(len(table) + 1) * (len(level) // max(len(table), 1))
    for name, none in (("click", 0), ("click_level", 0), ("click_origin", -1), ("click_ts", -1)):
        values = np.where(own, pc.list_flatten(table[name]).to_numpy(), none)
        column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values)).cast(table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table


def _mixed(ids: np.ndarray) -> np.ndarray:
    """Return a hash of each id: the finaliser of murmur3 for 64 bits."""
    x = ids.astype(np.uint64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ (x >> np.uint64(33))) * np.uint64(factor)
    return x ^ (x >> np.uint64(33))
