"""Machines by name: what a worker gets there, what it costs and how fast it is, read from `sweeps/profiles.toml`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unisc.codec import nearest
from unisc.config import from_plain, to_plain
from unisc.errors import InputError

PLATFORMS = ("cpu", "cuda", "tpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """One kind of machine, as a worker of a sweep sees it. The tables of an engine are handed to it as they stand."""

    platform: str
    """what JAX calls the devices: cpu, cuda or tpu"""
    device: str
    """the devices' name, for people and for node selectors, such as h100"""
    devices_per_worker: int = 1
    """devices, or cores of a CPU, that a worker has"""
    hosts_per_worker: int = 1
    """machines that train one run together"""
    cores_per_host: int = 1
    memory_gib_per_host: float = 4.0
    peak_tflops: float = 0.1
    """what a device could do"""
    utilisation: float = 0.3
    """the share of it that training is assumed to reach until finished runs tell better"""
    price_per_device_hour: float = 0.0
    minutes: int = 240
    """wall time an engine grants a worker before it is asked again"""
    image: str = ""
    """container image, for engines that run containers"""
    slurm: Mapping[str, str] = field(default_factory=dict)
    ray: Mapping[str, float] = field(default_factory=dict)
    kubernetes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.platform not in PLATFORMS:
            raise ValueError(f"platform {self.platform!r} is not one JAX runs on; give one of {', '.join(PLATFORMS)}")
        for name in ("devices_per_worker", "hosts_per_worker", "cores_per_host", "minutes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is fewer than 1; give 1 or more")
        if self.devices_per_worker % self.hosts_per_worker:
            raise ValueError(
                f"devices_per_worker: {self.devices_per_worker} cannot be shared out evenly to {self.hosts_per_worker} hosts; "
                f"give a multiple of hosts_per_worker"
            )

    @property
    def devices_per_host(self) -> int:
        """Accelerators a host of the worker has; 0 where the devices are the CPU's cores."""
        return 0 if self.platform == "cpu" else self.devices_per_worker // self.hosts_per_worker

    @property
    def cores(self) -> int:
        """Cores a host of the worker has."""
        if self.platform == "cpu":
            return max(self.cores_per_host, self.devices_per_worker // self.hosts_per_worker)
        return self.cores_per_host


def read_profiles(path: Path) -> dict[str, Profile]:
    """Return the profiles of a TOML file by name.

    Raises:
      InputError: no such file, not TOML, or a profile with an unknown key or a wrong value, named.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: no readable profiles ({e}); give a TOML file of one table a machine") from e
    given = to_plain(Profile(platform="cpu", device="cpu"))
    needed = ("platform", "device")
    for name, table in tables.items():
        for key in needed:
            if key not in table:
                raise InputError(f"{path}: profile {name!r} has no {key}; give one")
    found = {}
    for name, table in tables.items():
        try:
            found[name] = from_plain(Profile, {**given, **table})
        except InputError as e:
            raise InputError(f"{path}: profile {name!r}: {e}") from e
    return found


def profile_named(name: str, path: Path) -> Profile:
    """Return one profile. Raises InputError where there is none of that name; the nearest is named."""
    profiles = read_profiles(path)
    if name not in profiles:
        raise InputError(f"profile {name!r}: not in {path}{nearest(name, profiles)}")
    return profiles[name]
