"""`unisc sweep ...`: plan, run, status, retry, cancel, export, gc. All state is in the sweep's folder or store."""

import importlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unisc.config import Runtime
from unisc.errors import InputError
from unisc.files import dumps, make_folder
from unisc.sweep import curves, show
from unisc.sweep.board import CANCELLED
from unisc.sweep.file import SweepFile
from unisc.sweep.gc import collect
from unisc.sweep.plan import Run, read_plan, write_plan
from unisc.sweep.predict import Forecast, forecast
from unisc.sweep.profile import Profile, profile_named
from unisc.sweep.record import forgive, read_records
from unisc.sweep.settings import NAME as SETTINGS
from unisc.sweep.settings import Settings, truth_of, write_settings
from unisc.sweep.status import Monitor
from unisc.sweep.store import Store, store_of

EXIT_FAILED = 1
EXIT_UNFINISHED = 3
LAUNCHERS = {"local": "local", "slurm": "slurm", "ray": "ray", "kubernetes": "manifest"}
PACK_LIMIT = 8
"""Runs that are trained as one program on an accelerator, at most."""

File = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="sweep file, like sweeps/uniscale.py")]
Dir = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="the folder that was given as --out")]


@dataclass(frozen=True, slots=True)
class _Planned:
    file: SweepFile
    runs: list[Run]
    profile: Profile
    folder: Path
    """of the sweep's logs, work and settings"""
    store: Store
    forecast: Forecast


def _plan(file: Path, preset: str, out: Path, profile: str, profiles: Path | None, store: str) -> _Planned:
    """Load a sweep file, make its data, and predict its runs on a profile."""
    found = profile_named(profile, profiles or file.parent / "profiles.toml")
    sweep = SweepFile.load(file)
    folder = make_folder(out.absolute() / "sweep")
    truth = store_of(store) if store else truth_of(folder)
    sweep.claim(truth, preset)
    sweep.prepare(out.absolute(), preset)
    runs = sweep.runs(out.absolute(), preset)
    monitor = Monitor(folder, runs, _store=truth)
    monitor.look()
    states = {fingerprint: status["state"] for fingerprint, status in monitor.statuses.items()}
    predicted = forecast(runs, found, finished=monitor.finished, states=states)
    return _Planned(file=sweep, runs=runs, profile=found, folder=folder, store=truth, forecast=predicted)


def plan(
    file: File,
    /,
    preset: str,
    out: Path,
    profile: str = "local",
    profiles: Path | None = None,
    store: str = "",
    max_device_hours: float | None = None,
    json: bool = False,
) -> None:
    """List every point of a sweep with what it will take and cost, what is done already, and the total.

    Args:
        file: sweep file.
        preset: which of the file's presets.
        out: folder of the data and the sweep; data that are missing are made.
        profile: machine, by its name in the profiles.
        profiles: TOML file of machines; profiles.toml beside the sweep file if not given.
        store: URL of an object store for the truth, like s3://bucket/name; the folder itself if not given.
        max_device_hours: refuse a plan that is predicted to need more, what is spent included.
        json: print JSON in place of the table.
    """
    planned = _plan(file, preset, out, profile, profiles, store)
    write_plan(planned.store, planned.runs, prefixes=planned.file.prefixes)
    if json:
        sys.stdout.write(dumps(planned.forecast.to_plain()))
    else:
        show.forecast(planned.forecast, profile, planned.profile)
    planned.forecast.check(max_device_hours)


def run(
    file: File,
    /,
    preset: str,
    out: Path,
    launcher: Literal["local", "slurm", "ray", "kubernetes"] = "local",
    profile: str = "local",
    profiles: Path | None = None,
    store: str = "",
    workers: int = 0,
    max_device_hours: float | None = None,
    max_attempts: int = 2,
    checkpoint_every_steps: int = 2000,
    tensorboard: bool = False,
    keep_models: bool = False,
) -> None:
    """Run what is not yet done of a sweep; typed again it continues, and from elsewhere it helps. Nothing is run twice.

    Args:
        file: sweep file.
        preset: which of the file's presets.
        out: folder of the data and the sweep; data that are missing are made.
        launcher: what starts the workers: this machine, Slurm, Ray, or manifests for Kubernetes.
        profile: machine, by its name in the profiles.
        profiles: TOML file of machines; profiles.toml beside the sweep file if not given.
        store: URL of an object store for the truth, like s3://bucket/name; the folder itself if not given.
        workers: how many workers; 0 for as many as are best on this machine, or one elsewhere.
        max_device_hours: device-hours of the whole sweep, over all workers and calls; none starts that goes beyond.
        max_attempts: failures of a run after which it is given up.
        checkpoint_every_steps: how much a killed worker may lose; one that is told to stop loses nothing.
        keep_models: leave every trained model in its run's folder, for `unisc ab` and the like.
        tensorboard: with the local launcher, write curves for TensorBoard into the sweep's folder as runs go on.
    """
    if workers < 0:
        raise InputError(f"--workers {workers}: must be 0 (as many as are best) or more")
    planned = _plan(file, preset, out, profile, profiles, store)
    planned.forecast.check(max_device_hours)
    engine = _engine(launcher)
    machine, data_dir = planned.profile, planned.file.data_dir(out.absolute(), preset)
    on_cpu = machine.platform == "cpu"
    runtime = Runtime(
        work_dir=str(planned.folder),
        data_dir=str(data_dir),
        num_threads=machine.devices_per_worker if on_cpu else machine.cores_per_host,
        checkpoint_every_steps=checkpoint_every_steps,
        keep_model=keep_models,
    )
    options: dict[str, Any] = {
        "store": planned.store.show() if "://" in planned.store.show() else "",
        "max_attempts": max_attempts,
        "max_device_hours": max_device_hours,
        "devices_per_worker": machine.devices_per_worker,
        "hosts_per_worker": machine.hosts_per_worker,
        "platform": "" if on_cpu else machine.platform,
        "pack_limit": 1 if on_cpu or machine.hosts_per_worker > 1 else PACK_LIMIT,
    }
    planned.store.remove(CANCELLED)
    prefixes = planned.file.prefixes
    if launcher == "local":
        follow = curves.follower(planned.folder, planned.runs) if tensorboard else None
        engine.run_sweep(
            planned.runs,
            planned.folder,
            runtime=runtime,
            workers=workers or None,
            title=file.stem,
            prefixes=prefixes,
            follow=follow,
            **options,
        )
        _finish(planned.folder)
        return
    number = workers or 1
    write_plan(planned.store, planned.runs, prefixes=prefixes)
    forgive(planned.store, planned.runs)
    make_folder(planned.folder / "runs")
    settings = Settings(sweep_dir=str(planned.folder), runtime=runtime, num_workers=number, prefixes=prefixes, **options)
    write_settings(settings)
    for each in engine.submit(planned.folder, workers=number, profile=machine):
        sys.stdout.write(f"{each}\n")


def _engine(launcher: str) -> Any:
    name = LAUNCHERS[launcher]
    try:
        return importlib.import_module(f"unisc.sweep.launch.{name}")
    except ModuleNotFoundError as e:
        if e.name == f"unisc.sweep.launch.{name}":
            raise InputError(f"--launcher {launcher}: not in this installation; the local one always is") from e
        raise InputError(f"--launcher {launcher}: needs {e.name}; install unisc[{launcher}]") from e


def _folder(directory: Path) -> Path:
    """Return the sweep's own folder, which is `sweep` in what was given as --out, or that folder itself."""
    inner = directory.absolute() / "sweep"
    return inner if (inner / SETTINGS).exists() or (inner / "plan.jsonl").exists() else directory.absolute()


def status(directory: Dir, /, json: bool = False, watch: bool = False, tensorboard: bool = False) -> None:
    """Say how a sweep stands. Exit status: 0 all done, 1 over with failed runs, 3 not over.

    Args:
        directory: folder of the sweep.
        json: print JSON in place of the table.
        watch: show it live until the sweep is over.
        tensorboard: write the runs' curves for TensorBoard into the sweep's folder, live with --watch.
    """
    folder = _folder(directory)
    monitor = Monitor(folder, read_plan(truth_of(folder), verify=False))
    follow = curves.follower(folder, monitor.runs) if tensorboard else None
    if json:
        sys.stdout.write(dumps(show.plain(monitor, monitor.look())))
    else:
        with show.live(watch) as draw:
            while True:
                now = monitor.look()
                draw(monitor, now)
                if follow is not None:
                    follow()
                if not watch or not (now.running or now.pending):
                    break
                time.sleep(1.0)
    _finish(folder, monitor)


def _finish(folder: Path, monitor: Monitor | None = None) -> None:
    monitor = monitor or Monitor(folder, read_plan(truth_of(folder), verify=False))
    now = monitor.look()
    if now.running or now.pending:
        sys.exit(EXIT_UNFINISHED)
    if now.failed:
        sys.exit(EXIT_FAILED)


def retry(directory: Dir, /) -> None:
    """Give failed runs their attempts anew; workers that are there take them, and `sweep run` starts others.

    Args:
        directory: folder of the sweep.
    """
    store = truth_of(_folder(directory))
    runs = read_plan(store)
    store.remove(CANCELLED)
    forgiven = forgive(store, runs)
    sys.stdout.writelines(f"{run.label}\n" for run in forgiven)
    sys.stdout.write(f"{len(forgiven)} of {len(runs)} runs have their attempts anew\n")


def cancel(directory: Dir, /) -> None:
    """Call a sweep off: its workers, wherever they are, save what they can and end. `sweep run` takes it up again.

    Args:
        directory: folder of the sweep.
    """
    store = truth_of(_folder(directory))
    read_plan(store)
    store.replace(CANCELLED, json.dumps({"cancelled": True}) + "\n", durable=True)
    sys.stdout.write("cancelled: workers end within their heartbeat; sweep run takes it up again\n")


def export(directory: Dir, /, out: Path) -> None:
    """Write all records as one Parquet table, a row a run, a column a dotted key.

    Args:
        directory: folder of the sweep.
        out: the file.
    """
    from unisc.sweep.table import write_table

    records = read_records(truth_of(_folder(directory)))
    if not records:
        raise InputError(f"{directory}: no run is done yet, so nothing to export; see unisc sweep status")
    make_folder(out.absolute().parent)
    sys.stdout.write(f"{write_table(records, out)}: {len(records)} runs\n")


def gc(directory: Dir, /, dry_run: bool = False) -> None:
    """Remove what finished runs no longer need: checkpoints, traces, claims, half-written files. Records and logs stay.

    Args:
        directory: folder of the sweep.
        dry_run: only say what would go.
    """
    folder = _folder(directory)
    store = truth_of(folder)
    num_bytes, names = collect(folder, store, read_plan(store), dry_run=dry_run)
    sys.stdout.writelines(f"{name}\n" for name in names if dry_run)
    sys.stdout.write(f"{len(names)} {'would go' if dry_run else 'removed'}, {num_bytes / 2**20:.1f} MiB\n")


COMMANDS = {"plan": plan, "run": run, "status": status, "retry": retry, "cancel": cancel, "export": export, "gc": gc}


def main(args: list[str]) -> None:
    """Run one of the commands; raises InputError for a user's mistake."""
    tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="unisc sweep", description=__doc__, args=args)
