"""Log tables in: schemas and values checked, rows that cannot be used set aside with their reason, the rest split by user.

Catalogue tables (items, users, queries) must be whole. In the tables that record what happened (requests, candidates, events)
a row that breaks its schema, repeats another or refers to nothing is set aside; if more than `max_quarantine` of a table breaks
its schema or repeats, the table itself is wrong and the build stops with one line.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.es3.catalogue import TS_LIMIT, check_columns, count_rows, part_files, read_catalogue
from data_gen.es3.checks import QUARANTINE, Check
from data_gen.es3.hashing import with_hash
from data_gen.es3.session import Session, one_line, parquet_files
from unisc.data import manifest
from unisc.data.schema import (
    CANDIDATES,
    CAUSES,
    EVENTS,
    ITEMS,
    KINDS,
    LOG_TABLES,
    ORACLE,
    QUERIES,
    REQUESTS,
    USERS,
    TableSchema,
)
from unisc.errors import InputError

_NAME = "intake.json"
_FACTS = (REQUESTS, CANDIDATES, EVENTS)
_TRUTH = (ORACLE, CAUSES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Logs:
    """Checked log tables of some users: every declared column present (null where the logs lack it), every reference resolved.

    `domain` and `kind` are integer codes: places in `domains` and in KINDS. `requests` has `test`, true in the test split.
    `oracle` and `causes` hold the truth where the logs have it, for the quality report alone. `absent` names optional item
    columns that the logs do not have.
    """

    directory: Path
    fingerprint: str
    domains: tuple[str, ...]
    test_start: int
    items: ir.Table
    queries: ir.Table
    requests: ir.Table
    candidates: ir.Table
    events: ir.Table
    oracle: ir.Table | None
    causes: ir.Table | None
    absent: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What is known of logs before their rows are read: names of domains (target first), split, identity, sizes."""

    directory: Path
    fingerprint: str
    domains: tuple[str, ...]
    test_start: int
    num_candidates: int


def read_header(directory: Path) -> Header:
    """Read the manifest of a directory of logs and check that every shard it names is as it says.

    Raises:
      InputError: no manifest, a shard that does not match it, no usable domains or test_start, a table that is missing.
    """
    if not (directory / manifest.NAME).is_file() and (directory / CANDIDATES.name).is_dir():
        raise InputError(
            f"{directory}: log tables without a {manifest.NAME}; write one with `python -m data_gen.es3 describe-logs "
            f"{directory} --domains search,... --test-start TIME`"
        )
    about = manifest.read(directory, kind="logs", verify=True)
    domains, test_start = _split(directory, about)
    for schema in LOG_TABLES.values():
        part_files(directory, schema)
    return Header(
        directory=directory,
        fingerprint=about["fingerprint"],
        domains=domains,
        test_start=test_start,
        num_candidates=_num_rows(directory, CANDIDATES),
    )


def describe_logs(directory: Path, domains: tuple[str, ...], test_start: int) -> dict[str, Any]:
    """Write the manifest of log tables that another program made; return it.

    Raises:
      InputError: a table missing or of another schema, domains or a split that cannot be, or a manifest that is there already.
    """
    if (directory / manifest.NAME).exists():
        raise InputError(f"{directory / manifest.NAME}: already exists; remove it to describe the logs anew")
    _split(directory, {"domains": list(domains) if all(domains) else None, "test_start": test_start})
    counts = {schema.name: _num_rows(directory, schema) for schema in LOG_TABLES.values()}
    return manifest.write(
        directory, kind="logs", config={}, counts=counts, domains=list(domains), test_start=test_start, end_ts=None
    )


def _num_rows(directory: Path, schema: TableSchema) -> int:
    files = part_files(directory, schema)
    check_columns(files, schema)
    return count_rows(files)


def _split(directory: Path, about: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    domains, test_start = about.get("domains"), about.get("test_start")
    path = directory / manifest.NAME
    if not isinstance(domains, list) or not domains or not all(isinstance(d, str) for d in domains) or len(domains) > 127:
        raise InputError(f"{path}: domains is {domains!r}; give a list of names, the target domain first")
    if not isinstance(test_start, int) or not 0 <= test_start < TS_LIMIT:
        raise InputError(f"{path}: test_start is {test_start!r}; give unix seconds")
    return tuple(domains), test_start


def intake(session: Session, header: Header, out: Path, *, buckets: int, max_quarantine: float) -> None:
    """Take the tables in, and name the file where an engine gives up on one.

    Raises:
      InputError: see `_take_in`.
    """
    try:
        _take_in(session, header, out, buckets=buckets, max_quarantine=max_quarantine)
    except InputError:
        raise
    except Exception:
        _try_files(session, header.directory)
        raise


def _try_files(session: Session, directory: Path) -> None:
    """Read every value of the files that the engine reads. Raises InputError at the first column that it cannot."""
    for schema in (*_FACTS, *_TRUTH):
        for file in sorted((directory / schema.name).glob("part-*.parquet")):
            for name in pq.read_schema(file).names:
                try:
                    table = session.read([file], schema.columns)
                    session.first(table.aggregate(size=table[name].cast("string").length().sum()))
                except Exception as e:
                    raise InputError(f"{file}: column {name} cannot be read ({one_line(e)}); write it again") from e


def _take_in(session: Session, header: Header, out: Path, *, buckets: int, max_quarantine: float) -> None:
    """Check the tables and write them split by user into `out`, with `quarantine/`, `items/`, `queries/` and `intake.json`.

    Raises:
      InputError: a table or column missing, foreign or of another type; a file that cannot be read; a catalogue table with a
        fault; an empty table; an unknown domain or kind; more faulty rows in a table than `max_quarantine` of it.
    """
    directory, domains = header.directory, header.domains
    absent, tables = set[str](), dict[str, ir.Table]()
    for schema in (ITEMS, USERS, QUERIES):
        files = part_files(directory, schema)
        missing = check_columns(files, schema)
        rows = read_catalogue(files, schema)
        if not len(rows) and schema is not QUERIES:
            raise InputError(f"{directory / schema.name}: table {schema.name} is empty; give at least one row")
        if schema is ITEMS:
            absent = missing
        tables[schema.name] = session.load(schema.name, rows)
        if schema is not USERS:
            (out / schema.name).mkdir(parents=True)
            pq.write_table(rows, out / schema.name / "part-00000.parquet", compression="lz4")
    check = Check(session, directory, max_quarantine)
    for schema in _FACTS:
        tables[schema.name] = check.read(schema)
    for name in ("requests", "events"):
        _check_words(session, directory / name, tables[name], "domain", domains, "list it in the manifest's domains")
    _check_words(session, directory / "events", tables["events"], "kind", KINDS, "rename or remove these rows")

    users = with_hash(tables["users"].select(known_user="user_id"), "lot", "known_user", seed=0)
    users = users.select("known_user", bucket=(users.lot % buckets).cast("int32"))
    requests = check.requests(tables["requests"], users, tables["queries"])
    requests = requests.mutate(domain=_code(requests.domain, domains), test=requests.ts >= header.test_start)
    requests = session.save("requests_kept", requests)
    owners = requests.select(known_request="request_id", owner="user_id", asked="ts", bucket="bucket")
    items = tables["items"].select(known_item="item_id")
    candidates = check.candidates(tables["candidates"], owners.select("known_request", "bucket"), items)
    events = check.events(tables["events"], owners.drop("bucket"), users, items)
    events = events.mutate(domain=_code(events.domain, domains), kind=_code(events.kind, KINDS))
    session.write(requests, out / "requests", by="bucket")
    session.write(candidates, out / "candidates", by="bucket")
    session.write(events, out / "events", by="bucket")
    truth = [schema.name for schema in _TRUTH if any((directory / schema.name).glob("part-*.parquet"))]
    for schema in _TRUTH:
        if schema.name in truth:
            told = check.alone(schema, check.read(schema)).inner_join(
                owners.select("known_request", "bucket"), [("request_id", "known_request")]
            )
            if schema is CAUSES:
                told = told.mutate(domain=_code(told.domain, domains), kind=_code(told.kind, KINDS))
            session.write(told.drop("known_request"), out / schema.name, by="bucket")
    (out / "quarantine").mkdir()
    aside = session.fetch(ibis.union(*check.aside)).cast(QUARANTINE) if check.aside else QUARANTINE.empty_table()
    pq.write_table(aside.sort_by([(n, "ascending") for n in QUARANTINE.names]), out / "quarantine" / "part-00000.parquet")
    (out / _NAME).write_text(json.dumps({"absent": sorted(absent), "truth": truth}))


def open_logs(session: Session, header: Header, intaken: Path, bucket: int | None = None) -> Logs:
    """Return the checked tables of one bucket of users, or of all users."""
    facts = json.loads((intaken / _NAME).read_text())
    folder = "bucket=*" if bucket is None else f"bucket={bucket}"
    tables = {}
    for schema in (*_FACTS, *_TRUTH):
        files = sorted((intaken / schema.name).glob(f"{folder}/*.parquet"))
        # Cast, since an engine may write a column wider than the expression says.
        kept = _kept_schema(schema)
        tables[schema.name] = session.read(files, kept).cast(ibis.Schema.from_pyarrow(kept)).select(*kept.names)
    return Logs(
        directory=header.directory,
        fingerprint=header.fingerprint,
        domains=header.domains,
        test_start=header.test_start,
        items=session.read(parquet_files(intaken / "items"), ITEMS.columns),
        queries=session.read(parquet_files(intaken / "queries"), QUERIES.columns),
        requests=tables["requests"],
        candidates=tables["candidates"],
        events=tables["events"],
        oracle=tables["oracle"] if "oracle" in facts["truth"] else None,
        causes=tables["causes"] if "causes" in facts["truth"] else None,
        absent=frozenset(facts["absent"]),
    )


def read_quarantine(intaken: Path) -> pa.Table:
    """Return the rows set aside, in a fixed order."""
    return pq.read_table(intaken / "quarantine" / "part-00000.parquet")


def _kept_schema(schema: TableSchema) -> pa.Schema:
    coded = {"domain": pa.int8(), "kind": pa.int8()}
    fields = [pa.field(f.name, coded.get(f.name, f.type)) for f in schema.columns]
    return pa.schema([*fields, pa.field("test", pa.bool_())] if schema is REQUESTS else fields)


def _check_words(session: Session, directory: Path, table: ir.Table, name: str, known: tuple[str, ...], remedy: str) -> None:
    unknown = session.first(table.filter(table[name].notin(known)).select(name))
    if unknown:
        raise InputError(f"{directory}: column {name} has unknown {unknown[name]!r}, known are {', '.join(known)}; {remedy}")


def _code(column: ir.Value, words: tuple[str, ...]) -> ir.Value:
    return column.cases(*((word, i) for i, word in enumerate(words))).cast("int8")


__all__ = ["QUARANTINE", "Header", "Logs", "describe_logs", "intake", "open_logs", "read_header", "read_quarantine"]
