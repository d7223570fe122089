"""ES3 samples as a TFDS dataset of block records, with all a reader needs beside them.

A dataset directory holds the records of both splits in the samples' own (hash) order, so that a prefix is a random subset; the
item, user and query tables; `lengths/<split>.npy`, the candidates of each request, from which batches are planned before a
record is read; and a manifest with the checksum of every file, the samples' fingerprint, and the layout of the features.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.blocks import ROWS_PER_BLOCK, BlockBuilder, BlockConfig, Rows, prepare
from unisc.data import manifest
from unisc.data.blocks import CANDIDATE_LISTS, HISTORY_LISTS, LENGTHS, ORIGINS, TABLES
from unisc.data.columns import SPLITS, first_line, numbers_of, read_chunks
from unisc.data.encode import TASKS, Catalog
from unisc.data.schema import SAMPLES
from unisc.data.survey import Survey, layout_to_json
from unisc.errors import InputError
from unisc.files import new_directory


class Es3(BlockBuilder, skip_registration=True):
    """The samples of one composition: a row a request, splits train and test. The configuration has the composition's name."""

    def __init__(self, samples: Path, **options: Any):
        self.samples = samples
        self.source = manifest.read(samples, kind="samples", verify=True)
        if numbers := numbers_of(samples):
            raise InputError(f"{samples}: has {', '.join(numbers)}, which blocks have no place for; train from it as it is")
        self.survey = Survey()
        self.lengths: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        self.counts = {f"{split}_{what}": 0 for split in SPLITS for what in ("requests", "candidates", "history", *TASKS)}
        config = BlockConfig(
            name=self.source["composition"],
            description=f"ES3 samples {self.source['fingerprint']}, composition {self.source['composition']}: a row a request.",
            schema=SAMPLES,
            names={"domain": tuple(self.source["domains"]), "origin": ORIGINS},
            parallel=(HISTORY_LISTS, CANDIDATE_LISTS),
        )
        super().__init__(config=config, **options)

    def rows(self) -> Mapping[str, Rows]:
        """Return both splits; what their manifest says of them is counted as they go by."""
        return {
            split: Rows(num_rows=_num_rows(self.samples / split), batches=lambda split=split: self._counted(split))
            for split in SPLITS
        }

    def _counted(self, split: str) -> Iterator[pa.RecordBatch]:
        for rows in read_chunks(self.samples / split):
            self.survey.add(rows, split)
            lengths = rows.column("item_id").value_lengths().to_numpy(zero_copy_only=False).astype(np.int32)
            self.lengths[split].append(lengths)
            found = {"requests": len(lengths), "candidates": int(lengths.sum())}
            found["history"] = len(rows.column("history_item_id").flatten())
            found |= {task: int(rows.column(task).flatten().to_numpy(zero_copy_only=False).sum()) for task in TASKS}
            for what, count in found.items():
                self.counts[f"{split}_{what}"] += count
            yield rows


def write_dataset(
    samples: Path, out: Path, *, requests_per_block: int = ROWS_PER_BLOCK, num_shards: int | None = None
) -> dict[str, Any]:
    """Write the samples of one composition as the new TFDS dataset directory `out`; return its manifest.

    `num_shards` is per split, by default one for every 1024 blocks. Equal samples and arguments make equal bytes.

    Raises:
      InputError: no complete samples there, columns that break their declaration, `out` is there or cannot be written.
    """
    options = {"rows_per_block": requests_per_block, "num_shards": num_shards}
    with new_directory(out) as aside:
        builder = prepare(lambda data_dir: Es3(samples, data_dir=data_dir, **options), aside)
        assert isinstance(builder, Es3)
        for name in TABLES:
            (aside / name).mkdir()
            for file in sorted((samples / name).glob("*.parquet")):
                shutil.copyfile(file, aside / name / file.name)
        (aside / LENGTHS).mkdir()
        for split, parts in builder.lengths.items():
            np.save(aside / LENGTHS / f"{split}.npy", np.concatenate([np.zeros(0, np.int32), *parts]))
        source = builder.source
        return manifest.write(
            aside,
            kind="blocks",
            config={
                "samples": source["fingerprint"],
                "composition": source["composition"],
                "domains": source["domains"],
                "requests_per_block": requests_per_block,
                "layout": layout_to_json(builder.survey.layout(Catalog(samples))),
            },
            counts=builder.counts,
            test_start=source["test_start"],
        )


def _num_rows(directory: Path) -> int:
    try:
        return sum(pq.read_metadata(file).num_rows for file in sorted(directory.glob("*.parquet")))
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{directory}: a file cannot be read ({first_line(e)}); make the samples again") from e
