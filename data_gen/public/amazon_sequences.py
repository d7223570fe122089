"""Amazon review sequences: what each user reviewed, in order, with the items' texts and semantic ids where the folder has them.

Sources, three folders of one shape: Beauty 2014 (RUCAIBox/CIKM2020-S3Rec, attribute names of Wenyueh/LLM-RecSys-ID, texts of
agiresearch/IDGenRec, codes of HonghuiBao2000/LETTER), Games (RUCAIBox/LLMRank), Musical Instruments (HonghuiBao2000/LETTER).
The reviews have no explicit licence: for research, not to be passed on.

What a row means, and where it goes:

- `sequences.parquet`: a user's items, oldest first. They become `sequences` by leaving one out: the last item is the test
  target with all before it, the second last the validation target with all before that, and these same items are the training
  row, without a target. A sequence of one or two items is a training row as a whole, an empty one is left out; both are
  counted. Training rows come first, then validation, then test, each in the order of the file.
- `items.parquet`, if there: `title` is `title`, or else `llm_text_id`, a short text that a language model drew from the
  product's data and no title of the product; `attribute_ids` as they stand.
- `semantic_ids.parquet`, or the column `letter_semantic_id` of the items: `semantic_ids`, codes from coarse to fine. Some items
  share theirs (counted).

Users and items are numbered in the order of the source's ids, which have no gap in any of the three: our id is the source's
less the smallest (`quality` states it), so 1 is 0 in Beauty.

Certain from the source: the order, the split. Games holds at most a user's last 50 items. Of reviews on one day the order is
that of the source, and others have others. Assumed: nothing more.

Left out: `asin`, and `attribute_names` (brand and category path), which were attached by matching counts, so that neither a
brand nor a category level can be relied on."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.public import listed, parquet
from data_gen.public.adapter import SEMANTIC_IDS, SEQUENCES, Adapter, Converted
from data_gen.public.delimited import Source, needed
from unisc.data.schema import ITEMS, USERS
from unisc.errors import InputError

USERS_ITEMS, ABOUT_ITEMS, CODES = "sequences.parquet", "items.parquet", "semantic_ids.parquet"
_IDS = pa.list_(pa.int32())
_TEXTS = ("title", "llm_text_id")
COLUMNS = {
    USERS_ITEMS: pa.schema([needed("user_id", pa.int32()), needed("items", _IDS)]),
    ABOUT_ITEMS: pa.schema(
        [
            needed("item_id", pa.int32()),
            *((name, pa.string()) for name in _TEXTS),
            ("attribute_ids", _IDS),
            needed("letter_semantic_id", _IDS),
        ]
    ),
    CODES: pa.schema([needed("item_id", pa.int32()), needed("codes", _IDS)]),
}
"""Of the items' columns `item_id` and one of the texts must be there, the others may be missing."""


def read(path: Path) -> Converted:
    """Read a folder with `sequences.parquet` and, if there, `items.parquet` and `semantic_ids.parquet`.

    Raises:
      InputError: a file or column missing, a null, a negative id, one given twice, or codes of another number than the first
        row's, named by file, column and row; a folder with semantic ids in both places, or without an item.
    """
    source = parquet.read(path / USERS_ITEMS, COLUMNS[USERS_ITEMS])
    parquet.refuse_negative(source, "user_id", "items")
    parquet.refuse_repeats(source, "user_id")
    about = _about_items(path / ABOUT_ITEMS) if (path / ABOUT_ITEMS).exists() else None
    codes, name = _codes(path, about)
    flat = pc.list_flatten(source["items"])
    others = [s["item_id"] for s in (about, codes) if s is not None]
    (item, *_), items = listed.dense(flat, *others)
    (user,), users = listed.dense(source["user_id"])
    if not len(flat):
        raise InputError(f"{source.file}: column items holds no item in any row; fetch the file again")
    lengths = pc.list_value_length(source["items"]).to_numpy()
    tables = {
        SEQUENCES.name: listed.declared(SEQUENCES, leave_one_out(user, item.astype(np.int32), lengths)),
        ITEMS.name: listed.declared(
            ITEMS, {"item_id": np.arange(len(items)), **listed.features(_features(about), "item", items)}
        ),
        USERS.name: listed.declared(USERS, {"user_id": np.arange(len(users))}),
    }
    quality: dict[str, Any] = {
        "rows": {USERS_ITEMS: listed.account(len(source), {"no item": (lengths == 0).sum()})},
        "sequences too short to test on": int(((lengths > 0) & (lengths < 3)).sum()),
        "interactions": len(item),
        "source ids": {what: _range(ids) for what, ids in (("users", users), ("items", items))},
        "items without a row": len(items) - (len(about) if about else 0),
        "items of no sequence": len(items) - len(np.unique(item)),
    }
    if codes is not None:
        held = codes[name].combine_chunks()
        tables[SEMANTIC_IDS.name] = listed.declared(
            SEMANTIC_IDS, {"item_id": pc.index_in(codes["item_id"], value_set=items), "codes": held}
        ).sort_by("item_id")
        paths = held.flatten().to_numpy().reshape(len(held), -1)
        quality["semantic ids"] = {
            "levels": paths.shape[1],
            "distinct": len(np.unique(paths, axis=0)),
            "items without": len(items) - len(held),
        }
    return Converted(tables=tables, quality=quality)


def leave_one_out(user: np.ndarray, item: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """Return the columns of SEQUENCES: sequence i, of `user[i]`, has the next `lengths[i]` of `item`, oldest first."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    long = lengths >= 3
    some = np.flatnonzero(lengths > 0)
    parts = {
        "train": (some, np.where(long, ends - 2, ends)[some]),
        "validation": (np.flatnonzero(long), (ends - 2)[long]),
        "test": (np.flatnonzero(long), (ends - 1)[long]),
    }
    of = np.concatenate([rows for rows, _ in parts.values()])
    stop = np.concatenate([stops for _, stops in parts.values()])
    split = np.repeat(list(parts), [len(rows) for rows, _ in parts.values()])
    sizes = stop - starts[of]
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    flat = item[np.arange(bounds[-1]) + np.repeat(starts[of] - bounds[:-1], sizes)]
    target = item[np.minimum(stop, len(item) - 1)]
    return {
        "sequence_id": np.arange(len(of)),
        "user_id": user[of],
        "item_ids": pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(flat, pa.int32())),
        "target_id": pa.array(target, pa.int32(), mask=split == "train"),
        "split": pa.array(split.tolist(), pa.string()),
    }


def _about_items(file: Path) -> Source:
    names = parquet.columns(file)
    optional = [name for name in (*_TEXTS, "attribute_ids", "letter_semantic_id") if name in names]
    if not set(_TEXTS) & set(optional):
        raise InputError(f"{file}: column {_TEXTS[0]} is missing, and {_TEXTS[1]} too; give one of them")
    schema = COLUMNS[ABOUT_ITEMS]
    source = parquet.read(file, pa.schema([schema.field(name) for name in ("item_id", *optional)]))
    parquet.refuse_negative(source, *(name for name in source.table.column_names if name not in _TEXTS))
    parquet.refuse_repeats(source, "item_id")
    return source


def _codes(path: Path, about: Source | None) -> tuple[Source | None, str]:
    inside, name = about is not None and "letter_semantic_id" in about.table.column_names, "letter_semantic_id"
    codes = about if inside else None
    if (path / CODES).exists():
        if inside:
            raise InputError(f"{path / CODES}: lies beside {ABOUT_ITEMS}, which has semantic ids, too; remove one of them")
        name, codes = "codes", parquet.read(path / CODES, COLUMNS[CODES])
        parquet.refuse_negative(codes, *COLUMNS[CODES].names)
        parquet.refuse_repeats(codes, "item_id")
    if codes is not None:
        levels = pc.list_value_length(codes[name]).to_numpy()
        if (bad := (levels != levels[0]) | (levels == 0)).any():
            codes.fail(name, bad, f"not as many codes as the first row's {levels[0]}" if levels[0] else "no codes")
    return codes, name


def _features(about: Source | None) -> pa.Table | None:
    if about is None:
        return None
    columns = {"item": about["item_id"], "title": about[next(n for n in _TEXTS if n in about.table.column_names)]}
    if "attribute_ids" in about.table.column_names:
        columns["attribute_ids"] = about["attribute_ids"]
    return pa.table(columns)


def _range(ids: pa.Array) -> dict[str, int]:
    return {"from": ids[0].as_py(), "to": ids[-1].as_py(), "known": len(ids)}


ADAPTER = Adapter(
    name="amazon_sequences",
    title="Amazon reviews as sequences: Beauty, Games, Musical Instruments",
    source="https://github.com/RUCAIBox/CIKM2020-S3Rec, https://github.com/RUCAIBox/LLMRank, "
    "https://github.com/HonghuiBao2000/LETTER",
    licence="none stated (Amazon reviews)",
    gives=(
        "what each user reviewed, in order, split by leaving the last two out",
        "titles, or short texts drawn from product data, and attributes where the folder has them",
        "semantic ids where the folder has them",
    ),
    cannot_give=(
        "times: no log tables and nothing for ES3",
        "impressions, lists, searches; what was bought, clicked or put into a cart: a review is all there is",
        "categories, brands and prices",
    ),
    columns=COLUMNS,
    read=read,
)
