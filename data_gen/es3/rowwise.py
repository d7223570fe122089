"""The row-wise form of samples, one row a candidate, and the label table that anybody's SQL can check."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unisc.data import manifest
from unisc.data.schema import SAMPLES
from unisc.errors import InputError

_LISTS = tuple(f for f in SAMPLES if pa.types.is_list(f.type) and not f.name.startswith("history_"))
_PLAIN = tuple(f for f in SAMPLES if f not in _LISTS)

SAMPLE_ROWS = pa.schema([*_PLAIN, *(pa.field(f.name, f.type.value_type) for f in _LISTS)])
"""SAMPLES with one row a candidate: user, query and history repeated in each, as most click logs are stored."""

LABELS = pa.schema(
    [
        ("split", pa.string()),  # "train" or "test"
        ("request_id", pa.int64()),
        ("user_id", pa.int32()),
        ("item_id", pa.int32()),
        ("domain", pa.string()),  # of the request
        ("exposed", pa.bool_()),
        ("kind", pa.string()),  # "click" or "purchase"
        ("label", pa.int8()),
        ("level", pa.int8()),  # 0 none, 1 on the request's own page, 2.. preference order of the attribution rule
        ("origin", pa.string()),  # domain of the source event, null if none
        ("source_event_ts", pa.int64()),  # with user_id, item_id, kind and origin it names the event; null if none
        ("weight", pa.float32()),
        ("probability", pa.float32()),
    ]
)
"""Two rows a candidate, one a kind of label."""

_CHUNK = 4096


def explode(samples: pa.Table) -> pa.Table:
    """Turn list-wise rows into SAMPLE_ROWS."""
    lists = samples["item_id"].combine_chunks()
    row = np.repeat(np.arange(len(samples)), lists.value_lengths().to_numpy(zero_copy_only=False))
    repeated = samples.select([f.name for f in _PLAIN]).take(pa.array(row))
    columns = [*repeated.columns, *(samples[f.name].combine_chunks().flatten() for f in _LISTS)]
    return pa.table(columns, schema=SAMPLE_ROWS)


def export_labels(samples: Path, out: Path) -> int:
    """Write every label of a samples directory as LABELS into one Parquet file; return the number of rows.

    Raises:
      InputError: no list-wise samples there, or `out` exists or cannot be written.
    """
    about = manifest.read(samples, kind="samples")
    if out.exists():
        raise InputError(f"{out}: already exists; remove it or give another file")
    num_rows = 0
    part = out.with_name(out.name + ".part")
    try:
        with pq.ParquetWriter(part, LABELS, compression="zstd") as writer:
            for split in ("train", "test"):
                for table in _labels(samples / split, split, about["domains"]):
                    writer.write_table(table)
                    num_rows += len(table)
        part.replace(out)
    except OSError as e:
        raise InputError(f"{e.filename or out}: {e.strerror or e}; check that the folder is writable and has space") from e
    finally:
        part.unlink(missing_ok=True)
    return num_rows


def _labels(directory: Path, split: str, domains: list[str]) -> Iterator[pa.Table]:
    names = pa.array(domains, pa.string())
    for file in sorted(directory.glob("*.parquet")):
        with pq.ParquetFile(file) as reader:
            for batch in reader.iter_batches(_CHUNK):
                rows = explode(pa.Table.from_batches([batch]))
                for kind in ("click", "purchase"):
                    origin = rows[f"{kind}_origin"].to_numpy()
                    ts = rows[f"{kind}_ts"].to_numpy()
                    none = origin < 0
                    yield pa.table(
                        {
                            "split": pa.repeat(split, len(rows)),
                            **{n: rows[n] for n in ("request_id", "user_id", "item_id", "domain", "exposed")},
                            "kind": pa.repeat(kind, len(rows)),
                            "label": rows[kind],
                            "level": rows[f"{kind}_level"],
                            "origin": names.take(pa.array(origin, pa.int32(), mask=none)),
                            "source_event_ts": pa.array(ts, mask=none),
                            "weight": rows[f"{kind}_weight"],
                            "probability": rows["probability"],
                        },
                        schema=LABELS,
                    )
