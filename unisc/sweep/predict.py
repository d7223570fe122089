"""What a sweep will take on a machine: by its profile until runs have finished, then by what they took."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unisc.errors import InputError
from unisc.sweep.budget import Calibration
from unisc.sweep.plan import Run
from unisc.sweep.profile import Profile

START_SECS = 10.0
"""What a profile is assumed to need for importing, tracing and compiling a run, in which it computes nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One run of a plan. `basis` says where its hours are from: taken (it is done), runs that are, or the profile alone."""

    label: str
    fingerprint: str
    state: str
    num_params: int | None
    num_examples: int | None
    train_flops: float | None
    device_hours: float | None
    cost: float | None
    basis: Literal["taken", "runs", "profile", "nothing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """A plan's points, and the device-hours spent and left; `num_unknown` of those left could not be predicted."""

    points: Sequence[Point]
    spent_hours: float
    left_hours: float
    num_unknown: int
    cost: float

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return dataclasses.asdict(self)

    def check(self, max_device_hours: float | None) -> None:
        """Raise InputError where the sweep is predicted to need more than a limit, or has spent it already."""
        if max_device_hours is None:
            return
        if not max_device_hours > 0:
            raise InputError(f"--max-device-hours {max_device_hours:g}: must be more than 0; leave it out for no limit")
        limit, spent = f"--max-device-hours {max_device_hours:g}", f"{self.spent_hours:.3g} spent"
        if self.left_hours and self.spent_hours >= max_device_hours:
            raise InputError(f"{limit}: {spent} already, and runs are left; raise it")
        if self.spent_hours + self.left_hours > max_device_hours:
            raise InputError(f"{limit}: {spent} and {self.left_hours:.3g} predicted are more; raise it, or plan less")


def forecast(
    runs: Sequence[Run], profile: Profile, *, finished: Mapping[str, float], states: Mapping[str, str] | None = None
) -> Forecast:
    """Predict a plan on a profile. `finished` are the seconds that done runs took, by fingerprint; `states` of the others.

    A worker's device-hours count all its devices, cores on a CPU, whether they are busy or not: that is what is paid.
    """
    devices = profile.devices_per_worker
    calibration = Calibration.fit((run, finished[run.fingerprint]) for run in runs if run.fingerprint in finished)
    rate = profile.peak_tflops * 1e12 * profile.utilisation * devices
    points = []
    for run in runs:
        basis: Literal["taken", "runs", "profile", "nothing"]
        if run.fingerprint in finished:
            secs, basis = finished[run.fingerprint], "taken"
        elif calibration.secs_per_unit is not None:
            secs, basis = calibration.predict_secs(run), "runs"
        elif run.train_flops is not None:
            secs, basis = run.train_flops / rate + START_SECS, "profile"
        else:
            secs, basis = None, "nothing"
        hours = None if secs is None else secs * devices / 3600
        points.append(
            Point(
                label=run.label,
                fingerprint=run.fingerprint,
                state="done" if basis == "taken" else (states or {}).get(run.fingerprint, "pending"),
                num_params=run.num_params,
                num_examples=run.num_examples,
                train_flops=run.train_flops,
                device_hours=hours,
                cost=None if hours is None else hours * profile.price_per_device_hour,
                basis=basis,
            )
        )
    spent = sum(p.device_hours or 0.0 for p in points if p.state == "done")
    left = sum(p.device_hours or 0.0 for p in points if p.state != "done")
    return Forecast(
        points=points,
        spent_hours=spent,
        left_hours=left,
        num_unknown=sum(p.device_hours is None for p in points),
        cost=(spent + left) * profile.price_per_device_hour,
    )
