"""What an adapter of a public log is: it reads a folder the user supplies and says what the log gives and what it cannot.

An adapter is a module of this package with one `ADAPTER`. Its `read` returns whole tables with declared schemas: the log tables
of `unisc.data.schema` where the source has them, else interactions, sequences or ranked lists. What the source did not record
stays absent and is named in `cannot_give`; nothing is invented in its place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unisc.data import manifest
from unisc.data.schema import LOG_TABLES, TableSchema
from unisc.errors import InputError
from unisc.files import new_directory, refuse_existing

INTERACTIONS = TableSchema(
    name="interactions",
    columns=pa.schema([("user_id", pa.int32()), ("item_id", pa.int32()), ("split", pa.string())]),
)
"""User-item pairs without time, in the benchmark's own split."""

SEQUENCES = TableSchema(
    name="sequences",
    columns=pa.schema(
        [
            ("sequence_id", pa.int64()),
            ("user_id", pa.int32()),
            ("item_ids", pa.list_(pa.int32())),
            ("target_id", pa.int32()),
            ("split", pa.string()),
        ]
    ),
    nullable=frozenset({"user_id", "target_id"}),
    key=("sequence_id",),
)
"""Items in the order a user or session met them, without time; `target_id`, the item to predict, is null in training rows."""

RANKED_LISTS = TableSchema(
    name="ranked_lists",
    columns=pa.schema(
        [
            ("list_id", pa.int64()),
            ("user_id", pa.int32()),
            ("query_id", pa.int32()),
            ("item_ids", pa.list_(pa.int32())),
            ("labels", pa.list_(pa.int8())),
            ("history_item_ids", pa.list_(pa.int32())),
            ("history_kinds", pa.list_(pa.int8())),
            ("history_query_ids", pa.list_(pa.int32())),
            ("history_ages", pa.list_(pa.int64())),
            ("split", pa.string()),
        ]
    ),
    key=("list_id",),
)
"""A list shown for a query and the user's events before it, where only the time between them is known.

`labels` are 0 or 1 + the place in KINDS of the strongest action. Histories come most recent first: `history_kinds` are places
in KINDS, `history_query_ids` -1 where there was no query, `history_ages` seconds before the list.
"""

SEMANTIC_IDS = TableSchema(
    name="semantic_ids",
    columns=pa.schema([("item_id", pa.int32()), ("codes", pa.list_(pa.int32()))]),
    key=("item_id",),
)
"""An item as a path of codes, coarse to fine, as many in every row and each from 0 in its own level; items may share one."""

TABLES = {**LOG_TABLES, **{t.name: t for t in (INTERACTIONS, SEQUENCES, RANKED_LISTS, SEMANTIC_IDS)}}
KINDS_OF_DIRECTORY = ("logs", "events", "lists", "sequences")
"""`logs`: all six log tables, what ES3 needs. `events`: items, users and events, no lists. `lists`: labelled lists with
histories, no absolute times. `sequences`: neither times nor lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """The tables of one source, with what must be known of them.

    `tables` holds only tables the source supports, each with its declared schema less the optional columns it lacks. `domains`
    (the target first) and `test_start` (unix seconds) are None where the tables have no domain or no time. `quality` is what
    the reader left out or had to assume, in counts and sentences; `config` what they were made of and with, where a caller
    compares it (it is part of the fingerprint).
    """

    tables: Mapping[str, pa.Table]
    domains: tuple[str, ...] | None = None
    test_start: int | None = None
    end_ts: int | None = None
    quality: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Which of KINDS_OF_DIRECTORY these tables make."""
        if self.tables.keys() >= LOG_TABLES.keys():
            return "logs"
        if RANKED_LISTS.name in self.tables:
            return "lists"
        return "events" if "events" in self.tables else "sequences"


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """One public source.

    `columns` are the columns read, with the Arrow type they must convert to, by the file expected in the user's folder
    (patterns allowed). `read` takes the folder and raises InputError for a missing file or column, a value that does not
    convert, or an id that refers to nothing where the source promises it.
    """

    name: str
    title: str
    source: str
    licence: str
    gives: tuple[str, ...]
    cannot_give: tuple[str, ...]
    columns: Mapping[str, pa.Schema]
    read: Callable[[Path], Converted]


def convert(adapter: Adapter, path: Path, out: Path) -> dict[str, Any]:
    """Write a source's tables as `<table>/part-00000.parquet` with a manifest into a new directory; return the manifest.

    Raises:
      InputError: as the adapter's `read`; an output folder that holds something or cannot be written.
    """
    refuse_existing(out)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the folder that holds {', '.join(adapter.columns)}")
    converted = adapter.read(path)
    with new_directory(out) as aside:
        for name, table in converted.tables.items():
            declared = TABLES[name].columns
            schema = pa.schema([f for f in declared if f.name in table.column_names])
            (aside / name).mkdir()
            pq.write_table(table.select(schema.names).cast(schema), aside / name / "part-00000.parquet", compression="zstd")
        extra = {"domains": list(converted.domains) if converted.domains else None, "test_start": converted.test_start}
        return manifest.write(
            aside,
            kind=converted.kind,
            config={"source": adapter.name, **converted.config},
            counts={name: len(table) for name, table in converted.tables.items()},
            end_ts=converted.end_ts,
            title=adapter.title,
            homepage=adapter.source,
            licence=adapter.licence,
            gives=list(adapter.gives),
            cannot_give=list(adapter.cannot_give),
            quality=dict(converted.quality),
            **extra,
        )
