"""Samples as memory-mapped columns: encoded once per samples directory, then shared by every process that trains on them.

The cache lies beside the samples as `<samples>.columns/<key>/`, outside what their manifest covers. The key names the samples'
fingerprint and the encoding's version, so a cache is never read for other data. It is built in a temporary folder and renamed
into place whole: processes that race for it see a complete cache or none.
"""

import contextlib
import dataclasses
import fcntl
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int8, Int32, Int64

from unisc.data import manifest
from unisc.data.chunk import Chunk
from unisc.data.encode import ENCODING_VERSION, TASKS, Catalog, Encoder, Layout, check_columns
from unisc.data.features import FeatureSpec, Field, NumericField, Table
from unisc.data.survey import SURVEYED, Survey
from unisc.errors import InputError

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
ROWS_PER_CHUNK = 8192
SPEC = "spec.json"
WORK_PREFIX = ".building-"
STALE_SECS = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Q requests with N candidates and H history entries between them, laid end to end.

    Field columns hold rows of the fused table, in the order of `spec.at(level)`; label columns follow `spec.tasks`. A history
    runs from the most recent entry back. `cache` is the folder the arrays are mapped from.
    """

    spec: FeatureSpec
    cache: Path
    request_id: Int64[np.ndarray, " Q"]
    user_id: Int32[np.ndarray, " Q"]
    ts: Int64[np.ndarray, " Q"]
    domain: Int8[np.ndarray, " Q"]
    candidate_offsets: Int64[np.ndarray, " Q1"]
    history_offsets: Int64[np.ndarray, " Q1"]
    request_fields: Int32[np.ndarray, "Q Mr"]
    candidate_fields: Int32[np.ndarray, "N Mc"]
    history_fields: Int32[np.ndarray, "H Mh"]
    candidate_numeric: Float32[np.ndarray, "N Pc"]
    item_id: Int32[np.ndarray, " N"]
    exposed: Bool[np.ndarray, " N"]
    labels: Int8[np.ndarray, "N tasks"]
    label_weights: Float32[np.ndarray, "N tasks"]

    @property
    def num_requests(self) -> int:
        """Requests in this split, or in the part of it taken."""
        return len(self.request_id)

    @property
    def num_examples(self) -> int:
        """Candidates of those requests, counted."""
        return int(self.candidate_offsets[-1] - self.candidate_offsets[0]) if self.num_requests else 0

    def first(self, num_requests: int) -> "Columns":
        """Keep the first requests; rows lie in hash order, so smaller parts are nested in larger ones."""
        q = min(num_requests, self.num_requests)
        n, h = int(self.candidate_offsets[q]), int(self.history_offsets[q])
        ends = {"Q": q, "Q1": q + 1, "N": n, "H": h}
        parts = {name: getattr(self, name)[: ends[axis]] for name, (axis, _) in _ARRAYS.items()}
        return dataclasses.replace(self, **parts)

    def only(self, requests: Bool[np.ndarray, " Q"]) -> "Columns":
        """Keep the requests that a mask says, in their order; unlike `first`, this copies."""
        parts = {}
        for axis, offsets in (("N", self.candidate_offsets), ("H", self.history_offsets)):
            lengths = np.diff(offsets)
            rows = np.repeat(requests, lengths)
            inner = {name: getattr(self, name)[: len(rows)][rows] for name, (a, _) in _ARRAYS.items() if a == axis}
            name = "candidate_offsets" if axis == "N" else "history_offsets"
            parts |= inner | {name: np.concatenate([[0], np.cumsum(lengths[requests])])}
        parts |= {name: getattr(self, name)[requests] for name, (axis, _) in _ARRAYS.items() if axis == "Q"}
        return dataclasses.replace(self, **parts)


_ARRAYS: dict[str, tuple[str, Any]] = {
    "request_id": ("Q", np.int64),
    "user_id": ("Q", np.int32),
    "ts": ("Q", np.int64),
    "domain": ("Q", np.int8),
    "candidate_offsets": ("Q1", np.int64),
    "history_offsets": ("Q1", np.int64),
    "request_fields": ("Q", np.int32),
    "candidate_fields": ("N", np.int32),
    "history_fields": ("H", np.int32),
    "candidate_numeric": ("N", np.float32),
    "item_id": ("N", np.int32),
    "exposed": ("N", np.bool_),
    "labels": ("N", np.int8),
    "label_weights": ("N", np.float32),
}
"""Leading axis and type of every cached array."""


def load(samples: Path, split: Split, *, history_len: int, fraction: float = 1.0) -> Columns:
    """Map a split's columns, building the cache first if this is the first time the samples are read.

    `history_len` is how many of a request's history entries a batch will hold. `fraction` takes the first share of the
    requests in their stored (hash) order, so that a smaller fraction is a subset of a larger one.

    Raises:
      InputError: no samples there, columns that do not fit their declaration, an empty split, or no room for the cache.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction} of the {split} split: give a number above 0 and at most 1")
    if history_len < 0:
        raise InputError(f"history_len {history_len}: give at least 0")
    cache = ensure_cache(samples)
    spec = dataclasses.replace(_spec_from_json(json.loads((cache / SPEC).read_text())), history_len=history_len)
    # A plain view: indexing through the memmap class itself costs microseconds a time.
    arrays = {name: np.asarray(np.load(cache / split / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
    columns = Columns(spec=spec, cache=cache, **arrays)
    if columns.num_examples == 0:
        raise InputError(f"{samples / split}: no candidates; make the samples again from more days or requests")
    return columns.first(max(1, round(fraction * columns.num_requests)))


def ensure_cache(samples: Path) -> Path:
    """Return the folder of encoded columns, building it if no process has yet.

    Raises:
      InputError: as `load`.
    """
    info = manifest.read(samples, kind="samples")
    parent = samples.with_name(samples.name + ".columns")
    target = parent / f"{info['fingerprint']}-v{ENCODING_VERSION}"
    if target.is_dir():
        return target
    try:
        parent.mkdir(exist_ok=True)
        with _exclusive(parent / "lock"):
            if not target.is_dir():
                _build(samples, tuple(info["domains"]), target)
    except OSError as e:
        raise InputError(f"{parent}: cannot write the column cache ({e.strerror or e}); free space or fix permissions") from e
    return target


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a file lock, so that one process builds while the others wait; the system frees it if the holder dies."""
    with path.open("w") as f:
        with contextlib.suppress(OSError):  # a file system without locks costs double work, not correctness
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _build(samples: Path, domains: tuple[str, ...], target: Path) -> None:
    for stale in target.parent.iterdir():  # what an earlier edition of the samples, or a builder that was killed, left behind
        old = time.time() - stale.stat().st_mtime > STALE_SECS
        if stale.is_dir() and (old or not stale.name.startswith(WORK_PREFIX)):
            shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=WORK_PREFIX))
    try:
        encoder = Encoder(*_survey(samples), domains)
        for split in SPLITS:
            (work / split).mkdir()
            _encode_split(encoder, samples / split, work / split, domains)
        (work / SPEC).write_text(json.dumps(dataclasses.asdict(encoder.spec)))
        work.chmod(0o755)
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():  # else another process, on a file system without locks, was first
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _survey(samples: Path) -> tuple[Catalog, Layout]:
    catalog, survey = Catalog(samples), Survey(numbers_of(samples))
    for split in SPLITS:
        for chunk in read_chunks(samples / split, SURVEYED):
            survey.add(chunk, split)
    return catalog, survey.layout(catalog)


def numbers_of(samples: Path) -> tuple[str, ...]:
    """Return the names of the numbers that the samples' candidates have beside the declared columns.

    Raises:
      InputError: two files do not have the same ones; as `read_chunks`.
    """
    found: dict[tuple[str, ...], Path] = {}
    for split in SPLITS:
        for file in _files(samples / split):
            with _readable(file):
                found.setdefault(check_columns(pq.read_schema(file), file), file)
    (numbers, first), *others = found.items()
    if others:
        words = " and ".join(", ".join(names) or "none" for names in (numbers, others[0][0]))
        raise InputError(f"{others[0][1]}: has other numbers than {first} ({words}); make the samples again")
    return numbers


def read_chunks(directory: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a split's rows in their stored order, some thousands at a time.

    Raises:
      InputError: no files, columns that do not fit their declaration, or a file that is damaged.
    """
    for file in _files(directory):
        with _readable(file), pq.ParquetFile(file) as reader:
            check_columns(reader.schema_arrow, file)
            yield from reader.iter_batches(ROWS_PER_CHUNK, columns=columns and list(columns), use_threads=False)


def _files(directory: Path) -> list[Path]:
    files = sorted(directory.glob("*.parquet"))
    if not files:
        raise InputError(f"{directory}: no Parquet files; make the samples again")
    return files


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{file}: cannot be read ({first_line(e)}); make the samples again") from e


def first_line(error: Exception) -> str:
    """Return what an error of another library says, in one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


class _Writer:
    """Appends rows to an .npy file whose length is not known beforehand."""

    def __init__(self, path: Path, dtype: Any):
        self._file, self._dtype = path.open("w+b"), np.dtype(dtype)
        self._num_rows, self._row_shape = 0, ()

    def append(self, rows: np.ndarray) -> None:
        if self._num_rows == 0:
            self._row_shape = rows.shape[1:]
            self._file.seek(0)
            self._write_header()
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._num_rows += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()  # numpy leaves room in a header for the first axis to grow, so it fits where the first one was
        self._file.close()

    def _write_header(self) -> None:
        shape = (self._num_rows, *self._row_shape)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


def _encode_split(encoder: Encoder, source: Path, target: Path, domains: tuple[str, ...]) -> None:
    with contextlib.ExitStack() as stack:
        writers = {}
        for name, (_, dtype) in _ARRAYS.items():
            writers[name] = _Writer(target / f"{name}.npy", dtype)
            stack.callback(writers[name].close)
        writers["candidate_offsets"].append(np.zeros(1))
        writers["history_offsets"].append(np.zeros(1))
        num_candidates = num_history = 0
        for rows in read_chunks(source):
            arrays = encode(encoder, Chunk(rows, domains, source))
            ends = {"candidate_offsets": num_candidates, "history_offsets": num_history}
            for name, values in arrays.items():
                writers[name].append(values[1:] + ends[name] if name in ends else values)
            num_candidates += int(arrays["candidate_offsets"][-1])
            num_history += int(arrays["history_offsets"][-1])


def encode(encoder: Encoder, chunk: Chunk) -> dict[str, np.ndarray]:
    """Return a chunk as the arrays of `Columns`, by name; offsets count from 0.

    Raises:
      InputError: a label other than 0 and 1, a weight that is negative or no number, an id that its table does not hold, and
        what a chunk raises as it is read.
    """
    n, h = int(chunk.candidate_offsets[-1]), int(chunk.history_offsets[-1])
    labels = np.stack([chunk.flat(task) for task in TASKS], axis=1)
    weights = np.stack([chunk.flat(f"{task}_weight") for task in TASKS], axis=1)
    for kind, values, most in (("", labels, 1), ("_weight", weights, np.finfo(np.float32).max)):
        if values.size and not (values.min() >= 0 and values.max() <= most):  # no number compares false
            place, task = np.argwhere(~((values >= 0) & (values <= most)))[0]
            wrong = "is negative or not a number" if kind else "is neither 0 nor 1"
            raise chunk.fault(f"{TASKS[task]}{kind} {values[place, task]}", chunk.request_at("candidate", int(place)), wrong)
    arrays = {
        "request_id": chunk.request("request_id"),
        "user_id": chunk.request("user_id"),
        "ts": chunk.request("ts"),
        "domain": chunk.domain,
        "candidate_offsets": chunk.candidate_offsets,
        "history_offsets": chunk.history_offsets,
        "request_fields": encoder.ids(chunk, "request", chunk.num_requests),
        "candidate_fields": encoder.ids(chunk, "candidate", n),
        "history_fields": encoder.ids(chunk, "history", h),
        "candidate_numeric": encoder.numeric(chunk, n),
        "item_id": chunk.item_id,
        "exposed": chunk.flat("exposed"),
        "labels": labels,
        "label_weights": weights,
    }
    return {name: np.ascontiguousarray(values, _ARRAYS[name][1]) for name, values in arrays.items()}


def _spec_from_json(text: dict[str, Any]) -> FeatureSpec:
    return FeatureSpec(
        tables=tuple(Table(**t) for t in text["tables"]),
        fields=tuple(Field(**f) for f in text["fields"]),
        numeric=tuple(NumericField(**f) for f in text["numeric"]),
        domains=tuple(text["domains"]),
        tasks=tuple(text["tasks"]),
        history_len=text["history_len"],
    )
