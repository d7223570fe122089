"""The plan: what a sweep will run. One line a run in `plan.jsonl`, readable without the experiments' code."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from unisc.config import canonical, fingerprint_plain, to_plain
from unisc.errors import InputError
from unisc.files import dumps, object_in
from unisc.sweep.store import Store, store_of

SCHEMA = 1
"""Version of everything a sweep directory holds; bumped by hand when its layout changes."""
NAME = "plan.jsonl"
DEFAULT_PREFIXES = ("experiments.",)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One planned run: an experiment module's name and version, and a configuration in plain form.

    `cost` is the predicted work in any unit that grows with time (see `budget.cost_units`); runs that share a `compile_key`
    are known to reuse each other's compiled programs, and with `packs` may be trained as one (`run_packed` of the experiment).
    The sizes, where known, are for predictions. None of these is part of the identity.
    """

    experiment: str
    version: int
    config: Mapping[str, Any]
    cost: float
    label: str
    compile_key: str
    fingerprint: str
    num_params: int | None = None
    num_examples: int | None = None
    train_flops: float | None = None
    packs: bool = False

    @classmethod
    def of(
        cls,
        experiment: ModuleType,
        config: Any,
        *,
        cost: float,
        label: str,
        compile_key: str = "",
        num_params: int | None = None,
        num_examples: int | None = None,
        train_flops: float | None = None,
    ) -> "Run":
        """Return the run of an imported experiment module with one of its configurations.

        Raises:
          InputError: the configuration is not of the module's `Config` class, has no canonical form, or the cost is negative.
        """
        expected, version = getattr(experiment, "Config", None), getattr(experiment, "VERSION", None)
        if not isinstance(expected, type) or not isinstance(version, int):
            raise InputError(f"{experiment.__name__}: not an experiment; it needs Config, an integer VERSION and run()")
        if type(config) is not expected:
            raise InputError(f"{experiment.__name__}: runs its own Config, not a {type(config).__name__}")
        if not 0 <= cost < float("inf"):
            raise InputError(f"{label}: predicted cost {cost!r} is not a finite number of at least 0")
        plain = to_plain(config)
        return cls(
            experiment=experiment.__name__,
            version=version,
            config=plain,
            cost=float(cost),
            label=label,
            compile_key=compile_key,
            fingerprint=run_fingerprint(experiment.__name__, version, plain),
            num_params=num_params,
            num_examples=num_examples,
            train_flops=None if train_flops is None else float(train_flops),
            packs=hasattr(experiment, "run_packed"),
        )

    @property
    def description(self) -> dict[str, Any]:
        """The content of the run's `config.json`: what it is, and nothing of where or when."""
        return {
            "schema": SCHEMA,
            "experiment": self.experiment,
            "version": self.version,
            "config": dict(self.config),
            "fingerprint": self.fingerprint,
        }


def run_fingerprint(experiment: str, version: int, config: Mapping[str, Any]) -> str:
    """Return a run's identity from its experiment's name, that experiment's version and its plain configuration."""
    return fingerprint_plain(config, version=f"{experiment}@{version}")


def check_module(name: str, prefixes: Sequence[str] = DEFAULT_PREFIXES) -> None:
    """Raise InputError unless a module name is well formed and begins with one of the allowed prefixes."""
    if not _MODULE.fullmatch(name) or not any(name.startswith(p) for p in prefixes):
        raise InputError(f"{name!r}: not an allowed experiment module; its name must begin with {' or '.join(prefixes)}")


def write_plan(where: Store | Path, runs: Iterable[Run], *, prefixes: Sequence[str] = DEFAULT_PREFIXES) -> list[Run]:
    """Write `plan.jsonl` atomically and return its runs, later repeats of a fingerprint left out.

    Raises:
      InputError: no runs, a module outside the allowed prefixes, or a directory that another version has written.
    """
    store = store_of(where)
    planned: dict[str, Run] = {}
    for run in runs:
        planned.setdefault(run.fingerprint, run)
    ordered = list(planned.values())
    if not ordered:
        raise InputError(f"{store.show()}: the sweep has no runs; widen its grid")
    for name in sorted({run.experiment for run in ordered}):
        check_module(name, prefixes)
    check_directory(store, ordered)
    store.replace(NAME, "".join(dumps({"schema": SCHEMA, **_fields(run)}) for run in ordered), durable=True)
    return ordered


def read_plan(where: Store | Path, *, verify: bool = True) -> list[Run]:
    """Return the runs of a sweep directory's plan; who only looks need not `verify` that each hashes to its fingerprint.

    Raises:
      InputError: no plan, a line that is not a run, another schema, or a configuration that does not hash to its fingerprint.
    """
    store = store_of(where)
    path = store.show(NAME)
    try:
        lines = (store.read(NAME) or b"").decode().splitlines()
    except ValueError:
        lines = []
    if not lines:
        raise InputError(f"{store.show()}: no readable {NAME}, so not a sweep directory; give another folder")
    runs = []
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            schema = fields.pop("schema")
            run = Run(**fields) if schema == SCHEMA else None
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise InputError(f"{path}: line {number} is not a run of a plan; remove the file and plan again") from e
        if run is None:
            raise InputError(f"{path}: {other_schema(schema)}")
        if verify and run.fingerprint != run_fingerprint(run.experiment, run.version, run.config):
            raise InputError(f"{path}: line {number} does not hash to {run.fingerprint}; remove the file and plan again")
        runs.append(run)
    return runs


def run_folder(sweep_dir: Path, fingerprint: str) -> Path:
    """Return the folder of a run on this machine's disk: its log, its work, and its truth where that is in no other store."""
    return sweep_dir / "runs" / fingerprint


def run_store(where: Store | Path, fingerprint: str) -> Store:
    """Return the store of everything that is true about one run."""
    return store_of(where).at(f"runs/{fingerprint}")


def check_description(where: Store | Path, fingerprint: str, run: Run | None = None) -> dict[str, Any] | None:
    """Return a run's `config.json` after checking that it belongs there; None where there is none yet.

    Raises:
      InputError: another schema, a configuration that does not hash to the folder's name, or, given `run`, another run.
    """
    store = run_store(where, fingerprint)
    text = store.read("config.json")
    return None if text is None else _checked(text, store, fingerprint, run)


def _checked(text: bytes, store: Store, fingerprint: str, run: Run | None = None) -> dict[str, Any]:
    path, aside = store.show("config.json"), f"move {store.show()} aside and run the sweep again"
    found = object_in(text)
    if found is None:
        raise InputError(f"{path}: not readable JSON; {aside}")
    if found.get("schema") != SCHEMA:
        raise InputError(f"{path}: {other_schema(found.get('schema'))}")
    try:
        actual = run_fingerprint(found["experiment"], found["version"], found["config"])
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{path}: not the description of a run; {aside}") from e
    if actual != fingerprint or (run is not None and canonical(found) != canonical(run.description)):
        raise InputError(f"{path}: hashes to {actual}, not to its folder; {aside}")
    return found


def check_directory(where: Store | Path, runs: Sequence[Run]) -> None:
    """Raise InputError where a sweep directory holds runs of another schema or of another VERSION of these experiments.

    Runs that are merely not in the plan are kept and ignored: a grid may grow and shrink.
    """
    store = store_of(where)
    versions = {run.experiment: run.version for run in runs}
    if store.read(NAME) is not None:
        read_plan(store)
    fingerprints = store.names("runs")
    texts = store.read_many([f"runs/{fingerprint}/config.json" for fingerprint in fingerprints])
    for fingerprint, text in zip(fingerprints, texts, strict=True):
        folder = store.at(f"runs/{fingerprint}")
        found = None if text is None else _checked(text, folder, fingerprint)
        if found and found["version"] != versions.get(found["experiment"], found["version"]):
            raise InputError(
                f"{folder.show()}: written by version {found['version']} of {found['experiment']}, this is version "
                f"{versions[found['experiment']]}; give another folder or move {store.show()} aside"
            )


def other_schema(schema: object, known: int = SCHEMA) -> str:
    """Say what to do about a text of another schema."""
    remedy = (
        "update the program" if isinstance(schema, int) and schema > known else "give another folder or move this one aside"
    )
    return f"written by schema version {schema!r}, this program reads {known}; {remedy}"


def _fields(run: Run) -> dict[str, Any]:
    """A run as the plan's line has it: what is unknown is left out, so that older programs read it too."""
    return {name: value for name, value in dataclasses.asdict(run).items() if value is not None and value is not False}
