"""What all workers of a sweep are told: `settings.json` in its folder, where every launcher's workers find it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from unisc.config import Runtime, from_json, to_json
from unisc.errors import InputError
from unisc.files import write_atomic
from unisc.sweep.plan import DEFAULT_PREFIXES
from unisc.sweep.store import Store, store_of

NAME = "settings.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a sweep is worked on; none of it changes a number.

    `store` is the URL of an object store that holds the truth, where that is not the folder itself; logs and checkpoints stay
    in the folder. `parent_pid` names a process whose end is the worker's, if there is one.
    """

    sweep_dir: str
    runtime: Runtime
    store: str = ""
    num_workers: int = 1
    prefixes: tuple[str, ...] = DEFAULT_PREFIXES
    max_attempts: int = 2
    """failures of a run after which it is given up"""
    backoff_secs: float = 1.0
    """wait before a failed run's second attempt; it doubles each time"""
    max_takeovers: int = 20
    """workers that died with a run, killed or their machine lost, after which it is given up"""
    max_hours: float | None = None
    """wall-clock hours of a worker"""
    max_device_hours: float | None = None
    """hours of all devices, over all workers and calls"""
    devices_per_worker: int = 1
    hosts_per_worker: int = 1
    """machines that train one run together: one is the worker, the others follow it (`unisc.sweep.group`)"""
    platform: str = ""
    """what JAX must find, cpu, cuda or tpu; empty for anything"""
    pack_limit: int = 1
    """runs of one compile key that a worker claims as a set and trains as one program"""
    heartbeat_secs: float = 5.0
    stale_secs: float = 60.0
    save_secs: float = 20.0
    """what a run has to save itself in when the worker is told to stop"""
    parent_pid: int | None = None

    @property
    def truth(self) -> Store:
        """The store of the sweep's truth."""
        return store_of(self.store or Path(self.sweep_dir))


def write_settings(settings: Settings) -> Path:
    """Write a sweep's settings into its folder; return the file's path."""
    path = Path(settings.sweep_dir) / NAME
    write_atomic(path, to_json(settings) + "\n")
    return path


def read_settings(sweep_dir: Path) -> Settings:
    """Return the settings of a sweep's folder, wherever that is mounted here.

    Raises:
      InputError: no settings there, or settings that another version has written.
    """
    path = sweep_dir / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise InputError(f"{sweep_dir}: no readable {NAME}, so nothing to work on; give the folder of a sweep") from e
    try:
        return dataclasses.replace(from_json(Settings, text), sweep_dir=str(sweep_dir))
    except InputError as e:
        raise InputError(f"{path}: {e}; type the command that started the sweep again") from e


def truth_of(sweep_dir: Path) -> Store:
    """Return the store of a sweep's truth: what its settings name, or the folder itself where there are none yet."""
    return read_settings(sweep_dir).truth if (sweep_dir / NAME).exists() else store_of(sweep_dir)
