"""What a trained KARMA thinks of each candidate, as a further number of samples, for a ranker to read.

A row's interest is read off its query and its earlier clicks; the number is the interest's inner product with the candidate's
vector, brought to mean 0 and variance 1 over the train rows. Rows of train that KARMA may have learned from are left out: on
them the number would know the label.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from unisc.data import manifest
from unisc.data.columns import SPLITS, Split, numbers_of, read_chunks
from unisc.data.interest_batches import Lengths
from unisc.data.interests import KIND, Examples, Interests, load
from unisc.data.ragged import Ragged
from unisc.data.schema import KINDS, NUMBER
from unisc.data.text import check_vocab, load_tokenizer
from unisc.errors import InputError
from unisc.files import new_directory
from unisc.models.karma import Karma
from unisc.models.served import load_karma
from unisc.train.interests import encode_catalogue, encode_interests

TABLES = ("items", "users", "queries")


def train_end(interests: Path) -> int:
    """Return the second from which on nothing was trained on. Raises InputError for interests of data without times."""
    end = manifest.read(interests, kind=KIND).get("quality", {}).get("train ends")
    if not isinstance(end, int):
        raise InputError(f"{interests}: says not when its train part ends; make interests of logs, anew if these are old")
    return end


def add_interests(
    samples: Path, out: Path, *, scorers: Mapping[str, Path], interests: Path, history_len: int = 20
) -> dict[str, Any]:
    """Write samples again with a number of each scorer, `number_<name>`, and train rows from `train_end` on alone.

    `scorers` are folders that `save_karma` wrote, trained on these `interests`; with none of them the rows are chosen and
    nothing is added, for a comparison. Returns the new manifest.

    Raises:
      InputError: samples of another shop than the interests, a scorer of another catalogue, numbers that are there already, no
        row left to train on, an output folder that holds something.
    """
    about, data = manifest.read(samples, kind="samples"), load(interests)
    logs = manifest.read(interests, kind=KIND)["config"].get("made_from", {}).get("fingerprint")
    if logs is None or logs != about.get("logs"):
        raise InputError(f"{interests}: of logs {logs}, but {samples} of {about.get('logs')}; give those of one shop")
    names = {name: NUMBER + name for name in scorers}
    if taken := set(names.values()) & set(numbers_of(samples)):
        raise InputError(f"{samples}: has {', '.join(sorted(taken))} already; give other names")
    since, reader = train_end(interests), _Reader(samples, data, history_len)
    models = {name: _load(folder, data) for name, folder in scorers.items()}
    rows = {split: _rows(samples / split, since if split == "train" else 0) for split in SPLITS}
    if not len(rows["train"]):
        raise InputError(f"{samples}: no row of train is from after the interests' train part; give a larger validation_share")
    numbers: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
    for name, (model, features) in models.items():
        items = encode_catalogue(model, features)
        found = {split: reader.scores(model, features, items, table) for split, table in rows.items()}
        mean, spread = found["train"].mean(), max(float(found["train"].std()), 1e-6)
        for split, scores in found.items():
            numbers[split][names[name]] = ((scores - mean) / spread).astype(np.float32)
    with new_directory(out) as aside:
        for table in TABLES:
            shutil.copytree(samples / table, aside / table)
        for split, table in rows.items():
            (aside / split).mkdir()
            pq.write_table(_with(table, numbers[split]), aside / split / "part-00000.parquet")
        config = {
            **about["config"],
            "samples": about["fingerprint"],
            "train_from": since,
            "numbers": sorted(names.values()),
            "interests": data.fingerprint,
        }
        return manifest.write(
            aside,
            kind="samples",
            config=config,
            counts=_counts(rows),
            composition=about["composition"],
            domains=about["domains"],
            logs=logs,
            test_start=about["test_start"],
        )


def _load(folder: Path, data: Interests) -> tuple[Karma, Float32[np.ndarray, "I F"]]:
    model, features = load_karma(folder)
    if len(features) != data.catalogue.num_items:
        count = data.catalogue.num_items
        raise InputError(f"{folder}: of {len(features)} items, {data.path} has {count}; give the interests it learned from")
    check_vocab(load_tokenizer(data.tokenizer), model.config.decoder.vocab_size)
    return model, features


def _rows(folder: Path, since: int) -> pa.Table:
    table = pa.Table.from_batches(list(read_chunks(folder)))
    return table.filter(pc.greater_equal(table["ts"], since)).combine_chunks()


def _with(table: pa.Table, numbers: Mapping[str, np.ndarray]) -> pa.Table:
    offsets = pa.array(np.concatenate([[0], np.cumsum(_lengths(table))]).astype(np.int32))
    for name, values in sorted(numbers.items()):
        table = table.append_column(name, pa.ListArray.from_arrays(offsets, pa.array(values, pa.float32())))
    return table


def _lengths(table: pa.Table) -> Int64[np.ndarray, " n"]:
    return pc.list_value_length(table["item_id"]).to_numpy().astype(np.int64)


def _counts(rows: Mapping[Split, pa.Table]) -> dict[str, int]:
    found = {}
    for split, table in rows.items():
        found |= {f"{split}_requests": len(table), f"{split}_samples": int(_lengths(table).sum())}
        found |= {f"{split}_{task}s": pc.sum(pc.list_flatten(table[task])).as_py() for task in ("click", "purchase")}
    return found


class _Reader:
    """Reads rows of samples as contexts: their query's tokens, and their clicks, oldest first."""

    def __init__(self, samples: Path, data: Interests, history_len: int):
        queries = pa.concat_tables(
            [pq.read_table(f, columns=["query_id", "text"]) for f in sorted((samples / "queries").glob("*"))]
        )
        texts = [""] * (1 + (pc.max(queries["query_id"]).as_py() if len(queries) else -1)) + [""]  # the last means no query
        for query, text in zip(queries["query_id"].to_pylist(), queries["text"].to_pylist(), strict=True):
            texts[query] = (text or "").strip()
        self.queries, self.data = load_tokenizer(data.tokenizer).encode(texts), data
        self.lengths = Lengths(query=int(self.queries.lengths.max()), history=history_len, shown=0, answer=0)

    def scores(
        self, model: Karma, features: Float32[np.ndarray, "I F"], items: Float32[np.ndarray, "I E"], table: pa.Table
    ) -> Float32[np.ndarray, " N"]:
        """Return the inner product of each row's interest with each of its candidates, end to end."""
        interests = encode_interests(model, self.data, self.examples(table), features, self.lengths)
        candidate = pc.list_flatten(table["item_id"]).to_numpy()
        return np.einsum("ne,ne->n", np.repeat(interests, _lengths(table), axis=0), items[candidate])

    def examples(self, table: pa.Table) -> Examples:
        """Return the rows as examples of item 0, which nothing reads."""
        num = len(table)
        query = pc.fill_null(table["query_id"], -1).to_numpy() % self.queries.num_rows
        item, kind = (pc.list_flatten(table[f"history_{name}"]).to_numpy() for name in ("item_id", "kind"))
        row = np.repeat(np.arange(num), pc.list_value_length(table["history_item_id"]).to_numpy())
        clicked = np.flatnonzero(kind == KINDS.index("click"))
        order = clicked[np.lexsort((-clicked, row[clicked]))]  # samples begin with the most recent, interests with the oldest
        none = np.zeros(num, np.int64)
        return Examples(
            user=table["user_id"].to_numpy().astype(np.int32),
            query=self.queries.take(query),
            history=Ragged.laid(item[order].astype(np.int32), np.bincount(row[clicked], minlength=num)),
            targets=Ragged.laid(np.zeros(num, np.int32), none + 1),
            shown=Ragged.laid(np.zeros(0, np.int32), none),
        )
