"""From log tables to finished sample directories: intake, shared facts, one bucket of users at a time, merge."""

import contextlib
import dataclasses
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.es3 import quality
from data_gen.es3.candidates import CLICK, TARGET
from data_gen.es3.catalogue import copy_part
from data_gen.es3.compose import prepare, view
from data_gen.es3.config import ES3Config, parse_bytes
from data_gen.es3.listwise import merge_split, pack_bucket
from data_gen.es3.session import ENGINES, DuckDB, Engine, Session
from data_gen.es3.shared import read_facts, read_shared, write_shared
from data_gen.es3.tables import Header, Logs, intake, open_logs, read_header, read_quarantine
from data_gen.es3.workplace import Workplace, workplace
from unisc.data import manifest
from unisc.data.schema import COMPOSITIONS, LOG_TABLES, SAMPLES
from unisc.errors import InputError

VERSION = 1
"""Raised by hand when a build's units change their form, so that none made by older code is continued."""

_COPIED = ("items", "users", "queries")
_BYTES_A_CANDIDATE = 700
"""What a candidate takes while its bucket is worked on, measured; decides how many buckets there are, never what they hold."""

Say = Callable[[str], object]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Where and with what a build runs; none of it changes the samples.

    `buckets` None: as many as keep one within `memory`. `max_quarantine` is the share of a table that may break its schema
    before the build stops.
    """

    engine: str = "duckdb"
    master: str | None = None
    threads: int | None = None
    memory: str = "4GiB"
    buckets: int | None = None
    max_quarantine: float = 0.05

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"engine {self.engine!r}: unknown; give one of {', '.join(ENGINES)}")
        if self.master is not None and self.engine != "spark":
            raise InputError(f"master {self.master!r}: only engine spark has one; add --engine spark")
        if self.buckets is not None and not 1 <= self.buckets <= 10_000:
            raise InputError(f"buckets {self.buckets}: out of range; give 1 to 10000")
        if not 0 <= self.max_quarantine <= 1:
            raise InputError(f"max_quarantine {self.max_quarantine}: give a share from 0 to 1")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads {self.threads}: give at least 1")
        parse_bytes(self.memory)

    def start(self) -> Engine:
        """Start the engine. Raises InputError if it cannot be."""
        memory = parse_bytes(self.memory)
        if self.engine == "duckdb":
            return DuckDB(threads=self.threads, memory=memory)
        from data_gen.es3.spark import Spark  # PySpark is an extra

        return Spark(master=self.master, threads=self.threads, memory=memory)

    def num_buckets(self, num_candidates: int) -> int:
        """Buckets of users to work on one after the other."""
        return self.buckets or max(1, -(-num_candidates * _BYTES_A_CANDIDATE // parse_bytes(self.memory)))


def build(
    logs: Path, out: Path, config: ES3Config, *, rows: bool = False, say: Say = lambda _: None, **resources: Any
) -> dict[str, Any]:
    """Build the samples of one composition into a new directory; return its manifest.

    `resources` are fields of Resources; `rows` writes one row a candidate instead of one a request. A build that was killed
    continues where it was when it is called again with the same arguments.

    Raises:
      InputError: logs that break their schema, a test or train split without clicks, an output folder that holds something or
        cannot be written, too little memory, an engine that cannot start. Nothing that was there before is touched.
    """
    outs = {config.composition: out}
    return _build(logs, outs, out.name, config, Resources(**resources), rows=rows, say=say)[config.composition]


def build_all(
    logs: Path,
    out_root: Path,
    config: ES3Config,
    compositions: Sequence[str] = COMPOSITIONS,
    *,
    say: Say = lambda _: None,
    **resources: Any,
) -> dict[str, dict[str, Any]]:
    """Build several compositions into `out_root/<composition>`, sharing the work; return their manifests.

    Each directory is the same, byte for byte, as `build` makes with that composition; `config.composition` is ignored.
    """
    for name in compositions:
        dataclasses.replace(config, composition=name)
    largest = max(compositions, key=COMPOSITIONS.index)
    outs = {name: out_root / name for name in compositions}
    config = dataclasses.replace(config, composition=largest)
    return _build(logs, outs, "all", config, Resources(**resources), rows=False, say=say)


def _build(
    directory: Path, outs: Mapping[str, Path], name: str, config: ES3Config, resources: Resources, *, rows: bool, say: Say
) -> dict[str, dict[str, Any]]:
    parent = next(iter(outs.values())).parent
    with _disk_errors(parent):
        header = read_header(directory)
        identity = {"version": VERSION, "config": dataclasses.asdict(config), "logs": header.fingerprint, "rows": rows}
        identity |= {"outs": sorted(outs), "engine": resources.engine}
        identity["buckets"] = buckets = resources.num_buckets(header.num_candidates)
        finished = {n: made for n, out in outs.items() if (made := _finished(out, identity["logs"], config, n, rows))}
        if len(finished) == len(outs):
            taken = next(iter(outs.values()))
            raise InputError(f"{taken}: already exists; remove it or give another output folder")
        with workplace(parent, name, identity) as place:
            for n, out in outs.items():
                if out.exists() and (not out.is_dir() or any(out.iterdir())) and n not in finished:
                    raise InputError(f"{out}: already exists; remove it or give another output folder")
            with contextlib.closing(resources.start()) as engine, engine.errors(parent):
                _work(engine, place, header, config, resources, list(outs), buckets, say)
            for n, out in outs.items():
                if n not in finished:
                    finished[n] = _finish(engine, place, header, dataclasses.replace(config, composition=n), buckets, out, rows)
    return {n: finished[n] for n in outs}


def _work(
    engine: Engine,
    place: Workplace,
    header: Header,
    config: ES3Config,
    resources: Resources,
    compositions: Sequence[str],
    buckets: int,
    say: Say,
) -> None:
    """Make the units: `intake`, `shared`, and one for each bucket of users."""

    def take_in(out: Path) -> None:
        say(f"intake of {header.num_candidates:,} candidates")
        with place.scratch() as scratch, contextlib.closing(engine.open(scratch)) as session:
            intake(session, header, out, buckets=buckets, max_quarantine=resources.max_quarantine)

    def share(out: Path) -> None:
        say("facts that cross users")
        with place.scratch() as scratch, contextlib.closing(engine.open(scratch)) as session:
            logs = open_logs(session, header, intaken)
            _check_positives(session, logs)
            write_shared(session, logs, config, out)

    intaken = place.unit("intake", take_in)
    shared = place.unit("shared", share)
    for bucket in range(buckets):

        def pack(out: Path, bucket: int = bucket) -> None:
            say(f"users, part {bucket + 1} of {buckets}")
            with place.scratch() as scratch, contextlib.closing(engine.open(scratch)) as session:
                logs = open_logs(session, header, intaken, bucket)
                facts = read_shared(session, shared)
                material = prepare(session, logs, facts, config)
                pq.write_table(quality.measure(session, logs, material), out / "stats.parquet")
                sizes = {"domains": logs.domains, "history_len": config.history_len, "history_max_age": config.history_max_age}
                test = material.test_candidates.mutate(probability=ibis.literal(1.0, "float32"))
                pack_bucket(session, out / "test", material.test_requests, test, material.timeline, **sizes)
                for name in compositions:
                    view_of = view(material, COMPOSITIONS.index(name))
                    pack_bucket(session, out / name, *view_of, material.timeline, **sizes)

        place.unit(f"bucket-{bucket:05d}", pack)


def _check_positives(session: Session, logs: Logs) -> None:
    """Raise InputError if a split has no request or no click: nothing could be trained or measured."""
    target = logs.requests.filter(logs.requests.domain == TARGET)
    pages = target.select(page="request_id", test="test")
    shown = logs.candidates.inner_join(pages, logs.candidates.request_id == pages.page)
    shown = shown.filter(shown.test | shown.exposed).select("request_id", "item_id", "test")
    clicks = logs.events.filter((logs.events.kind == CLICK) & (logs.events.domain == TARGET)).select(
        "request_id", "item_id", "ts"
    )
    clicked = shown.inner_join(clicks, ["request_id", "item_id"])
    clicked = clicked.filter(clicked.test | (clicked.ts < logs.test_start))
    for name, is_test in (("test", True), ("train", False)):
        missing = None
        if not session.first(shown.filter(shown.test == is_test)):
            missing = "requests"
        elif not session.first(clicked.filter(clicked.test == is_test)):
            missing = "positives (clicks)"
        if missing:
            side = "at or after" if is_test else "before"
            raise InputError(
                f"{logs.directory}: the {name} split ({logs.domains[0]} requests {side} test_start {logs.test_start}) "
                f"has no {missing}; move test_start or give longer logs"
            )


def _finish(
    engine: Engine, place: Workplace, header: Header, config: ES3Config, buckets: int, out: Path, rows: bool
) -> dict[str, Any]:
    """Merge the buckets of one composition into its directory and move it into place."""
    units = [place.root / f"bucket-{bucket:05d}" for bucket in range(buckets)]
    stats = quality.merge([pq.read_table(unit / "stats.parquet") for unit in units])
    made: dict[str, Any] = {}

    def fill(aside: Path) -> None:
        merge_split([unit / config.composition for unit in units], aside / "train", rows=rows)
        merge_split([unit / "test" for unit in units], aside / "test", rows=rows)
        quarantine = read_quarantine(place.root / "intake")
        pq.write_table(quarantine, aside / "quarantine.parquet")
        for name in _COPIED:
            (aside / name).mkdir()
            for file in sorted((header.directory / name).glob("part-*.parquet")):
                copy_part(file, aside / name / file.name, LOG_TABLES[name])
        report = quality.summarise(
            stats, header=header, config=config, quarantine=quarantine, shared=read_facts(place.root / "shared")
        )
        made.update(
            manifest.write(
                aside,
                kind="rows" if rows else "samples",
                config={**dataclasses.asdict(config), "logs": header.fingerprint},
                counts=report.pop("counts"),
                domains=list(header.domains),
                composition=config.composition,
                logs=header.fingerprint,
                test_start=header.test_start,
                columns={f.name: str(f.type) for f in SAMPLES},
                engine=engine.name,
                versions={
                    "python": platform.python_version(),
                    "ibis": ibis.__version__,
                    "pyarrow": pa.__version__,
                    **engine.versions(),
                },
                quality=report,
            )
        )

    unit = place.unit(f"out-{config.composition}", fill)
    unit.rename(out)
    return made or json.loads((out / manifest.NAME).read_text())


def _finished(out: Path, logs: str, config: ES3Config, composition: str, rows: bool) -> dict[str, Any] | None:
    """Return the manifest of an output that an earlier call, killed before its end, has put into place."""
    if not (out / manifest.NAME).is_file():
        return None
    made = manifest.read(out, kind="rows" if rows else "samples")
    wanted = {**dataclasses.asdict(dataclasses.replace(config, composition=composition)), "logs": logs}
    return made if made["config"] == wanted else None


@contextlib.contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise InputError(f"{e.filename or root}: {e.strerror or e}; check that the folder is writable and has space") from e


__all__ = ["Resources", "build", "build_all"]
