"""How a column of a declared table is laid out in a block record."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds

from unisc.errors import InputError

FIRST_ROW = "first_row"


def lengths_name(column: str) -> str:
    """Name the feature that holds the lengths of a list column."""
    return f"{column}_lengths"


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnCodec:
    """One column: its type in a record, the fill of its nulls, and for a list the column whose lengths feature it shares."""

    name: str
    dtype: np.dtype
    fill: int | float | bool | str
    names: tuple[str, ...] | None
    anchor: str | None

    def features(self) -> dict[str, Any]:
        """Return this column's features; raw bytes, so that reading one is a view and not a parse."""
        if self.dtype == object:
            values = tfds.features.Tensor(shape=(None,), dtype=np.str_)
        else:
            values = tfds.features.Tensor(shape=(None,), dtype=self.dtype, encoding="bytes")
        if self.anchor != self.name:
            return {self.name: values}
        return {
            self.name: values,
            lengths_name(self.name): tfds.features.Tensor(shape=(None,), dtype=np.int32, encoding="bytes"),
        }

    def encode(self, block: pa.RecordBatch, example: dict[str, Any], first_row: int) -> None:
        """Add this column of a block to `example`.

        Raises:
          InputError: a value that cannot be told from a null, a name that is not declared, lists that are not parallel.
        """
        column = block.column(self.name)
        if self.anchor:
            lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
            stored = example.setdefault(lengths_name(self.anchor), lengths)
            if not np.array_equal(stored, lengths):
                row = first_row + int(np.flatnonzero(stored != lengths)[0])
                raise InputError(
                    f"column {self.name}: row {row} has another length than its {self.anchor}; they are parallel lists"
                )
            column = column.flatten()
        example[self.name] = self._values(column)

    def _values(self, column: pa.Array) -> np.ndarray:
        if self.names is not None:
            return self._codes(column)
        if column.null_count:
            known = column.drop_null().to_numpy(zero_copy_only=False)
            if self.dtype.kind in "iu" and (known == self.fill).any():
                raise InputError(f"column {self.name}: holds both nulls and {self.fill}, their fill value; declare another one")
            try:
                column = column.fill_null(pa.scalar(self.fill, column.type))
            except (pa.ArrowInvalid, OverflowError) as e:
                raise InputError(f"column {self.name}: its nulls cannot be {self.fill} ({e}); declare a fill value") from e
        return column.to_numpy(zero_copy_only=False).astype(self.dtype, copy=False)

    def _codes(self, column: pa.Array) -> np.ndarray:
        assert self.names is not None
        encoded, place = column.dictionary_encode(), {name: code for code, name in enumerate(self.names)}
        found = encoded.dictionary.to_pylist()
        for value in found:
            if value not in place:
                raise InputError(f"column {self.name}: {value!r} is not one of {list(self.names)}")
        codes = np.array([*(place[value] for value in found), self.fill], self.dtype)
        return codes[encoded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)]


def codecs(
    schema: pa.Schema,
    *,
    names: Mapping[str, tuple[str, ...]],
    fills: Mapping[str, int | float | bool],
    parallel: tuple[tuple[str, ...], ...],
) -> list[ColumnCodec]:
    """Return the codec of every column, in the schema's order.

    Raises:
      InputError: a column of a type that has no layout, or whose name a feature of ours has.
    """
    anchors = {column: group[0] for group in parallel for column in group}
    made, taken = [], {FIRST_ROW}
    for f in schema:
        is_list = pa.types.is_list(f.type) or pa.types.is_large_list(f.type)
        inner = f.type.value_type if is_list else f.type
        coded = names.get(f.name)
        made.append(
            ColumnCodec(
                name=f.name,
                dtype=_dtype(f.name, inner, coded),
                fill=fills.get(f.name, _fill(inner, coded)),
                names=coded,
                anchor=anchors.get(f.name, f.name) if is_list else None,
            )
        )
        for feature in made[-1].features():
            if feature in taken:
                raise InputError(f"column {f.name}: {feature} is there already; rename the column")
            taken.add(feature)
    return made


def _dtype(name: str, inner: pa.DataType, coded: tuple[str, ...] | None) -> np.dtype:
    if pa.types.is_string(inner) or pa.types.is_large_string(inner):
        return np.dtype(object) if coded is None else np.min_scalar_type(-max(len(coded), 1))
    if pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner):
        return np.dtype(inner.to_pandas_dtype())
    raise InputError(f"column {name}: {inner} has no layout in block records; give integers, floats, booleans or strings")


def _fill(inner: pa.DataType, coded: tuple[str, ...] | None) -> int | float | bool | str:
    if pa.types.is_floating(inner):
        return float("nan")
    if pa.types.is_boolean(inner):
        return False
    return -1 if coded is not None or pa.types.is_integer(inner) else ""


def blocks(batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows_per_block: int) -> Iterator[pa.RecordBatch]:
    """Cut rows into blocks of `rows_per_block`, the last one smaller; no rows at all make one empty block.

    Raises:
      InputError: a column is missing or has another type than the schema says.
    """
    kept: list[pa.RecordBatch] = []
    num_kept, any_block = 0, False
    for batch in batches:
        for f in schema:
            at = batch.schema.get_field_index(f.name)
            if at < 0 or not batch.schema.field(at).type.equals(f.type):
                found = "missing" if at < 0 else f"{batch.schema.field(at).type}, not {f.type}"
                raise InputError(f"column {f.name}: {found}; give the declared table")
        kept.append(batch.select(schema.names))
        num_kept += batch.num_rows
        if num_kept >= rows_per_block:
            whole = _joined(kept, schema)
            full = num_kept // rows_per_block * rows_per_block
            for start in range(0, full, rows_per_block):
                any_block = True
                yield whole.slice(start, rows_per_block)
            kept, num_kept = [whole.slice(full)], num_kept - full
    if num_kept or not any_block:
        yield _joined(kept, schema)


def _joined(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    whole = pa.Table.from_batches([b.cast(schema) for b in batches], schema).combine_chunks()
    return whole.to_batches()[0] if whole.num_rows else pa.RecordBatch.from_pylist([], schema=schema)
