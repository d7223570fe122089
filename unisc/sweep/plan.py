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
from unisc.files import dumps, read_object, write_atomic

SCHEMA = 1
"""Version of everything a sweep directory holds; bumped by hand when its layout changes."""
NAME = "plan.jsonl"
DEFAULT_PREFIXES = ("experiments.",)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One planned run: an experiment module's name and version, and a configuration in plain form.

    `cost` is the predicted work in any unit that grows with time (see `budget.cost_units`); runs that share a `compile_key`
    are known to reuse each other's compiled programs. Neither is part of the identity.
    """

    experiment: str
    version: int
    config: Mapping[str, Any]
    cost: float
    label: str
    compile_key: str
    fingerprint: str

    @classmethod
    def of(cls, experiment: ModuleType, config: Any, *, cost: float, label: str, compile_key: str = "") -> "Run":
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


def write_plan(sweep_dir: Path, runs: Iterable[Run], *, prefixes: Sequence[str] = DEFAULT_PREFIXES) -> list[Run]:
    """Write `plan.jsonl` atomically and return its runs, later repeats of a fingerprint left out.

    Raises:
      InputError: no runs, a module outside the allowed prefixes, or a directory that another version has written.
    """
    planned: dict[str, Run] = {}
    for run in runs:
        planned.setdefault(run.fingerprint, run)
    ordered = list(planned.values())
    if not ordered:
        raise InputError(f"{sweep_dir}: the sweep has no runs; widen its grid")
    for name in sorted({run.experiment for run in ordered}):
        check_module(name, prefixes)
    check_directory(sweep_dir, ordered)
    text = "".join(dumps({"schema": SCHEMA, **dataclasses.asdict(run)}) for run in ordered)
    write_atomic(sweep_dir / NAME, text)
    return ordered


def read_plan(sweep_dir: Path) -> list[Run]:
    """Return the runs of a sweep directory's plan.

    Raises:
      InputError: no plan, a line that is not a run, another schema, or a configuration that does not hash to its fingerprint.
    """
    path = sweep_dir / NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise InputError(f"{sweep_dir}: no readable {NAME}, so not a sweep directory; give another folder") from e
    runs = []
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            schema = fields.pop("schema")
            run = Run(**fields) if schema == SCHEMA else None
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise InputError(f"{path}: line {number} is not a run of a plan; remove the file and plan again") from e
        if run is None:
            raise InputError(f"{path}: {_other_schema(schema)}")
        if run.fingerprint != run_fingerprint(run.experiment, run.version, run.config):
            raise InputError(f"{path}: line {number} does not hash to {run.fingerprint}; remove the file and plan again")
        runs.append(run)
    return runs


def run_folder(sweep_dir: Path, fingerprint: str) -> Path:
    """Return the folder that holds everything about one run."""
    return sweep_dir / "runs" / fingerprint


def check_description(folder: Path, run: Run | None = None) -> dict[str, Any] | None:
    """Return a run folder's `config.json` after checking that it belongs there; None where there is none yet.

    Raises:
      InputError: another schema, a configuration that does not hash to the folder's name, or, given `run`, another run.
    """
    path = folder / "config.json"
    if not path.exists():
        return None
    found = read_object(path)
    if found is None:
        raise InputError(f"{path}: not readable JSON; move {folder} aside and run the sweep again")
    if found.get("schema") != SCHEMA:
        raise InputError(f"{path}: {_other_schema(found.get('schema'))}")
    try:
        actual = run_fingerprint(found["experiment"], found["version"], found["config"])
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{path}: not the description of a run; move {folder} aside and run the sweep again") from e
    if actual != folder.name or (run is not None and canonical(found) != canonical(run.description)):
        raise InputError(f"{path}: hashes to {actual}, not to its folder; move {folder} aside and run the sweep again")
    return found


def check_directory(sweep_dir: Path, runs: Sequence[Run]) -> None:
    """Raise InputError where a sweep directory holds runs of another schema or of another VERSION of these experiments.

    Runs that are merely not in the plan are kept and ignored: a grid may grow and shrink.
    """
    versions = {run.experiment: run.version for run in runs}
    if (sweep_dir / NAME).exists():
        read_plan(sweep_dir)
    folders = sweep_dir / "runs"
    for folder in sorted(folders.iterdir()) if folders.is_dir() else ():
        found = check_description(folder) if folder.is_dir() else None
        if found and found["version"] != versions.get(found["experiment"], found["version"]):
            raise InputError(
                f"{folder}: written by version {found['version']} of {found['experiment']}, this is version "
                f"{versions[found['experiment']]}; give another folder or move {sweep_dir} aside"
            )


def _other_schema(schema: object) -> str:
    return f"written by schema version {schema!r}, this program reads {SCHEMA}; give another folder or move this one aside"
