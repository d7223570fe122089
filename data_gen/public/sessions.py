"""Next-item benchmarks of anonymous sessions: Tmall, Diginetica, RetailRocket as GCE-GNN and COTREC prepared them.

Sources: CCIIPLab/GCE-GNN `datasets/` (Tmall, Diginetica), RecoHut-Datasets/retail_rocket (branch v1), the train sessions
before augmentation. No licence in these repositories; the data are from Tianchi, the CIKM Cup 2016 and RetailRocket (CC
BY-NC-SA 4.0): for research, not to be passed on.

A folder may hold several of them, each with its own item ids; `ADAPTERS` has one adapter for each, `ADAPTER` reads the only one
of a folder. What a row means, and where it goes:

- `NAME_train_sessions.parquet`: the items of one session, in order: a row of `sequences`, split "train", without a target.
  The published training set is every (s[:k], s[k]) of it; `quality` states how many these are.
- `NAME_test.parquet`: the beginning of a session and the item that came next: a row of split "test" with that target. One
  session has several such rows, and which belong together is not said.
- `items`: the ids alone. They are numbered once for both files, in the order of the source's ids: where these have no gap, our
  id is the source's less the smallest (`quality` states it).

Certain from the source: order, split, and that both files use the same ids. Assumed: nothing. Test rows with an item that no
train session has stay, since that happened; they are counted, for no model of ids can find it.

There are no users, no times, no kinds of events, no features and no validation part."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.public import listed, parquet
from data_gen.public.adapter import SEQUENCES, Adapter, Converted
from data_gen.public.delimited import Source, needed
from unisc.data.schema import ITEMS
from unisc.errors import InputError

DATASETS = ("tmall", "diginetica", "retailrocket")
TRAIN, TEST = "{}_train_sessions.parquet", "{}_test.parquet"
_IDS = pa.list_(pa.int32())
_TRAIN_COLUMNS = pa.schema([needed("items", _IDS)])
_TEST_COLUMNS = pa.schema([needed("prefix", _IDS), needed("target", pa.int32())])


def read(path: Path, *, dataset: str | None = None) -> Converted:
    """Read the two files of one data set of a folder; `dataset` is needed if there are several.

    Raises:
      InputError: a file or column missing, a null or a negative id, named by file, column and row; several data sets in the
        folder and none named; a split without a session that has items.
    """
    name = dataset or _only(path)
    train = parquet.read(path / TRAIN.format(name), _TRAIN_COLUMNS)
    test = parquet.read(path / TEST.format(name), _TEST_COLUMNS)
    parquet.refuse_negative(train, "items")
    parquet.refuse_negative(test, "prefix", "target")
    kept_train, kept_test = (_with_items(source, column) for source, column in ((train, "items"), (test, "prefix")))
    flat = [pc.list_flatten(kept_train["items"]), pc.list_flatten(kept_test["prefix"]), kept_test["target"]]
    (item, prefix, target), items = listed.dense(*flat)
    lengths = np.concatenate([pc.list_value_length(c).to_numpy() for c in (kept_train["items"], kept_test["prefix"])])
    rows, sessions = len(lengths), len(kept_train)
    known = np.unique(item)
    new_target = ~np.isin(target, known)
    of_prefix = np.repeat(np.arange(len(kept_test)), lengths[sessions:])
    new_prefix = np.bincount(of_prefix, ~np.isin(prefix, known), minlength=len(kept_test)) > 0
    sequences = {
        "sequence_id": np.arange(rows),
        "user_id": pa.nulls(rows, pa.int32()),
        "item_ids": pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()),
            pa.array(np.concatenate([item, prefix]), pa.int32()),
        ),
        "target_id": pa.chunked_array([pa.nulls(sessions, pa.int32()), pa.array(target, pa.int32())]),
        "split": pa.chunked_array([pa.repeat("train", sessions), pa.repeat("test", len(kept_test))]),
    }
    return Converted(
        tables={
            SEQUENCES.name: listed.declared(SEQUENCES, sequences),
            ITEMS.name: listed.declared(ITEMS, {"item_id": np.arange(len(items))}),
        },
        quality={
            "rows": {
                source.file.name: listed.account(len(source), {"no item": len(source) - len(kept)})
                for source, kept in ((train, kept_train), (test, kept_test))
            },
            "pairs of the published training set": int((lengths[:sessions] - 1).sum()),
            "source ids": {"from": items[0].as_py(), "to": items[-1].as_py(), "known": len(items)},
            "items of no train session": len(items) - len(known),
            "test rows whose target no train session has": int(new_target.sum()),
            "test rows whose prefix has an item no train session has": int(new_prefix.sum()),
        },
    )


def _only(path: Path) -> str:
    found = sorted(file.name[: -len(TRAIN.format(""))] for file in path.glob(TRAIN.format("*")))
    if not found:
        raise InputError(f"{path / TRAIN.format('*')}: not found; give the folder that holds this file")
    if len(found) > 1:
        raise InputError(f"{path}: holds {', '.join(found)}, each with its own item ids; give one as dataset")
    return found[0]


def _with_items(source: Source, column: str) -> pa.Table:
    kept = source.table.filter(pc.greater(pc.list_value_length(source[column]), 0))
    if not len(kept):
        raise InputError(f"{source.file}: column {column} holds no item in any row; fetch the file again")
    return kept


def _adapter(name: str, dataset: str | None) -> Adapter:
    of = dataset or "*"
    return Adapter(
        name=name,
        title="Next item of anonymous sessions" + (f": {dataset}" if dataset else ""),
        source="https://github.com/RecoHut-Datasets/retail_rocket"
        if dataset == "retailrocket"
        else "https://github.com/CCIIPLab/GCE-GNN",
        licence="none stated (Tianchi, CIKM Cup 2016; RetailRocket CC BY-NC-SA 4.0)",
        gives=("the items of train sessions in order", "test prefixes with the item that came next"),
        cannot_give=(
            "times and users: no log tables and nothing for ES3",
            "impressions, lists, searches; whether an item was seen, put into a cart or bought",
            "titles and other features of items",
            "a validation part; which test rows are of one session",
        ),
        columns={TRAIN.format(of): _TRAIN_COLUMNS, TEST.format(of): _TEST_COLUMNS},
        read=partial(read, dataset=dataset),
    )


ADAPTERS = {dataset: _adapter(f"sessions_{dataset}", dataset) for dataset in DATASETS}
ADAPTER = _adapter("sessions", None)
