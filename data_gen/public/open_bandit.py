"""Open Bandit (ZOZOTOWN, 2019): single slots of a fashion shop's recommendations under two policies, with true propensities.

Source: research.zozo.com/data.html, described in st-tech/zr-obp `obd/README.md` at 12eb4f17 and in arXiv 2008.07146. The
repository (Apache-2.0) ships 10,000 rows a policy and campaign; the full 26 million rows have their own terms, and need a
machine that holds them. Both forms are read:

- the files as published, `POLICY/CAMPAIGN/CAMPAIGN.csv` with an `item_context.csv` beside each, plain or as .gz;
- the same rows in one `logs.parquet` and one `item_context.parquet`, with the columns `policy` and `campaign`.

What a row means, and where it goes:

- a row of the log is one impression: an item in one of three slots beside each other, of a page that is not logged otherwise.
  It is one request of the one domain "rec" with one exposed candidate, `position` counted from 0 at the left, and `propensity`
  as logged: the policy's probability of this item in this slot. A click is an event at the time of its impression.
- `scene` tells policy and campaign (see SCENES). Neither is a domain: policies ran side by side at random in the same place of
  the same app, and in ES3 only the lists of the first domain become samples.
- an item is an item of a campaign, since each campaign numbers its own. `attribute_ids` are codes of `item_feature_1` to `3`
  (hashed, no meaning given), distinct across the three.
- a user is an impression: the log does not say who saw it. `user_feature_0` to `3` are hashed groups (317 of them in the 40,000
  rows of the sample, the largest with 1,786), so to call a group a user would give people the histories of strangers. The
  group is the user's `segment`; every history is empty, which is what is known.

Certain from the source: the above, and times with their zone (whole seconds here, rows in the order of their full times). Rows
equal in every column read count once. Left out: `item_feature_0`, a number without a stated meaning, and the affinities,
numbers of past clicks of a user on every item, for which the log tables have no place.

Clicks are rare (207 in the sample): enough to test estimators that weigh by propensity, not to train a model.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.public import delimited, listed, parquet
from data_gen.public.adapter import Adapter, Converted
from data_gen.public.delimited import Source, needed
from unisc.errors import InputError

DOMAINS = ("rec",)
POLICIES = ("bts", "random")
CAMPAIGNS = ("all", "men", "women")
SCENES = tuple((policy, campaign) for policy in POLICIES for campaign in CAMPAIGNS)
"""Policy and campaign by `scene`."""
NUM_SLOTS = 3
_ITEMS_OF_CAMPAIGN = 2**31
LOGS, CONTEXT = "logs.parquet", "item_context.parquet"
CSV_LOGS, CSV_CONTEXT = "*/*/*.csv", "*/*/item_context.csv"

_USER = [f"user_feature_{i}" for i in range(4)]
_ITEM = [f"item_feature_{i}" for i in range(1, 4)]
_IMPRESSION = pa.schema(
    [
        needed("timestamp", pa.string()),
        needed("item_id", pa.int64()),
        needed("position", pa.int64()),
        needed("click", pa.int64()),
        needed("propensity_score", pa.float64()),
        *(needed(name, pa.string()) for name in _USER),
    ]
)
_FEATURES = pa.schema([needed("item_id", pa.int64()), *(needed(name, pa.string()) for name in _ITEM)])
COLUMNS = {
    LOGS: pa.schema([needed("policy", pa.string()), needed("campaign", pa.string()), *_IMPRESSION]),
    CONTEXT: pa.schema([needed("campaign", pa.string()), *_FEATURES]),
    CSV_LOGS: _IMPRESSION,
    CSV_CONTEXT: _FEATURES,
}
_IDS = pa.list_(pa.int32())
_CLOCK = r"^20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A file with the places in POLICIES and CAMPAIGNS of each row (items have no policy)."""

    rows: Source
    policy: np.ndarray
    campaign: np.ndarray


def read(path: Path, *, test_share: float = 0.1) -> Converted:
    """Read a folder that holds either form; `test_share` of the impressions, the last by time, are test.

    Raises:
      InputError: none of the forms or both, a file or column missing, a value that does not convert or is out of range, a time
        that is none, named by file, column and row; no impression; a share that leaves a split empty.
    """
    parts, contexts = _parts(path)
    impressions = pa.concat_tables([_impressions(part) for part in parts])
    if not len(impressions):
        parts[0].rows.refuse_empty()
    group = pa.array(listed.coded(impressions["group"]))
    impressions = impressions.drop_columns("group").append_column("group", group)
    features = pa.concat_tables([_features(part) for part in contexts])
    told = [impressions[name].to_numpy() for name in ("us", "scene", "item", "position", "click", "group")]
    told.append(impressions["propensity"].to_numpy().view(np.int64))
    # Sorted by the time in full, so that what becomes one second keeps its order.
    kept = impressions.take(np.unique(np.stack(told), axis=1, return_index=True)[1])
    items = _items(features)
    user, ts, item = np.arange(len(kept)), kept["us"].to_numpy() // 1_000_000, kept["item"].to_numpy()
    tables, unknown = listed.log_tables(
        lists=listed.requests(user=user, ts=ts, domain=DOMAINS[0], scene=kept["scene"]),
        entries=kept.select(["item", "position", "propensity"])
        .append_column("list", pa.array(user))
        .append_column("exposed", pa.array(np.ones(len(kept), bool))),
        events=listed.clicks(
            np.flatnonzero(kept["click"].to_numpy()), user=user, item=item, ts=ts, domain=DOMAINS[0], lists=user
        ),
        items=items,
        users=pa.table({"user": user, "segment": kept["group"]}),
    )
    return Converted(
        tables=tables,
        domains=DOMAINS,
        test_start=listed.choose_test_start(ts, test_share),
        end_ts=listed.end_of(tables),
        quality={
            "rows": {
                "logs": listed.account(len(impressions), {"repeats a row": len(impressions) - len(kept)}),
                "item_context": listed.account(len(features), {"repeats an item": len(features) - len(items)}),
            },
            "impressions": _by_scene(kept["scene"]),
            "clicks": _by_scene(kept["scene"].filter(pc.equal(kept["click"], 1))),
            "test_share": test_share,
            **unknown,
        },
    )


def _parts(path: Path) -> tuple[list[_Part], list[_Part]]:
    """Log files and item files of either form."""
    logs, contexts = [], []
    for code, (policy, campaign) in enumerate(SCENES):
        folder = path / policy / campaign
        for file in delimited.find(folder, f"{campaign}.csv", needed=False):
            (context,) = delimited.find(folder, "item_context.csv")
            for made, source in ((logs, delimited.read(file, _IMPRESSION)), (contexts, delimited.read(context, _FEATURES))):
                policies, campaigns = (np.full(len(source), place) for place in divmod(code, len(CAMPAIGNS)))
                made.append(_Part(rows=source, policy=policies, campaign=campaigns))
    if not logs:
        rows, items = (parquet.read(path / name, COLUMNS[name]) for name in (LOGS, CONTEXT))
        campaigns = [_place(source, "campaign", CAMPAIGNS) for source in (rows, items)]
        logs = [_Part(rows=rows, policy=_place(rows, "policy", POLICIES), campaign=campaigns[0])]
        contexts = [_Part(rows=items, policy=np.zeros(len(items), np.int64), campaign=campaigns[1])]
    elif (path / LOGS).exists():
        raise InputError(f"{path}: holds {LOGS} and {logs[0].rows.file.relative_to(path)}; give a folder with one form")
    return logs, contexts


def _place(rows: Source, name: str, known: tuple[str, ...]) -> np.ndarray:
    place = pc.index_in(rows[name], value_set=pa.array(known))
    if place.null_count:
        rows.fail(name, pc.is_null(place), f"not one of {', '.join(known)}")
    return place.to_numpy().astype(np.int64)


def _impressions(part: _Part) -> pa.Table:
    rows = part.rows
    for name, low, high in (("position", 1, NUM_SLOTS), ("click", 0, 1)):
        values = rows[name].to_numpy()
        if (bad := (values < low) | (values > high)).any():
            rows.fail(name, bad, f"not a number from {low} to {high}")
    propensity = rows["propensity_score"].to_numpy()
    # As the table stores it: a probability too small for its type would read as impossible.
    if (bad := ~((propensity.astype(np.float32) > 0) & (propensity <= 1))).any():
        rows.fail("propensity_score", bad, "not a probability above 0")
    return pa.table(
        {
            "us": _microseconds(rows),
            "scene": (part.policy * len(CAMPAIGNS) + part.campaign).astype(np.int64),
            "item": _item_keys(part),
            "position": rows["position"].to_numpy() - 1,
            "click": rows["click"].to_numpy(),
            "propensity": propensity,
            "group": pc.binary_join_element_wise(*(rows[name] for name in _USER), " "),
        }
    )


def _microseconds(rows: Source) -> np.ndarray:
    text = rows["timestamp"]
    good = pc.match_substring_regex(text, _CLOCK)
    if not pc.all(good, min_count=0).as_py():
        rows.fail("timestamp", pc.invert(good), "not a time of this century with its zone, like 2019-11-24 00:01:03.9+00:00")
    try:
        return text.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    except pa.ArrowException as e:
        why = " ".join(str(e).split())[:120]
        raise InputError(f"{rows.file}: column timestamp holds what is no time ({why}); correct or remove this row") from e


def _item_keys(part: _Part) -> np.ndarray:
    """One number for campaign and item."""
    number = part.rows["item_id"].to_numpy()
    if (bad := (number < 0) | (number >= _ITEMS_OF_CAMPAIGN)).any():
        part.rows.fail("item_id", bad, f"not a number from 0 to {_ITEMS_OF_CAMPAIGN - 1}")
    return part.campaign * _ITEMS_OF_CAMPAIGN + number


def _features(part: _Part) -> pa.Table:
    # The feature's name goes before its value, so that equal values of two features stay two.
    said = {name: pc.binary_join_element_wise(pa.scalar(name), part.rows[name], " ") for name in _ITEM}
    return pa.table({"item": _item_keys(part), **said})


def _items(features: pa.Table) -> pa.Table:
    """First row of each item, with the codes of its features from 1."""
    first = features.take(listed.firsts(features["item"]))
    codes, _ = listed.dense(*(first[name] for name in _ITEM))
    flat = pa.array(np.stack(codes, axis=1).ravel() + 1, pa.int32())
    return pa.table({"item": first["item"], "attribute_ids": pa.FixedSizeListArray.from_arrays(flat, len(_ITEM)).cast(_IDS)})


def _by_scene(scene: pa.ChunkedArray) -> dict[str, int]:
    """Count rows by the names of their scene; scenes without any are left out."""
    counts = np.bincount(scene.to_numpy(), minlength=len(SCENES))
    return {" ".join(names): int(n) for names, n in zip(SCENES, counts, strict=True) if n}


ADAPTER = Adapter(
    name="open_bandit",
    title="Open Bandit: slots of a fashion shop's recommendations with propensities",
    source="https://research.zozo.com/data.html",
    licence="Apache-2.0 for the sample in the repository st-tech/zr-obp; the full data has its own terms",
    gives=(
        "impressions with time, slot, click and the logging policy's true propensity",
        "two policies side by side, one of them uniformly random, told apart by their scene",
        "hashed features of items and of groups of users",
    ),
    cannot_give=(
        "users: who saw an impression is not logged, so there are no histories",
        "pages: which impressions were shown together is not logged, so every list has one entry",
        "unexposed candidates, searches and queries",
        "carts, purchases, prices, titles and categories",
        "past clicks of users on items (user_item_affinity): no column for them",
    ),
    columns=COLUMNS,
    read=read,
)
