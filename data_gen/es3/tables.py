"""Log tables in: schemas and values checked, rows that refer to nothing set aside with their reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.es3.session import Session
from unisc.data import manifest
from unisc.data.schema import KINDS, LOG_TABLES, TableSchema
from unisc.errors import InputError

QUARANTINE = pa.schema(
    [
        ("table", pa.string()),
        ("reason", pa.string()),
        ("request_id", pa.int64()),
        ("user_id", pa.int32()),
        ("item_id", pa.int32()),
        ("ts", pa.int64()),
    ]
)
"""A row set aside: where it stood, why it cannot be used, and the columns that identify it (null where it has none)."""


_TS_LIMIT = 2**40
"""Far beyond any date in seconds, and before any in milliseconds, which is what a larger value usually is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Logs:
    """Checked log tables, every declared column present (null where the logs lack it) and every reference resolved.

    `domain` and `kind` are integer codes: places in `domains` and in KINDS. `requests` has `test`, true in the test split.
    `quarantine` holds the rows set aside. `absent` names optional item columns the logs do not have.
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
    quarantine: ir.Table
    absent: frozenset[str]


def read_logs(session: Session, directory: Path) -> Logs:
    """Read, check and resolve the log tables of a directory.

    Raises:
      InputError: a table or column missing, foreign or of another type; an empty table; a null, negative or non-finite
        value where none may be; a repeated key; ids that are not dense; an unknown domain or kind; an unusable manifest.
    """
    about = manifest.read(directory, kind="logs")
    domains, test_start = _split(directory, about)
    raw: dict[str, ir.Table] = {}
    absent: set[str] = set()
    for schema in LOG_TABLES.values():
        missing = _check_files(directory / schema.name, schema)
        if schema.name == "items":
            absent |= missing
        try:
            table = session.read(str(directory / schema.name / "part-*.parquet"))
            _check_values(session, directory / schema.name, schema, table)
        except duckdb.Error as e:
            if isinstance(e, duckdb.OutOfMemoryException):
                raise
            words = " ".join(str(e).split())[:160]
            raise InputError(f"{directory / schema.name}: cannot be read ({words}); write this table again") from e
        raw[schema.name] = _complete(table, schema)
    _check_words(session, directory / "requests", raw["requests"], "domain", domains, "list it in the manifest's domains")
    _check_words(session, directory / "events", raw["events"], "domain", domains, "list it in the manifest's domains")
    _check_words(session, directory / "events", raw["events"], "kind", KINDS, "rename or remove these rows")
    requests, candidates, events = _with_reasons(session, raw, domains, test_start)
    flagged = {"requests": requests, "candidates": candidates, "events": events}
    kept = {name: session.save(name, table.filter(table.reason.isnull()).drop("reason")) for name, table in flagged.items()}
    return Logs(
        directory=directory,
        fingerprint=about["fingerprint"],
        domains=domains,
        test_start=test_start,
        items=session.save("items", raw["items"]),
        queries=session.save("queries", raw["queries"]),
        quarantine=session.save("quarantine", ibis.union(*(_set_aside(name, table) for name, table in flagged.items()))),
        absent=frozenset(absent),
        **kept,
    )


def _split(directory: Path, about: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    domains, test_start = about.get("domains"), about.get("test_start")
    path = directory / manifest.NAME
    if not isinstance(domains, list) or not domains or not all(isinstance(d, str) for d in domains) or len(domains) > 127:
        raise InputError(f"{path}: domains is {domains!r}; give a list of names, the target domain first")
    if not isinstance(test_start, int) or test_start < 0:
        raise InputError(f"{path}: test_start is {test_start!r}; give unix seconds")
    return tuple(domains), test_start


def _check_files(directory: Path, schema: TableSchema) -> set[str]:
    """Check every part's columns and types; return the optional columns that are absent."""
    files = sorted(directory.glob("part-*.parquet"))
    if not files:
        raise InputError(f"{directory}: no part-*.parquet, so table {schema.name} is missing; add it")
    absent: set[str] | None = None
    for file in files:
        try:
            found = pq.read_schema(file)
        except (pa.ArrowException, OSError) as e:
            raise InputError(f"{file}: not a readable Parquet file ({' '.join(str(e).split())[:120]}); write it again") from e
        missing = set(schema.columns.names) - set(found.names)
        if required := sorted(missing - schema.optional):
            raise InputError(f"{file}: column {required[0]} is missing; add it as {schema.columns.field(required[0]).type}")
        for field in found:
            if field.name not in schema.columns.names or found.names.count(field.name) > 1:
                raise InputError(f"{file}: column {field.name} is not one of {schema.name}'s; remove it")
            declared = schema.columns.field(field.name).type
            if _plain(field.type) != declared:
                raise InputError(f"{file}: column {field.name} is {field.type}, not {declared}; convert it")
        if absent is not None and missing != absent:
            raise InputError(f"{file}: has other columns than {files[0].name}; write every part of {schema.name} alike")
        absent = missing
    return absent or set()


def _plain(found: pa.DataType) -> pa.DataType:
    """Reduce spellings of a type that mean the same values on disk."""
    if pa.types.is_large_string(found):
        return pa.string()
    if pa.types.is_list(found) or pa.types.is_large_list(found):
        return pa.list_(_plain(found.value_type))
    return found


def _check_values(session: Session, directory: Path, schema: TableSchema, table: ir.Table) -> None:
    """Count nulls, negative and non-finite values, repeated keys and gaps in dense ids; name the first that is wrong."""
    wrong: dict[str, tuple[str, str, ir.BooleanValue]] = {}
    for name, dtype in table.schema().items():
        column = table[name]
        if name not in schema.nullable:
            wrong[f"{name}_null"] = (name, "null", column.isnull())
        if dtype.is_floating():
            wrong[f"{name}_finite"] = (name, "NaN or infinite", column.isnan() | column.isinf())
        if dtype.is_numeric():
            wrong[f"{name}_negative"] = (name, "negative", column < 0)
        if name in ("ts", "created_ts"):
            wrong[f"{name}_late"] = (name, "too large for unix seconds", column >= _TS_LIMIT)
    counts = session.first(
        table.aggregate(rows=table.count(), **{key: bad.fill_null(False).sum() for key, (_, _, bad) in wrong.items()})
    )
    if not counts["rows"]:
        raise InputError(f"{directory}: table {schema.name} is empty; give logs with at least one row in it")
    for key, (name, what, bad) in wrong.items():
        if counts[key]:
            # Sorted, not filtered: a filter would be pushed into the Parquet reader, whose statistics leave NaN out.
            worst = table.order_by(bad.fill_null(False).desc()).select(*(schema.key or ("user_id", "item_id", "ts")))
            where = _words(session.first(worst))
            raise InputError(
                f"{directory}: column {name} has {counts[key]} {what} value(s), one at {where}; correct or remove these rows"
            )
    if schema.key:
        repeated = session.first(table.group_by(list(schema.key)).having(table.count() > 1).aggregate(rows=table.count()))
        if repeated:
            rows = repeated.pop("rows")
            raise InputError(f"{directory}: duplicate {_words(repeated)} in {rows} rows; keep one of them")
    if schema.name in ("items", "users", "queries"):
        last = session.first(table.aggregate(last=table[schema.key[0]].max()))["last"]
        if last != counts["rows"] - 1:
            raise InputError(
                f"{directory}: column {schema.key[0]} reaches {last} in {counts['rows']} rows, so it is not dense; "
                "number the rows from 0 without gaps"
            )


def _words(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in row.items())


def _check_words(session: Session, directory: Path, table: ir.Table, name: str, known: tuple[str, ...], remedy: str) -> None:
    unknown = session.first(table.filter(table[name].notin(known)).select(name))
    if unknown:
        raise InputError(f"{directory}: column {name} has unknown {unknown[name]!r}, known are {', '.join(known)}; {remedy}")


def _complete(table: ir.Table, schema: TableSchema) -> ir.Table:
    declared = ibis.Schema.from_pyarrow(schema.columns)
    filled = {n: ibis.null(t) for n, t in declared.items() if n not in table.columns}
    return table.mutate(**filled).select(*schema.columns.names)


def _code(column: ir.Value, words: tuple[str, ...]) -> ir.Value:
    return column.cases(*((word, ibis.literal(i, "int8")) for i, word in enumerate(words)))


def _with_reasons(
    session: Session, raw: Mapping[str, ir.Table], domains: tuple[str, ...], test_start: int
) -> tuple[ir.Table, ir.Table, ir.Table]:
    """Add `reason` to requests, candidates and events: null, or why the row cannot be used."""
    users = raw["users"].select(known_user=raw["users"].user_id)
    queries = raw["queries"].select(known_query=raw["queries"].query_id)
    items = raw["items"].select(known_item=raw["items"].item_id)
    r = raw["requests"]
    r = r.left_join(users, r.user_id == users.known_user)
    r = r.left_join(queries, r.query_id == queries.known_query)
    requests = session.save(
        "requests_flagged",
        r.mutate(
            domain=_code(r.domain, domains),
            test=r.ts >= test_start,
            reason=ibis.cases(
                (r.known_user.isnull(), "unknown user"),
                (r.query_id.notnull() & r.known_query.isnull(), "unknown query"),
            ),
        ).drop("known_user", "known_query"),
    )
    valid = requests.filter(requests.reason.isnull())
    c = raw["candidates"]
    known = valid.select(known_request=valid.request_id)
    c = c.left_join(known, c.request_id == known.known_request)
    c = c.left_join(items, c.item_id == items.known_item)
    candidates = c.mutate(
        reason=ibis.cases((c.known_request.isnull(), "unknown request"), (c.known_item.isnull(), "unknown item"))
    ).drop("known_request", "known_item")
    e = raw["events"]
    owner = valid.select(known_request=valid.request_id, request_user=valid.user_id, request_ts=valid.ts)
    e = e.left_join(users, e.user_id == users.known_user).left_join(items, e.item_id == items.known_item)
    e = e.left_join(owner, e.request_id == owner.known_request)
    events = e.mutate(
        domain=_code(e.domain, domains),
        kind=_code(e.kind, KINDS),
        reason=ibis.cases(
            (e.known_user.isnull(), "unknown user"),
            (e.known_item.isnull(), "unknown item"),
            (e.request_id.notnull() & e.known_request.isnull(), "unknown request"),
            (e.request_user != e.user_id, "another user's request"),
            (e.ts < e.request_ts, "before its request"),
        ),
    ).drop("known_user", "known_item", "known_request", "request_user", "request_ts")
    return requests, candidates, events


def _set_aside(name: str, flagged: ir.Table) -> ir.Table:
    bad = flagged.filter(flagged.reason.notnull()).mutate(table=ibis.literal(name))
    columns = ibis.Schema.from_pyarrow(QUARANTINE)
    filled = {n: ibis.null(t) for n, t in columns.items() if n not in bad.columns}
    return bad.mutate(**filled).select(*QUARANTINE.names)
