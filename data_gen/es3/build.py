"""From log tables to finished sample directories: read, compose, write aside, move into place."""

import contextlib
import dataclasses
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.es3 import quality
from data_gen.es3.compose import Material, prepare, view
from data_gen.es3.config import ES3Config, parse_bytes
from data_gen.es3.listwise import write_split
from data_gen.es3.session import Session, engine_errors
from data_gen.es3.tables import QUARANTINE, Logs, read_logs
from unisc.data import manifest
from unisc.data.schema import COMPOSITIONS, SAMPLES
from unisc.errors import InputError

_COPIED = ("items", "users", "queries")


def build(logs: Path, out: Path, config: ES3Config, *, threads: int | None = None, memory: str = "4GiB") -> dict[str, Any]:
    """Build the samples of one composition into a new directory; return its manifest.

    Raises:
      InputError: logs that break their schema, a test or train split without clicks, an output folder that holds something or
        cannot be written, or too little memory. Nothing that was there before is touched.
    """
    return _build(logs, {config.composition: out}, config, threads=threads, memory=memory)[config.composition]


def build_all(
    logs: Path,
    out_root: Path,
    config: ES3Config,
    compositions: Sequence[str] = COMPOSITIONS,
    *,
    threads: int | None = None,
    memory: str = "4GiB",
) -> dict[str, dict[str, Any]]:
    """Build several compositions into `out_root/<composition>`, sharing the work; return their manifests.

    Each directory is the same, byte for byte, as `build` makes with that composition; `config.composition` is ignored.
    """
    for name in compositions:
        dataclasses.replace(config, composition=name)
    largest = max(compositions, key=COMPOSITIONS.index)
    outs = {name: out_root / name for name in compositions}
    return _build(logs, outs, dataclasses.replace(config, composition=largest), threads=threads, memory=memory)


def _build(
    directory: Path, outs: Mapping[str, Path], config: ES3Config, *, threads: int | None, memory: str
) -> dict[str, dict[str, Any]]:
    allowance = parse_bytes(memory)
    for out in outs.values():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: already exists; remove it or give another output folder")
    root = next(iter(outs.values())).parent
    manifests = {}
    with engine_errors(allowance, root), _aside(root) as aside:
        (aside / "work").mkdir()
        session = Session(aside / "work", threads=threads, memory=allowance)
        try:
            logs = read_logs(session, directory)
            material = prepare(session, logs, config)
            quality.check_positives(session, logs, material)
            _write_shared(session, logs, material, aside / "shared", config)
            for name, out in outs.items():
                manifests[name] = _write(session, logs, material, aside, dataclasses.replace(config, composition=name))
                (aside / name).rename(out)
        finally:
            session.close()
    return manifests


@contextlib.contextmanager
def _aside(root: Path) -> Iterator[Path]:
    root.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".es3-", dir=root))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_shared(session: Session, logs: Logs, material: Material, directory: Path, config: ES3Config) -> None:
    """Write what is the same in every composition: test split, quarantine, catalogue tables."""
    test = material.test_candidates.mutate(probability=ibis.literal(1.0, "float32"))
    write_split(
        session,
        directory / "test",
        material.test_requests,
        test,
        material.timeline,
        domains=logs.domains,
        history_len=config.history_len,
    )
    aside = session.fetch(logs.quarantine.order_by(QUARANTINE.names))
    pq.write_table(pa.table(aside.columns, names=aside.column_names).cast(QUARANTINE), directory / "quarantine.parquet")
    for name in _COPIED:
        (directory / name).mkdir()
        for file in sorted((logs.directory / name).glob("part-*.parquet")):
            shutil.copyfile(file, directory / name / file.name)


def _write(session: Session, logs: Logs, material: Material, aside: Path, config: ES3Config) -> dict[str, Any]:
    out = aside / config.composition
    shutil.copytree(aside / "shared", out, copy_function=shutil.copyfile)
    requests, candidates = view(material, config.stage)
    write_split(
        session,
        out / "train",
        requests,
        candidates,
        material.timeline,
        domains=logs.domains,
        history_len=config.history_len,
    )
    report = quality.measure(session, logs, material, config.stage)
    return manifest.write(
        out,
        kind="samples",
        config={**dataclasses.asdict(config), "logs": logs.fingerprint},
        counts=report.pop("counts"),
        domains=list(logs.domains),
        composition=config.composition,
        logs=logs.fingerprint,
        test_start=logs.test_start,
        columns={f.name: str(f.type) for f in SAMPLES},
        engine="duckdb",
        versions={
            "python": platform.python_version(),
            "duckdb": duckdb.__version__,
            "ibis": ibis.__version__,
            "pyarrow": pa.__version__,
        },
        quality=report,
    )
