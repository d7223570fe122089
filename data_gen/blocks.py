"""Any declared table as a TFDS dataset of blocks: one example holds many rows, column by column.

A row that is a record of its own is read some hundred times slower than a row of a block, since every record is decoded in
Python. The dataset is read back without this module: `tfds.builder_from_directory(DIR).as_data_source(split)`.

What an example holds, for a block of n rows:
  - a scalar column as (n,) values; a list column as its (N,) values laid end to end, with `<column>_lengths`, (n,) int32. List
    columns declared parallel have one lengths feature, named after the first of them.
  - strings as codes into the names that `metadata.json` lists under "names", or, where none are given, as text (UTF-8 bytes).
  - nulls as the fill values that `metadata.json` lists under "fills": -1 for integers and codes, false for booleans, empty for
    text; NaN for floats. A null list reads as an empty one.
  - `first_row`: the place of its first row in the split, so that a shard in another's place is noticed.
"""

import abc
import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer, naming
from tensorflow_datasets.core.dataset_builder import BuilderConfig

from data_gen.columnar import FIRST_ROW, ColumnCodec, blocks, codecs, lengths_name
from unisc.errors import InputError
from unisc.files import new_directory

ROWS_PER_BLOCK = 256
BLOCKS_PER_SHARD = 1024
"""Of a dataset whose number of shards is not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of one split, in the order they are to be stored: how many, and a function that gives them piece by piece."""

    num_rows: int
    batches: Callable[[], Iterable[pa.RecordBatch]]

    @classmethod
    def of(cls, table: pa.Table) -> "Rows":
        """Take a table that is in memory."""
        return cls(num_rows=table.num_rows, batches=lambda: table.to_batches(max_chunksize=65_536))


@dataclass(eq=False, kw_only=True)
class BlockConfig(BuilderConfig):
    """One table: its columns, and how those that NumPy has no type for are stored.

    `names` gives the values of each string column that is stored as codes, `fills` the fill values of nulls where they differ
    from the usual ones. `parallel` are groups of list columns whose lists have equal lengths, row by row. `homepage` and
    `licence` are those of the data.
    """

    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fills: Mapping[str, int | float | bool] = field(default_factory=dict)
    parallel: tuple[tuple[str, ...], ...] = ()
    homepage: str | None = None
    licence: str | None = None


class BlockBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of builders of block records. A subclass has a configuration for each table and gives that table's splits as `Rows`.

    Rows keep their order on disk. `num_shards` holds for every split, less where a split has fewer blocks.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        data_dir: Path | str | None = None,
        config: BlockConfig | str | None = None,
        version: str | None = None,
        rows_per_block: int = ROWS_PER_BLOCK,
        num_shards: int | None = None,
    ):
        for name, value in (("rows_per_block", rows_per_block), ("num_shards", num_shards)):
            if value is not None and value < 1:
                raise InputError(f"{name} {value}: give at least 1")
        self.rows_per_block, self.num_shards = rows_per_block, num_shards
        super().__init__(data_dir=data_dir, config=config, version=version, file_format="array_record")

    @abc.abstractmethod
    def rows(self) -> Mapping[str, Rows]:
        """Return the splits of `self.table`; called once, when the dataset is made."""

    @property
    def table(self) -> BlockConfig:
        """The table this builder writes."""
        assert isinstance(self.builder_config, BlockConfig)
        return self.builder_config

    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        if isinstance(builder_config, BlockConfig):  # the library warns of one that is not in BUILDER_CONFIGS, at length
            return builder_config
        return super()._create_builder_config(builder_config, version)

    def _codecs(self) -> list[ColumnCodec]:
        table = self.table
        return codecs(table.schema, names=table.names, fills=table.fills, parallel=table.parallel)

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {FIRST_ROW: np.int64}
        for codec in self._codecs():
            features |= codec.features()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.table.description or "",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                rows_per_block=self.rows_per_block,
                columns={f.name: str(f.type) for f in self.table.schema},
                names={name: list(values) for name, values in self.table.names.items()},
                fills={c.name: c.fill for c in self._codecs() if not isinstance(c.fill, float)},
                lengths={c.name: lengths_name(c.anchor) for c in self._codecs() if c.anchor},
            ),
            homepage=self.table.homepage,
            license=self.table.licence,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        return {name: self._generate_examples(rows) for name, rows in self.rows().items()}

    def _generate_examples(self, rows: Rows) -> Iterator[tuple[int, dict[str, Any]]]:
        columns, place = self._codecs(), 0
        for block in blocks(rows.batches(), self.table.schema, self.rows_per_block):
            example: dict[str, Any] = {FIRST_ROW: place}
            for codec in columns:
                codec.encode(block, example, place)
            yield place // self.rows_per_block, example
            place += block.num_rows
        if place != rows.num_rows:
            raise InputError(f"{self.name}: {rows.num_rows} rows were declared and {place} came; the source changed meanwhile")

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Write the shards as the examples come.

        The library's own writer holds a split's records in memory, and beyond 1000 MiB asks for TensorFlow.
        """
        del download_config
        splits, sizes = [], {}
        rows = self.rows()
        for name, some in rows.items():
            template = naming.ShardedFileTemplate(
                data_dir=self.data_path, dataset_name=self.name, split=name, filetype_suffix="array_record"
            )
            shard_lengths, num_bytes = self._write_split(self._generate_examples(some), some.num_rows, template)
            splits.append(
                tfds.core.SplitInfo(name=name, shard_lengths=shard_lengths, num_bytes=num_bytes, filename_template=template)
            )
            sizes[name] = some.num_rows
        self.info.metadata["num_rows"] = sizes
        self.info.set_splits(tfds.core.splits.SplitDict(splits))

    def _write_split(
        self, examples: Iterator[tuple[int, dict[str, Any]]], num_rows: int, template: naming.ShardedFileTemplate
    ) -> tuple[list[int], int]:
        num_blocks = max(1, -(-num_rows // self.rows_per_block))
        num_shards = min(num_blocks, self.num_shards or -(-num_blocks // BLOCKS_PER_SHARD))
        features = self.info.features
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
        lengths, num_bytes = [], 0
        for shard in range(num_shards):
            length = num_blocks * (shard + 1) // num_shards - num_blocks * shard // num_shards
            path = template.sharded_filepath(shard_index=shard, num_shards=num_shards)
            writer = ArrayRecordWriter(str(path), "group_size:1")
            try:
                for _ in range(length):
                    example = serializer.get_tf_example(features.encode_example(next(examples)[1]))
                    record = example.SerializeToString(deterministic=True)  # else each process orders the columns its own way
                    writer.write(record)
                    num_bytes += len(record)
            finally:
                writer.close()
            lengths.append(length)
        if next(examples, None) is not None:
            raise InputError(f"{self.name}: more rows came than the {num_rows} declared; the source changed meanwhile")
        return lengths, num_bytes


def write_blocks(make: Callable[[Path], BlockBuilder], out: Path) -> None:
    """Write a builder's dataset into the new directory `out`, whole or not at all; `make` takes the builder's `data_dir`.

    Raises:
      InputError: `out` is there already or cannot be written; rows that break their declaration.
    """
    with new_directory(out) as aside:
        prepare(make, aside)


def prepare(make: Callable[[Path], BlockBuilder], directory: Path) -> BlockBuilder:
    """Write a builder's dataset into a directory that exists and is empty, the library's folders above it left out."""
    work = Path(tempfile.mkdtemp(prefix=".tfds-", dir=directory))
    try:
        tfds.disable_progress_bar()
        builder = make(work)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format="array_record")
        for file in Path(builder.data_dir).iterdir():
            file.rename(directory / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return builder
