"""The `unisc` command: thin, and the only module of the package that may import the leaf folders."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from unisc.errors import InputError, run_command


def study(
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="which study; `uniscale` is the one there is")],
    /,
    preset: str = "laptop",
    source: str = "marketplace",
    path: Path | None = None,
    out: Path | None = None,
    work: Path | None = None,
    workers: int = 0,
) -> None:
    """Run a study end to end: logs, samples, runs, laws, report. Killed and typed again it continues.

    Args:
        preset: how much to run: smoke, laptop, stationary (floor known exactly) or paper.
        source: marketplace (a generated shop) or trivago (real request logs, with --path).
        path: folder of the real logs.
        out: where the report goes; report/ (report/trivago/ for real logs) if not given.
        work: where logs, samples and runs are kept between calls; study/<source>-<preset>/ if not given.
        workers: worker processes; 0 means one a core.
    """
    if name != "uniscale":
        raise InputError(f"unknown study {name!r}; the studies are: uniscale")
    if workers < 0:
        raise InputError(f"--workers {workers}: must be 0 (one a core) or more")
    if source == "marketplace":
        from sweeps import uniscale

        if path is not None:
            raise InputError("--path goes with --source trivago; the marketplace makes its own logs")
        uniscale.study(preset=preset, out=out or Path("report"), work=work or Path("study", preset), workers=workers)
    elif source == "trivago":
        from sweeps import uniscale_trivago

        if path is None:
            raise InputError("--source trivago needs --path, the folder that holds events.parquet")
        uniscale_trivago.study(
            path=path,
            preset=preset,
            out=out or Path("report", "trivago"),
            work=work or Path("study", f"trivago-{preset}"),
            workers=workers,
        )
    else:
        raise InputError(f"unknown source {source!r}; the sources are: marketplace, trivago")


def status(directory: tyro.conf.Positional[Path], /) -> None:
    """Say how far a sweep is: runs done, running, failed and pending, and the time left.

    Args:
        directory: a sweep directory, holding plan.jsonl and runs/.
    """
    from unisc.sweep.status import summary

    sys.stdout.write(f"{summary(directory)}\n")


def report(directory: tyro.conf.Positional[Path], /, out: Path = Path("report")) -> None:
    """Make the report of a finished study again, from its records.

    Args:
        directory: a study's work folder.
        out: where the report goes.
    """
    from analysis.report import build_from

    sys.stdout.write(f"{build_from(directory, out)}\n")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2."""
    run_command(
        "unisc",
        lambda: tyro.extras.subcommand_cli_from_dict(
            {"study": study, "status": status, "report": report},
            prog="unisc",
            description="Scaling-law research and ranking-model experiments for e-commerce search.",
        ),
    )
