"""What a ranker sees: typed fields over fused embedding tables, and the packed batch of requests and candidates.

Five groups of features feed five typed tokenisers (UniScale section 3, figure 3). A field is known once a request, once a
candidate, or once a history entry. Fields that mean the same ids share a table.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Array, Bool, Float, Int

Group = Literal["user", "item", "query", "sequence", "domain"]
Level = Literal["request", "candidate", "history"]
GROUPS: tuple[Group, ...] = ("user", "item", "query", "sequence", "domain")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One embedding table: ids 0 to num_rows - 1; row 0 stands for an absent value. In a `hashed` one ids share rows."""

    name: str
    num_rows: int
    hashed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A categorical field: `table` names where its ids live. Its group decides the token it enters."""

    name: str
    group: Group
    level: Level
    table: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericField:
    """A real-valued field, already scaled to about unit size."""

    name: str
    group: Group
    level: Literal["request", "candidate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """Everything a model must know of the data: tables, fields in column order, domains, tasks, history length."""

    tables: tuple[Table, ...]
    fields: tuple[Field, ...]
    numeric: tuple[NumericField, ...]
    domains: tuple[str, ...]
    tasks: tuple[str, ...]
    history_len: int

    def at(self, level: Level) -> tuple[Field, ...]:
        """Categorical fields of a level, in the order of the batch's columns."""
        return tuple(f for f in self.fields if f.level == level)

    def numeric_at(self, level: Level) -> tuple[NumericField, ...]:
        """Numeric fields of a level, in the order of the batch's columns."""
        return tuple(f for f in self.numeric if f.level == level)

    def table_offsets(self) -> dict[str, int]:
        """First row of each table in the one fused store."""
        offsets, start = {}, 0
        for table in self.tables:
            offsets[table.name] = start
            start += table.num_rows
        return offsets

    @property
    def num_rows(self) -> int:
        """Rows of the fused store."""
        return sum(t.num_rows for t in self.tables)


class Batch(NamedTuple):
    """A fixed-shape pack of R requests with B candidates between them (ragged lists laid end to end, then padding).

    The id arrays index into `unique_rows`, the distinct rows of the fused table this batch touches, so that reading and
    updating embeddings costs by rows touched (U), not by rows that exist. Padding candidates have weight 0 and request 0;
    padding entries of `unique_rows` equal `spec.num_rows` (out of range: never read, dropped on write). `lists` says where each
    request's candidates stand, B in slots that hold none; C is 0 where no model of the run works on whole lists.

    Where tables are hashed (`unisc.data.hashing`), an embedding may be the sum of K rows: the id arrays then index into
    `row_parts`, and that into `unique_rows`, with an index out of range for no row.
    """

    unique_rows: Int[Array, "U"]
    request_ids: Int[Array, "R Mr"]
    candidate_ids: Int[Array, "B Mc"]
    history_ids: Int[Array, "R S Mh"]
    history_mask: Bool[Array, "R S"]
    request_numeric: Float[Array, "R Pr"]
    candidate_numeric: Float[Array, "B Pc"]
    request_index: Int[Array, "B"]
    lists: Int[Array, "R C"]
    domain: Int[Array, "B"]
    labels: Float[Array, "B tasks"]
    weights: Float[Array, "B tasks"]
    row_parts: Int[Array, "U K"] | None = None


BY_ROW = ("unique_rows", "row_parts")
"""What of a batch speaks of rows of the table, not of requests or candidates: whole on every device, in every part."""
