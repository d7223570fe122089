"""Parquet files of a user's folder as Arrow tables; what cannot be used is named by file, column and row, as in text files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.public.delimited import Source
from unisc.errors import InputError


def read(file: Path, schema: pa.Schema) -> Source:
    """Read the columns of `schema`, rows counted from 1.

    A field declared not nullable may hold neither null nor NaN.

    Raises:
      InputError: no such file, one that is no Parquet, a column missing or there twice, a value that does not convert, an empty
        one where none may be.
    """
    if not file.is_file():
        raise InputError(f"{file}: not found; give the folder that holds this file")
    try:
        found = pq.read_schema(file).names
        for name in schema.names:
            if found.count(name) != 1:
                what = "is missing" if name not in found else "is there more than once"
                raise InputError(f"{file}: column {name} {what}; give it once, as {schema.field(name).type}")
        raw = pq.read_table(file, columns=schema.names)
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{file}: cannot be read ({' '.join(str(e).split())[:120]}); fetch the file again") from e
    columns = []
    for field in schema:
        try:
            columns.append(raw[field.name].cast(field.type))
        except pa.ArrowException as e:
            why = " ".join(str(e).split())[:120]
            raise InputError(
                f"{file}: column {field.name} is no {field.type} ({why}); correct it or fetch the file again"
            ) from e
    source = Source(file=file, table=pa.table(columns, names=schema.names), first_row=1)
    for field in schema:
        empty = pc.is_null(source[field.name], nan_is_null=True)
        if not field.nullable and pc.any(empty, min_count=0).as_py():
            source.fail(field.name, empty, "but every row needs a value there")
    return source
