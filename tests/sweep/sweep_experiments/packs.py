"""Listens for the order to stop, and can be trained as one program; leaves the same lines as `tiny`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep_experiments.tiny import note
from unisc.config import Runtime
from unisc.errors import InputError, Stopped

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """`width` must be the same in a pack; `steps` of 0.05 s are gone on with where a stop has left them."""

    index: int
    width: int = 1
    steps: int = 1


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Step on, and save the step when told to stop."""
    saved = Path(runtime.work_dir) / "step"
    begun = int(saved.read_text()) if saved.exists() else 0
    note(runtime, f"start {config.index} {begun}")
    for step in range(begun, config.steps):
        if runtime.should_stop():
            saved.write_text(str(step))
            raise Stopped
        time.sleep(0.05)
    return {"metrics": {"index": float(config.index)}, "counts": {"resumed_at": begun, "together": 1}}


def run_packed(configs: Sequence[Config], runtimes: Sequence[Runtime]) -> list[Mapping[str, Any] | Exception]:
    """Return the runs' results together; index 13 fails by itself."""
    if len({config.width for config in configs}) > 1:
        raise InputError("width: differs in a pack")
    note(runtimes[0], f"pack {'+'.join(str(config.index) for config in configs)}")
    return [
        ValueError("unlucky")
        if config.index == 13
        else {"metrics": {"index": float(config.index)}, "counts": {"resumed_at": 0, "together": len(configs)}}
        for config in configs
    ]
