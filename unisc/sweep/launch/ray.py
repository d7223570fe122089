"""Ray: one detached actor a worker, on a running cluster, KubeRay's too. Ray places the actors and moves them off lost nodes.

An actor keeps one worker going as a process of its own, from its constructor on, so that an actor that Ray has begun again
elsewhere resumes by itself, whoever submitted it being long gone. It takes itself away when nothing is left to do.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unisc.errors import InputError
from unisc.files import make_folder
from unisc.sweep import worker as work
from unisc.sweep.launch.environment import check_workers, environment, name_of
from unisc.sweep.launch.supervise import STOP_SECS, supervise
from unisc.sweep.profile import Profile

NAMESPACE = "unisc"
CONNECT_SECS = 5.0
RESOURCES = {"cuda": "GPU", "tpu": "TPU"}


def submit(
    sweep_dir: Path, *, workers: int, profile: Profile, address: str | None = None, is_growing: bool = False
) -> list[str]:
    """Start workers on the cluster at `address` (by default RAY_ADDRESS, or one on this machine); return their actors' names.

    The profile's `ray` table names further resources, as `ray start --resources` gives them to nodes. Workers that find no room
    wait until there is some; with `is_growing`, also for nodes of a kind that an autoscaler has yet to add. Submitting again
    adds helpers.

    Raises:
      InputError: fewer than one worker, Ray not installed, no cluster there, or no node of it with the devices of the profile.
    """
    check_workers(workers)
    if profile.hosts_per_worker > 1:
        raise InputError("profile: hosts_per_worker is more than 1, which Ray workers do not span; give the manifest launcher")
    sweep_dir = make_folder(Path(sweep_dir).absolute())
    ray = connect(address)
    wanted = {"CPU": float(profile.cores), **{name: float(count) for name, count in profile.ray.items()}}
    if profile.devices_per_host:
        wanted[RESOURCES[profile.platform]] = float(profile.devices_per_host)
    if not is_growing:
        _check_room(ray, wanted)
    rest = {name: count for name, count in wanted.items() if name not in ("CPU", "GPU")}
    options = {
        "lifetime": "detached",
        "max_restarts": -1,
        "max_concurrency": 2,
        "num_cpus": wanted["CPU"],
        "num_gpus": wanted.get("GPU", 0.0),
        "resources": rest,
        "memory": round(profile.memory_gib_per_host * 2**30),
    }
    names = [f"unisc-{name_of(sweep_dir)}-{secrets.token_hex(3)}-{number}" for number in range(workers)]
    actor = ray.remote(Keeper)
    for name in names:
        actor.options(name=name, **options).remote(str(sweep_dir), profile.cores, profile.platform, name)
    return names


def alive(ids: Sequence[str], *, address: str | None = None) -> list[str]:
    """Return those of the actors that wait for room or run."""
    ray = connect(address)
    return [name for name in ids if _actor(ray, name) is not None]


def cancel(ids: Sequence[str], *, address: str | None = None) -> None:
    """End workers: each releases what it has; one that does not answer is killed."""
    ray = connect(address)
    found = {name: actor for name in ids if (actor := _actor(ray, name)) is not None}
    asked = [actor.stop.remote() for actor in found.values()]
    deadline = time.monotonic() + STOP_SECS
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=CONNECT_SECS)  # one that has found no room cannot answer
    answering = {name for name, done in zip(found, asked, strict=True) if ray.wait([done], timeout=0)[0]}
    while time.monotonic() < deadline and any(_actor(ray, name) is not None for name in answering):
        time.sleep(0.1)
    for name in found:
        if (actor := _actor(ray, name)) is not None:
            ray.kill(actor, no_restart=True)


def connect(address: str | None = None) -> Any:
    """Join the cluster, unless this process has joined one already, and return the `ray` module."""
    try:
        import ray
    except ModuleNotFoundError as e:
        raise InputError("ray: not installed; type pip install unisc[ray]") from e
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    remedy = "start one with ray start --head, or set RAY_ADDRESS to one"
    if address not in ("auto", "local"):
        _check_listens(address, remedy)
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise InputError(f"ray: no cluster at {address} ({' '.join(str(e).split())[:120]}); {remedy}") from e
    return ray


class Keeper:
    """The actor: keeps one worker going, and takes itself away once that has ended for good."""

    def __init__(self, sweep_dir: str, num_threads: int, platform: str, name: str) -> None:
        self.is_stopping = False
        self.thread = threading.Thread(target=self._keep, args=(Path(sweep_dir), num_threads, platform, name), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Tell the worker to release what it has and end."""
        self.is_stopping = True

    def _keep(self, sweep_dir: Path, num_threads: int, platform: str, name: str) -> None:
        import ray

        log = make_folder(sweep_dir / "ray") / f"{name}.txt"
        env = environment(sweep_dir, num_threads, platform=platform)
        code = work.EXIT_INTERRUPTED
        with log.open("ab") as output:
            # A worker that somebody else told to stop is a preempted one: as long as the actor has its place, begin again.
            while code == work.EXIT_INTERRUPTED and not self.is_stopping:
                code = supervise(sweep_dir, env=env, is_stopping=lambda: self.is_stopping, output=output)
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def _actor(ray: Any, name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def _check_room(ray: Any, wanted: dict[str, float]) -> None:
    """Refuse what no node could ever give: Ray would wait for it in silence."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, count in wanted.items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most < count:
            raise InputError(
                f"ray: the profile wants {count:g} {name} a worker and the largest node has {most:g}; give a profile that fits"
            )


def _check_listens(address: str, remedy: str) -> None:
    """Refuse an address at once where nobody listens; Ray itself would try for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECS).close()
    except (OSError, ValueError) as e:
        raise InputError(f"ray: no cluster at {address} ({e}); {remedy}") from e
