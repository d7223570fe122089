"""Tables of a sweep for the terminal: what it will take, and how it stands."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from unisc.sweep.predict import Forecast
from unisc.sweep.profile import Profile
from unisc.sweep.status import Monitor, Summary

MAX_ROWS = 60


def forecast(found: Forecast, name: str, profile: Profile) -> None:
    """Print a forecast: points, the longest first where there are many, and below them the total."""
    table = Table(box=None, pad_edge=False)
    for column in ("point", "state"):
        table.add_column(column, no_wrap=True)
    for column in ("parameters", "examples", "FLOPs", "device-hours", "cost", "from"):
        table.add_column(column, justify="right", no_wrap=True)
    points = list(found.points)
    if len(points) > MAX_ROWS:
        points = sorted(points, key=lambda point: -(point.device_hours or 0.0))[:MAX_ROWS]
    for point in points:
        numbers = (_whole(point.num_params), _whole(point.num_examples), _short(point.train_flops))
        table.add_row(escape(point.label), point.state, *numbers, _short(point.device_hours), _short(point.cost), point.basis)
    console = _console()
    console.print(table)
    if len(points) < len(found.points):
        console.print(f"and {len(found.points) - len(points)} shorter ones; --json has them all")
    done = sum(point.state == "done" for point in found.points)
    unknown = f", {found.num_unknown} points not predictable yet" if found.num_unknown else ""
    console.print(
        f"{len(found.points)} points, {done} done; on {name} ({profile.devices_per_worker} x "
        f"{profile.device} a worker) {found.spent_hours:.3g} device-hours spent, {found.left_hours:.3g} predicted, "
        f"cost {found.cost:.2f}{unknown}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def plain(monitor: Monitor, summary: Summary) -> dict[str, Any]:
    """Return how a sweep stands as plain JSON values: counts, the time left, and every run that is begun or failed."""
    labels = {run.fingerprint: run.label for run in monitor.runs}
    runs = [{"fingerprint": key, "label": labels[key], **status} for key, status in monitor.statuses.items()]
    counts = {name: getattr(summary, name) for name in ("total", "done", "running", "failed", "pending")}
    return {**counts, "eta_secs": summary.eta_secs, "runs": runs}


@contextmanager
def live(watch: bool) -> Iterator[Callable[[Monitor, Summary], None]]:
    """Give what draws a sweep's state: over and over in one place with `watch` on a terminal, else once."""
    console = _console()
    if not (watch and console.is_terminal):
        yield lambda monitor, summary: console.print(_state(monitor, summary))
        return
    with Live(console=console, auto_refresh=False) as screen:
        yield lambda monitor, summary: screen.update(_state(monitor, summary), refresh=True)


def _state(monitor: Monitor, summary: Summary) -> Group:
    labels = {run.fingerprint: run.label for run in monitor.runs}
    table = Table(box=None, pad_edge=False)
    for column in ("run", "state", "done", "failures", "error"):
        table.add_column(column, no_wrap=column != "error", overflow="fold")
    order = {"failed": 0, "running": 1, "pending": 2}
    statuses = sorted(monitor.statuses.items(), key=lambda item: order[item[1]["state"]])
    shown = [item for item in statuses if item[1]["state"] != "pending" or item[1]["failures"]][:MAX_ROWS]
    for fingerprint, status in shown:
        frac = f"{status['frac_done']:.0%}" if status["state"] == "running" else ""
        table.add_row(
            escape(labels[fingerprint]),
            status["state"],
            frac,
            str(status["failures"] or ""),
            escape(str(status["error"] or "")),
        )
    bar = ProgressBar(total=max(summary.total, 1), completed=summary.done, width=40)
    return Group(str(summary), bar, *([table] if shown else []))


def _console() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200)


def _whole(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
