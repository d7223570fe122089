"""Ways to make logs unusable: by how tables are declared, by what lies on disk, by what the manifest says.

Each says which error is wanted, as a pattern for its message: it must name the file, and the column where there is one.
"""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unisc.data import manifest
from unisc.data.schema import LOG_TABLES

from .content import split, storage
from .draft import Draft


def _at(name: str, *words: str) -> str:
    return rf"[^:]*/{name}(/[^:]*)?: .*" + ".*".join(words)


def missing_table(rng: random.Random, d: Draft, name: str) -> None:
    del d.parts[name]
    d.refusals.append(_at(name, "missing"))


def missing_column(rng: random.Random, d: Draft, name: str) -> None:
    column = rng.choice([c for c in LOG_TABLES[name].columns.names if c not in LOG_TABLES[name].optional])
    d.parts[name] = [part.drop_columns([column]) for part in d.parts[name]]
    d.refusals.append(_at(name, f"column {column} is missing"))


def renamed_column(rng: random.Random, d: Draft, name: str) -> None:
    column = rng.choice([c for c in LOG_TABLES[name].columns.names if c not in LOG_TABLES[name].optional])
    new = rng.choice([column.upper(), f" {column}", f"{column}_", "", "日本", f"{column}\x00"])
    d.parts[name] = [part.rename_columns([new if c == column else c for c in part.column_names]) for part in d.parts[name]]
    d.refusals.append(_at(name, f"column ({column} is missing|.* is not one of)"))


def extra_column(rng: random.Random, d: Draft, name: str) -> None:
    new = rng.choice(["colour", "bucket", "reason", "Ts", "é", LOG_TABLES[name].columns.names[0]])
    values = rng.choice([pa.scalar(1), pa.scalar("x"), pa.scalar({"a": [1]}), pa.scalar(None, pa.null())])
    d.parts[name] = [part.append_column(new, pa.repeat(values, len(part))) for part in d.parts[name]]
    d.refusals.append(_at(name, f"column {new} is "))


def wrong_type(rng: random.Random, d: Draft, name: str) -> None:
    column = rng.choice(LOG_TABLES[name].columns)
    others = [pa.int64(), pa.int32(), pa.int8(), pa.uint32(), pa.float64(), pa.float32(), pa.string(), pa.binary(), pa.bool_()]
    others += [pa.timestamp("us"), pa.date32(), pa.decimal128(20, 2), pa.list_(pa.int64()), pa.struct([("a", pa.int32())])]
    dtype = rng.choice([t for t in others if t != column.type])
    some = rng.choice([range(len(d.parts[name])), [len(d.parts[name]) - 1]])
    for i in some:
        part = d.parts[name][i]
        d.parts[name][i] = part.set_column(part.column_names.index(column.name), column.name, pa.nulls(len(part), dtype))
    d.refusals.append(_at(name, f"column {column.name} is ", "not"))


def no_rows(rng: random.Random, d: Draft, name: str) -> None:
    name = rng.choice([n for n in LOG_TABLES if n != "queries"])
    d.parts[name] = [part.slice(0, 0) for part in d.parts[name]]
    d.refusals.append(_at(name, "empty"))


def broken_file(rng: random.Random, d: Draft, name: str) -> None:
    """A file cut short, emptied, overwritten, or with a footer of noise, under a manifest that was made of it or before it."""
    how = rng.choice(["cut", "zero", "text", "footer", "tail", "head", "length"])

    def spoil(root: Path) -> None:
        file = sorted((root / name).glob("part-*"))[-1]
        body = file.read_bytes()
        footer = int.from_bytes(body[-8:-4], "little")
        noise = rng.randbytes(min(64, footer))
        changed = {
            "cut": body[: rng.randrange(len(body))],
            "zero": b"",
            "text": b"user_id,item_id\n1,2\n",
            "footer": body[: -8 - footer] + noise + body[-8 - footer + len(noise) :],
            "tail": body[:-4] + b"PAR2",
            "head": b"XXXX" + body[4:],
            "length": body[:-8] + (2**31 - 1).to_bytes(4, "little") + body[-4:],
        }
        file.write_bytes(changed[how])

    if how == "head" or rng.random() < 0.5:
        d.unfit.append(spoil)
        d.refusals.append(_at(name, "does not match"))
    else:
        d.spoil.append(spoil)
        d.refusals.append(_at(name, "(not a readable Parquet file|cannot be read)"))


def flipped(rng: random.Random, d: Draft, name: str) -> None:
    """Some bytes of the data changed after the manifest was made."""

    def spoil(root: Path) -> None:
        file = sorted((root / name).glob("part-*"))[-1]
        body = bytearray(file.read_bytes())
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(body))

    d.unfit.append(spoil)
    d.refusals.append(_at(name, "does not match"))


def no_text(rng: random.Random, d: Draft, name: str) -> None:
    """Bytes that are no UTF-8 in a column of text."""
    name, column = rng.choice([("items", "title"), ("queries", "text"), ("requests", "domain"), ("events", "kind")])
    part = d.parts[name][0]
    values = [v.encode() for v in part[column].to_pylist()]
    values[rng.randrange(len(values))] = b"\xff\xfe\xc3"
    d.parts[name][0] = part.set_column(part.column_names.index(column), column, pa.array(values).view(pa.string()))
    d.refusals.append(_at(name, f"(column {column}|UTF)"))


def garbled(rng: random.Random, d: Draft, name: str) -> None:
    """Pages overwritten before the manifest was made: whatever the bytes then say, or an error that names the file."""
    storage(rng, d, name)

    def spoil(root: Path) -> None:
        file = sorted((root / name).glob("part-*"))[-1]
        body = bytearray(file.read_bytes())
        start, length = 4 + rng.randrange(60), rng.choice([1, 8, 200])
        body[start : start + length] = rng.randbytes(length)
        file.write_bytes(bytes(body[: len(file.read_bytes())]))

    d.spoil.append(spoil)
    d.may_pass = True
    d.refusals.append(_at(name, ""))


def unlisted(rng: random.Random, d: Draft, name: str) -> None:
    """A part that came after the manifest."""
    part = d.parts[name][0].slice(0, 1)
    d.unfit.append(lambda root: pq.write_table(part, root / name / "part-00007.parquet"))
    d.refusals.append(_at(name, "not named by the manifest"))


def not_a_file(rng: random.Random, d: Draft, name: str) -> None:
    """A folder where a part should be, a file where a table should be, a link to nothing or to itself."""
    how = rng.choice(["folder", "file", "dangling", "loop"])

    def spoil(root: Path) -> None:
        file = sorted((root / name).glob("part-*"))[-1]
        file.unlink()
        if how == "folder":
            file.mkdir()
        elif how == "file":
            for other in (root / name).iterdir():
                other.unlink()
            (root / name).rmdir()
            (root / name).write_bytes(b"")
        else:
            file.symlink_to("nowhere" if how == "dangling" else file.name)

    (d.spoil if rng.random() < 0.5 else d.unfit).append(spoil)
    d.refusals.append(_at(name, "(missing|not a readable|does not match|not named)"))


def unlike_parts(rng: random.Random, d: Draft, name: str) -> None:
    """An optional column that one part has and another has not."""
    name = rng.choice([n for n in LOG_TABLES if LOG_TABLES[n].optional])
    split(rng, d, name)
    d.parts[name][-1] = d.parts[name][-1].drop_columns([rng.choice(sorted(LOG_TABLES[name].optional))])
    d.refusals.append(_at(name, "has other columns"))


def bad_manifest(rng: random.Random, d: Draft, name: str) -> None:
    """A manifest that is not one, says what cannot be, or does not name the files as they are."""
    shard = f"{name}/{d.names[name][0]}"
    true = {"sha256": "0" * 64, "bytes": 1}
    choices: list[tuple[dict[str, Any], str]] = [
        ({"domains": value}, "domains") for value in (None, [], "search", [1], ["a"] * 200, {}, [["search"]], KeyError)
    ]
    choices += [({"test_start": v}, "test_start") for v in (None, "now", -1, 2**40, 2**70, 1.5, [], KeyError, float("nan"))]
    choices += [({"kind": v}, "holds|not a readable manifest") for v in ("samples", None, 7, [], KeyError)]
    choices += [({"schema_version": v}, "schema version|not a readable") for v in (0, 99, "2", None, KeyError)]
    choices += [({"shards": v}, "not a readable manifest") for v in (None, [], 3, KeyError, {shard: None}, {shard: {}})]
    choices += [({"shards": {shard: {**true, **v}}}, "match|manifest") for v in ({}, {"bytes": "x"}, {"bytes": float("inf")})]
    choices += [({"shards": {n: true}}, "missing|match") for n in ("gone.parquet", "../../up", "", "a\x00b", "x" * 300, name)]
    choices += [({"fingerprint": KeyError}, "not a readable manifest")]
    texts = [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"kind": "logs"}']
    if rng.random() < 0.2:
        text = rng.choice(texts)
        d.unfit.append(lambda root: (root / manifest.NAME).write_bytes(text))
        d.refusals.append(r"[^:]*manifest\.json: ")
    else:
        about, words = rng.choice(choices)
        d.about |= about
        d.done.append(str(about))
        d.refusals.append(rf"[^:]*: .*({words})")


STRUCTURE = (
    missing_table, missing_column, renamed_column, extra_column, wrong_type, no_rows, no_text, broken_file, broken_file,
    flipped, garbled, garbled, unlisted, not_a_file, unlike_parts, bad_manifest, bad_manifest,
)  # fmt: skip
"""Mutations each of which makes the logs unusable."""


def spoil_structure(rng: random.Random, d: Draft) -> None:
    """Make one table or the manifest unusable."""
    mutation, name = rng.choice(STRUCTURE), rng.choice(list(LOG_TABLES))
    mutation(rng, d, name)
    d.done.append(f"{mutation.__name__} {name}")
