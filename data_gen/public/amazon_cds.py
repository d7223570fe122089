"""AmazonCDs_m1, the matching split of the BARS benchmark: pairs of a user and an item, without times.

Source: reczoo/RecZoo `data/AmazonCDs_m1`, its two files joined into one Parquet file (user, item, split). The reviews it comes
from have no explicit licence: for research, not to be passed on.

What a row means, and where it goes: a user reviewed an item, which the benchmark put into its train or test part; each is a
row of `interactions`, in that split and in the order of the file. `users` and `items` hold the ids alone, numbered in the
order of the source's, which have no gap: there they are the same.

Certain from the source: the pairs and the split; scores are published with the user's train items left out of the ranking.
Assumed: a pair that one split holds twice counts once; a pair of both splits stays in both and is counted, since a model that
leaves train items out cannot find it.

The source has nothing else: no times, so no order and no log tables, no titles, no features, no validation part."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.public import listed, parquet
from data_gen.public.adapter import INTERACTIONS, Adapter, Converted
from data_gen.public.delimited import needed
from unisc.data.schema import ITEMS, USERS
from unisc.errors import InputError

PAIRS = "interactions.parquet"
SPLITS = ("train", "test")
COLUMNS = {PAIRS: pa.schema([needed("user", pa.int32()), needed("item", pa.int32()), needed("split", pa.string())])}


def read(path: Path) -> Converted:
    """Read a folder with `interactions.parquet`.

    Raises:
      InputError: a file or column missing, a null, a negative id or another split, named by file, column and row; a split
        without rows.
    """
    source = parquet.read(path / PAIRS, COLUMNS[PAIRS])
    parquet.refuse_negative(source, "user", "item")
    split = pc.fill_null(pc.index_in(source["split"], value_set=pa.array(SPLITS)), -1).to_numpy()
    if np.any(split < 0):
        source.fail("split", split < 0, f"none of {', '.join(SPLITS)}")
    for code, name in enumerate(SPLITS):
        if not np.any(split == code):
            raise InputError(f"{source.file}: column split has no {name} row; give both parts")
    (user,), users = listed.dense(source["user"])
    (item,), items = listed.dense(source["item"])
    pair = user.astype(np.int64) * len(items) + item
    first = np.sort(np.unique(pair * len(SPLITS) + split, return_index=True)[1])
    in_train = split[first] == 0
    train, test = first[in_train], first[~in_train]
    pairs = {"user_id": user[first], "item_id": item[first], "split": source["split"].take(first)}
    return Converted(
        tables={
            INTERACTIONS.name: listed.declared(INTERACTIONS, pairs),
            ITEMS.name: listed.declared(ITEMS, {"item_id": np.arange(len(items))}),
            USERS.name: listed.declared(USERS, {"user_id": np.arange(len(users))}),
        },
        quality={
            "rows": {PAIRS: listed.account(len(source), {"repeats a pair of its split": len(source) - len(first)})},
            "splits": {"train": len(train), "test": len(test)},
            "test pairs that train holds": int(np.isin(pair[test], pair[train]).sum()),
            "test pairs whose user train lacks": int((~np.isin(user[test], user[train])).sum()),
            "test pairs whose item train lacks": int((~np.isin(item[test], item[train])).sum()),
        },
    )


ADAPTER = Adapter(
    name="amazon_cds",
    title="AmazonCDs_m1: the BARS matching split",
    source="https://github.com/reczoo/RecZoo",
    licence="none stated (Amazon reviews)",
    gives=("pairs of a user and an item in the benchmark's train and test parts",),
    cannot_give=(
        "times and order: no histories, no log tables and nothing for ES3",
        "impressions, lists, searches",
        "titles and other features of items or users",
        "a validation part",
    ),
    columns=COLUMNS,
    read=read,
)
