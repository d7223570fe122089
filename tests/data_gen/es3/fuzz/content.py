"""Ways to spoil what tables hold and how they spell it: any number of them may meet. `oracle` says what must come of it."""

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from unisc.data.schema import KINDS

from .draft import DAY, DOMAINS, NUM_USERS, TABLES, Draft

INTS = (-1, -(2**7), 2**15 - 1, -(2**15), 2**31 - 1, -(2**31), 2**40 - 1, 2**40, 1_700_000_000_000, 2**51 - 1, 2**51, 2**63 - 1)
INTS = (*INTS, -(2**63), 0, 999)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, -0.0, 0.0, 1e-42, 3.4e38, 1.5, 1.0)
WORDS = (
    "",
    "\x00",
    "a\nb\r\tc",
    "日本語 タイトル",
    "e\u0301",
    "\u202eabc",
    "🛒" * 9,
    "'; drop table x; --",
    "{}%s\\",
    "x" * 9000,
)
WORDS = (*WORDS, "\u2028", "\x1b[31m", " \u00a0 ", "İstanbul ß ﬁ", "\uffff", "\ufeff", "NULL", '"quoted"', "|", "$$ :a ?")


def _edit(d: Draft, name: str, column: str, change: Callable[[list], list | None]) -> None:
    i = random.Random(len(d.done)).randrange(len(d.parts[name]))
    part = d.parts[name][i]
    if column in part.column_names and len(part):
        values = part[column].to_pylist()
        change(values)
        place, dtype = part.column_names.index(column), part.schema.field(column).type
        d.parts[name][i] = part.set_column(place, pa.field(column, dtype), pa.array(values, dtype))


def _put(values: list, rng: random.Random, choices: Sequence[Any]) -> None:
    for _ in range(rng.choice([1, 1, 2, 5])):
        values[rng.randrange(len(values))] = rng.choice(choices)


def cells(rng: random.Random, d: Draft, name: str) -> None:
    """Nulls, NaN, infinities, extremes of the type, ids of nothing, words of any script."""
    column = rng.choice(TABLES[name].columns)
    if name in ("items", "users", "queries") and column.name == TABLES[name].key[0] and rng.random() < 0.7:
        column = TABLES[name].columns[1]
    if pa.types.is_integer(column.type):
        limit = 2 ** (column.type.bit_width - 1)
        choices: list[Any] = [v for v in INTS if -limit <= v < limit]
    elif pa.types.is_floating(column.type):
        choices = list(FLOATS)
    elif pa.types.is_string(column.type):
        choices = list({"domain": DOMAINS, "kind": KINDS}.get(column.name, WORDS)) if rng.random() < 0.9 else list(WORDS)
    elif pa.types.is_boolean(column.type):
        choices = [True, False]
    else:
        choices = [[], [1] * 300, [2**31 - 1], [3, 3]]
    _edit(d, name, column.name, lambda values: _put(values, rng, [*choices, None]))


def lists(rng: random.Random, d: Draft, name: str) -> None:
    """Attribute ids that are none."""
    if name not in ("items", "queries"):
        cells(rng, d, name)
        return
    _edit(d, name, "attribute_ids", lambda values: _put(values, rng, [[1, None], [-1], [None, -5, 2]]))


def clocks(rng: random.Random, d: Draft, name: str) -> None:
    """A clock that is off, for the rows of one user or all of them."""
    if name not in ("requests", "events"):
        cells(rng, d, name)
        return
    skew = rng.choice([-1, 1, -3600, 3600, DAY, -DAY])
    users = {rng.randrange(NUM_USERS)} if rng.random() < 0.7 else set(range(NUM_USERS))
    for i, part in enumerate(d.parts[name]):
        if {"ts", "user_id"} <= set(part.column_names):
            ts = [
                t + skew if t is not None and u in users and abs(t) < 2**62 else t
                for t, u in zip(part["ts"].to_pylist(), part["user_id"].to_pylist(), strict=True)
            ]
            d.parts[name][i] = part.set_column(part.column_names.index("ts"), "ts", pa.array(ts, pa.int64()))


def order(rng: random.Random, d: Draft, name: str) -> None:
    """Rows in any order."""
    for i, part in enumerate(d.parts[name]):
        d.parts[name][i] = part.take(pa.array(rng.sample(range(len(part)), len(part)), pa.int64()))


def repeats(rng: random.Random, d: Draft, name: str) -> None:
    """Rows said again, alike or with one cell changed; in the same part or another."""
    part = rng.choice(d.parts[name])
    if len(part):
        again = part.take(pa.array([rng.randrange(len(part)) for _ in range(rng.choice([1, 2, 6]))]))
        d.parts[name].append(again)
        d.names[name].append(f"part-{len(d.names[name]):05d}.parquet")
        if rng.random() < 0.5:
            column = rng.choice(again.column_names[1:])
            values = again[column].to_pylist()
            others = part[column].to_pylist()
            new = pa.array([rng.choice(others) for _ in values], part.schema.field(column).type)
            d.parts[name][-1] = again.set_column(again.column_names.index(column), column, new)


def split(rng: random.Random, d: Draft, name: str) -> None:
    """More parts, empty ones among them."""
    parts: list[pa.Table] = []
    for part in d.parts[name]:
        edges = sorted([0, len(part), *(rng.randrange(len(part) + 1) for _ in range(rng.choice([1, 3])))])
        parts += [part.slice(low, high - low) for low, high in itertools.pairwise(edges)]
    parts.insert(rng.randrange(len(parts) + 1), parts[0].slice(0, 0))
    d.parts[name], d.names[name] = parts, [f"part-{i:05d}.parquet" for i in range(len(parts))]


def without_optional(rng: random.Random, d: Draft, name: str) -> None:
    """A column that may be absent is."""
    gone = rng.choice(sorted(TABLES[name].optional) or [""])
    d.parts[name] = [part.drop_columns([c for c in part.column_names if c == gone]) for part in d.parts[name]]


def spelling(rng: random.Random, d: Draft, name: str) -> None:
    """The same values under another type or order of columns, for the whole table or one of its parts."""
    if rng.random() < 0.5:
        split(rng, d, name)
    for i in rng.choice([range(len(d.parts[name])), [0]]):
        part = d.parts[name][i]
        names = rng.sample(part.column_names, len(part.column_names))
        columns, fields = [], []
        for n in names:
            dtype = part.schema.field(n).type
            if pa.types.is_string(dtype) and rng.random() < 0.6:
                dtype = rng.choice([pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
            elif pa.types.is_list(dtype) and rng.random() < 0.6:
                dtype = pa.large_list(pa.int32())
            column = part[n].cast(dtype)
            columns.append(column)
            fields.append(pa.field(n, dtype, nullable=bool(column.null_count) or rng.random() < 0.7))
        d.parts[name][i] = pa.table(columns, schema=pa.schema(fields))


def numbers_as_dictionaries(rng: random.Random, d: Draft, name: str) -> None:
    """A column of numbers stored as a dictionary."""
    schema = TABLES[name]
    some = [f.name for f in schema.columns if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    column = rng.choice(some)
    for i, part in enumerate(d.parts[name]):
        if column in part.column_names and not pa.types.is_dictionary(part.schema.field(column).type):
            coded = part[column].combine_chunks().dictionary_encode()
            d.parts[name][i] = part.set_column(part.column_names.index(column), column, coded)


def storage(rng: random.Random, d: Draft, name: str) -> None:
    """Other ways to write Parquet."""
    d.options[name] = {
        "compression": rng.choice(["none", "gzip", "zstd", "lz4", "snappy"]),
        "row_group_size": rng.choice([1, 3, 1000]),
        "use_dictionary": rng.random() < 0.5,
        "data_page_version": rng.choice(["1.0", "2.0"]),
        "write_statistics": rng.random() < 0.5,
        "store_schema": rng.random() < 0.5,
    }


def file_names(rng: random.Random, d: Draft, name: str) -> None:
    """Names that a pattern, a shell or a partition scheme would misread; other files beside."""
    odd = [
        "part-[0].parquet",
        "part-a b.parquet",
        "part-é%20.parquet",
        "part-user_id=3.parquet",
        "part-'x'.parquet",
        "part-*.parquet",
    ]
    for i, file in enumerate(rng.sample(odd, min(len(odd), len(d.names[name])))):
        d.names[name][i] = file
    d.spoil.append(lambda root: _write(root / name / "_SUCCESS", b""))
    d.spoil.append(lambda root: _write(root / name / ".part-00000.parquet.crc", b"\x00\xff"))


def linked(rng: random.Random, d: Draft, name: str) -> None:
    """Parts that are symbolic links to files elsewhere, or a table that is a link to a folder."""

    def link(root: Path) -> None:
        elsewhere = root.parent / f"{root.name}-{name}"
        if not (root / name).is_symlink() and (root / name).is_dir():
            (root / name).rename(elsewhere)
            (root / name).symlink_to(elsewhere)

    d.spoil.append(link)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


CONTENT = {
    cells: 14, lists: 1, clocks: 3, order: 2, repeats: 4, split: 2, without_optional: 2, spelling: 3,
    numbers_as_dictionaries: 1, storage: 1, file_names: 1, linked: 1,
}  # fmt: skip
"""Mutations that may meet, by weight."""


def spoil_content(rng: random.Random, d: Draft, names: Sequence[str]) -> None:
    """Mutate each of some tables once or twice."""
    for name in names:
        for mutation in rng.choices(list(CONTENT), list(CONTENT.values()), k=rng.choice([1, 1, 2])):
            mutation(rng, d, name)
            d.done.append(f"{mutation.__name__} {name}")
