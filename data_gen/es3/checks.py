"""Judges rows of the log tables: those that break their schema, repeat or refer to nothing are taken out with their reason."""

from collections.abc import Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data_gen.es3.catalogue import TS_LIMIT, check_columns, count_rows, part_files
from data_gen.es3.session import Session
from unisc.data.schema import CANDIDATES, EVENTS, REQUESTS, TableSchema
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

REQUEST_LIMIT = 2**51
"""Logged request ids stay below, which leaves room for those of the pseudo requests made of them."""


class Check:
    """Reads the tables of facts and takes out rows that cannot be used; `aside` collects them in the form of QUARANTINE."""

    def __init__(self, session: Session, directory: Path, max_quarantine: float) -> None:
        self.session, self.directory, self.max_quarantine = session, directory, max_quarantine
        self.aside: list[ir.Table] = []

    def read(self, schema: TableSchema) -> ir.Table:
        files = part_files(self.directory, schema)
        check_columns(files, schema)
        if not count_rows(files):
            raise InputError(f"{self.directory / schema.name}: table {schema.name} is empty; give at least one row")
        table = self.session.read(files, schema.columns)
        declared = ibis.Schema.from_pyarrow(schema.columns)
        filled = {n: ibis.null(t) for n, t in declared.items() if n not in table.columns}
        return table.mutate(**filled).select(*schema.columns.names)

    def requests(self, table: ir.Table, users: ir.Table, queries: ir.Table) -> ir.Table:
        """Keep usable requests, with the `bucket` of their user."""
        table = self.alone(REQUESTS, table)
        joined = table.left_join(users, table.user_id == users.known_user)
        known = queries.select(known_query="query_id")
        joined = joined.left_join(known, joined.query_id == known.known_query)
        joined = joined.mutate(
            reason=ibis.cases(
                (joined.known_user.isnull(), "unknown user"),
                (joined.query_id.notnull() & joined.known_query.isnull(), "unknown query"),
            )
        ).drop("known_user", "known_query")
        return self._take_out("requests", self.session.save("requests_flagged", joined))

    def candidates(self, table: ir.Table, owners: ir.Table, items: ir.Table) -> ir.Table:
        """Keep candidates of kept requests and known items, with their `bucket`."""
        table = self.alone(CANDIDATES, table)
        joined = table.left_join(owners, table.request_id == owners.known_request)
        joined = joined.left_join(items, joined.item_id == items.known_item)
        joined = joined.mutate(
            reason=ibis.cases((joined.known_request.isnull(), "unknown request"), (joined.known_item.isnull(), "unknown item"))
        ).drop("known_request", "known_item")
        return self._take_out("candidates", self.session.save("candidates_flagged", joined))

    def events(self, table: ir.Table, owners: ir.Table, users: ir.Table, items: ir.Table) -> ir.Table:
        """Keep events of known users and items that do not contradict the request they name, with their `bucket`."""
        table = self.alone(EVENTS, table)
        joined = table.left_join(users, table.user_id == users.known_user)
        joined = joined.left_join(items, joined.item_id == items.known_item)
        joined = joined.left_join(owners, joined.request_id == owners.known_request)
        joined = joined.mutate(
            reason=ibis.cases(
                (joined.known_user.isnull(), "unknown user"),
                (joined.known_item.isnull(), "unknown item"),
                (joined.request_id.notnull() & joined.known_request.isnull(), "unknown request"),
                (joined.owner != joined.user_id, "another user's request"),
                (joined.ts < joined.asked, "before its request"),
            )
        ).drop("known_user", "known_item", "known_request", "owner", "asked")
        return self._take_out("events", self.session.save("events_flagged", joined))

    def alone(self, schema: TableSchema, table: ir.Table) -> ir.Table:
        """Keep what can be judged without other tables: rows that keep to their schema, each once."""
        return self._distinct(schema, self._sound(schema, table))

    def _sound(self, schema: TableSchema, table: ir.Table) -> ir.Table:
        """Take out rows that break their schema: nulls, negative and non-finite values, times and ids out of range."""
        faults = _faults(schema, table)
        counts = self.session.first(
            table.aggregate(
                rows=table.count(), **{f"fault_{i}": bad.fill_null(False).sum() for i, (_, bad) in enumerate(faults)}
            )
        )
        found = [(words, bad, counts[f"fault_{i}"]) for i, (words, bad) in enumerate(faults) if counts[f"fault_{i}"]]
        for words, bad, n in found:
            self._limit(
                schema.name, f"column {words}", n, counts["rows"], table, bad, schema.key or ("user_id", "item_id", "ts")
            )
        if not found:
            return table
        flagged = table.mutate(reason=ibis.cases(*((bad.fill_null(False), words) for words, bad, _ in found)))
        return self._take_out(schema.name, self.session.save(f"{schema.name}_read", flagged))

    def _distinct(self, schema: TableSchema, table: ir.Table) -> ir.Table:
        """Take out repeated rows: all but one of equal ones, every one of those that share a key and differ."""
        name, key = schema.name, schema.key or tuple(schema.columns.names)
        keys = {f"key_{k}": _comparable(schema, table, k) for k in key}
        repeated = table.group_by(**keys).having(table.count() > 1).aggregate(copies=table.count())
        repeated = self.session.save(f"{name}_repeated", repeated)
        if not self.session.first(repeated):
            return table
        same = [_comparable(schema, table, k) == repeated[f"key_{k}"] for k in key]
        some, rest = table.semi_join(repeated, same), table.anti_join(repeated, same)
        known = [_comparable(schema, some, c) for c in some.columns]
        some = some.mutate(
            alike=some.count().over(group_by=known),
            place=ibis.row_number().over(group_by=known, order_by=known),
            named=some.count().over(group_by=[_comparable(schema, some, k) for k in key]),
        )
        reason = ibis.cases((some.alike < some.named, "conflicting duplicate"), (some.place > 0, "duplicate row"))
        some = self.session.save(f"{name}_copies", some.mutate(reason=reason).drop("alike", "place", "named"))
        wrong = some.reason.notnull()
        n = self.session.first(some.aggregate(n=wrong.sum()))["n"]
        rows = self.session.first(table.aggregate(n=table.count()))["n"]
        self._limit(name, "duplicate", n, rows, some, wrong, [k for k in key if k in QUARANTINE.names])
        return ibis.union(self._take_out(name, some), rest)

    def _limit(self, name: str, words: str, n: int, rows: int, table: ir.Table, bad: ir.Value, key: Sequence[str]) -> None:
        if n <= self.max_quarantine * rows:
            return
        # Sorted, not filtered: a filter would be pushed into a Parquet reader, whose statistics leave NaN out.
        worst = table.order_by(bad.fill_null(False).desc()).select(*key)
        where = ", ".join(f"{k} {v}" for k, v in self.session.first(worst).items())
        raise InputError(
            f"{self.directory / name}: {words} in {n} of {rows} rows, one at {where}; correct or remove them, or allow more "
            f"than {self.max_quarantine:g} of a table to be set aside with --max-quarantine"
        )

    def _take_out(self, name: str, flagged: ir.Table) -> ir.Table:
        bad = flagged.filter(flagged.reason.notnull()).mutate(table=ibis.literal(name))
        columns = ibis.Schema.from_pyarrow(QUARANTINE)
        filled = {n: ibis.null(t) for n, t in columns.items() if n not in bad.columns}
        self.aside.append(bad.mutate(**filled).select(*QUARANTINE.names).cast(columns))
        return flagged.filter(flagged.reason.isnull()).drop("reason")


def _faults(schema: TableSchema, table: ir.Table) -> list[tuple[str, ir.Value]]:
    faults: list[tuple[str, ir.Value]] = []
    for name, dtype in table.schema().items():
        column = table[name]
        if name not in schema.nullable:
            faults.append((f"{name} is null", column.isnull()))
        if dtype.is_floating():
            faults.append((f"{name} is NaN or infinite", column.isnan() | column.isinf()))
        if dtype.is_numeric():
            faults.append((f"{name} is negative", column < 0))
        if name == "ts":
            faults.append((f"{name} is too large for unix seconds", column >= TS_LIMIT))
        if name == "request_id":
            faults.append((f"{name} is not below 2**51", column >= REQUEST_LIMIT))
        if name.startswith("p_"):
            faults.append((f"{name} is above 1", column > 1))
        if name == "propensity":
            faults.append((f"{name} is not in (0, 1]", (column <= 0) | (column > 1)))
    return faults


def _comparable(schema: TableSchema, table: ir.Table, name: str) -> ir.Value:
    """A column whose nulls compare equal: a value that no sound row holds stands for them."""
    column = table[name]
    return column.fill_null(ibis.literal(-1).cast(column.type())) if name in schema.nullable else column
