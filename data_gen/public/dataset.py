"""The tables of a converted public log as TFDS datasets of block records, a configuration a table.

Splits: those of the table's `split` column where it has one; else `train` and `test` of a table with times, parted by the
directory's `test_start`; else `whole`. (`all`, to the library, is every split together, so none can have that name; it reads a
whole table in any case.) Rows keep their order within a split, and every column stays.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.blocks import ROWS_PER_BLOCK, BlockBuilder, BlockConfig, Rows, prepare
from data_gen.public.adapter import KINDS_OF_DIRECTORY, RANKED_LISTS, TABLES
from unisc.data import manifest
from unisc.data.schema import KINDS
from unisc.errors import InputError
from unisc.files import new_directory

KIND = "tables"
"""The kind that the manifest of such a dataset directory states."""
WHOLE = "whole"
PARALLEL = {
    RANKED_LISTS.name: (
        ("item_ids", "labels"),
        ("history_item_ids", "history_kinds", "history_query_ids", "history_ages"),
    )
}
"""List columns of equal lengths, row by row, by table."""
_ROWS_PER_READ = 65_536
REMEDY = "convert the source again"


class PublicTable(BlockBuilder, skip_registration=True):
    """One table of a directory that `convert` made; the dataset has the source's name, its configuration the table's.

    Raises:
      InputError: no such table there, or files that differ from each other or from the table's declaration.
    """

    def __init__(self, converted: Path, table: str, **options: Any):
        self.source = read_manifest(converted)
        self.name = self.source["config"]["source"]
        self.test_start: int | None = self.source["test_start"]
        self.files = sorted((converted / table).glob("*.parquet"))
        if table not in TABLES or not self.files:
            raise InputError(f"{converted / table}: no such table; give one of {', '.join(tables_of(converted))}")
        self.schema = _schema(self.files, TABLES[table].columns)
        self.split_names = self._split_names()
        names = {"domain": tuple(self.source["domains"] or ()), "kind": KINDS, "split": self.split_names}
        config = BlockConfig(
            name=table,
            description=_describe(self.source, table),
            schema=self.schema,
            names={name: values for name, values in names.items() if name in self.schema.names},
            parallel=PARALLEL.get(table, ()),
            homepage=self.source["homepage"],
            licence=self.source["licence"],
        )
        super().__init__(config=config, **options)

    def rows(self) -> Mapping[str, Rows]:
        """Return the table's splits; each is read from the files when it is written."""
        sizes, num_rows = dict.fromkeys(self.split_names, 0), 0
        for batch in self._read(self._decided_by()):
            num_rows += batch.num_rows
            for split in self.split_names:
                sizes[split] += batch.num_rows if split == WHOLE else pc.sum(self._belongs(batch, split), min_count=0).as_py()
        if sum(sizes.values()) != num_rows:
            raise InputError(f"{self.files[0].parent}: column ts holds nulls, so rows without a split; {REMEDY}")
        return {split: Rows(num_rows=size, batches=lambda split=split: self._rows_of(split)) for split, size in sizes.items()}

    def _split_names(self) -> tuple[str, ...]:
        if "split" in self.schema.names:
            found = sorted(
                {value for batch in self._read(["split"]) for value in batch.column(0).unique().to_pylist()}, key=str
            )
            for name in found:
                if not isinstance(name, str) or not re.fullmatch(r"[a-z]\w*", name) or name in ("all", WHOLE):
                    raise InputError(f"{self.files[0].parent}: column split holds {name!r}, not a split's name; {REMEDY}")
            return tuple(found) or (WHOLE,)
        return ("train", "test") if "ts" in self.schema.names and self.test_start is not None else (WHOLE,)

    def _decided_by(self) -> list[str]:
        """Name the column that says which split a row is in; any, to count rows, where there is one split."""
        return [name for name in ("split", "ts") if name in self.schema.names][:1] or self.schema.names[:1]

    def _belongs(self, batch: pa.RecordBatch, split: str) -> pa.Array:
        if "split" in self.schema.names:
            return pc.equal(batch.column("split"), split)
        late = pc.greater_equal(batch.column("ts"), self.test_start)
        return late if split == "test" else pc.invert(late)

    def _rows_of(self, split: str) -> Iterator[pa.RecordBatch]:
        for batch in self._read(self.schema.names):
            yield batch if split == WHOLE else batch.filter(self._belongs(batch, split))

    def _read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for file in self.files:
            try:
                with pq.ParquetFile(file) as reader:
                    yield from reader.iter_batches(_ROWS_PER_READ, columns=columns, use_threads=False)
            except (pa.ArrowException, OSError) as e:
                raise InputError(f"{file}: cannot be read ({type(e).__name__}); {REMEDY}") from e


def write_datasets(
    converted: Path, out: Path, *, rows_per_block: int = ROWS_PER_BLOCK, num_shards: int | None = None
) -> dict[str, Any]:
    """Write every table of a converted directory as the TFDS directory `<out>/<table>`; return the manifest of `out`.

    It holds the checksum of every file, the converted directory's fingerprint, and what the source gives and cannot give.
    `num_shards` is per split. Equal tables and arguments make equal bytes.

    Raises:
      InputError: no converted directory there, files that do not match its manifest, `out` is there or cannot be written.
    """
    source, counts = read_manifest(converted, verify=True), {}
    options = {"rows_per_block": rows_per_block, "num_shards": num_shards}
    with new_directory(out) as aside:
        for name in tables_of(converted):
            (aside / name).mkdir()
            builder = prepare(
                lambda data_dir, name=name: PublicTable(converted, name, data_dir=data_dir, **options), aside / name
            )
            counts |= {f"{name}/{split}": count for split, count in builder.info.metadata["num_rows"].items()}
        said = ("title", "homepage", "licence", "gives", "cannot_give", "domains", "test_start", "end_ts", "quality")
        return manifest.write(
            aside,
            kind=KIND,
            config={
                "source": source["config"]["source"],
                "made_from": {"kind": source["kind"], "fingerprint": source["fingerprint"]},
                "rows_per_block": rows_per_block,
            },
            counts=counts,
            **{name: source[name] for name in said},
        )


def read_manifest(converted: Path, *, verify: bool = False) -> dict[str, Any]:
    """Read the manifest of a directory that `convert` made, of whatever kind.

    Raises:
      InputError: as `unisc.data.manifest.read`; a directory that something else made.
    """
    try:
        kind = json.loads((converted / manifest.NAME).read_text())["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None  # what is wrong with it is said below
    source = manifest.read(converted, kind=kind if kind in KINDS_OF_DIRECTORY else "converted tables", verify=verify)
    needed = ("title", "homepage", "licence", "gives", "cannot_give", "domains", "test_start", "end_ts", "quality")
    if missing := [name for name in needed if name not in source]:
        raise InputError(f"{converted / manifest.NAME}: says nothing of {missing[0]}; give a directory that `convert` made")
    if not re.fullmatch(r"[a-z]\w*", str(source["config"].get("source"))):
        raise InputError(f"{converted / manifest.NAME}: names no source; give a directory that `convert` made")
    return source


def tables_of(converted: Path) -> list[str]:
    """Name the tables of a converted directory, in the order they are declared."""
    return [name for name in TABLES if (converted / name).is_dir()]


def _schema(files: list[Path], declared: pa.Schema) -> pa.Schema:
    """Return the declared columns that the files have; each must have them all, in their declared types."""
    schemas = []
    for file in files:
        try:
            found = pq.read_schema(file)
        except (pa.ArrowException, OSError) as e:
            raise InputError(f"{file}: cannot be read ({type(e).__name__}); {REMEDY}") from e
        for f in found:
            at = declared.get_field_index(f.name)
            if at < 0 or not declared.field(at).type.equals(f.type):
                raise InputError(f"{file}: column {f.name} is {f.type}, which its table does not declare; {REMEDY}")
        schemas.append(pa.schema([f for f in declared if f.name in found.names]))
        if not schemas[-1].equals(schemas[0]):
            raise InputError(f"{file}: has other columns than {files[0].name}; {REMEDY}")
    return schemas[0]


def _describe(source: Mapping[str, Any], table: str) -> str:
    return "\n".join(
        [
            f"{source['title']}: table {table} of {source['kind']} {source['fingerprint']}.",
            *(f"Gives {text}." for text in source["gives"]),
            *(f"Cannot give {text}." for text in source["cannot_give"]),
        ]
    )
