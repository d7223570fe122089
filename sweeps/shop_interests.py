"""What sweeps over encoders share: the interests they read, those in their folder or the study shop's, and their command."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_gen.interests.build import build
from data_gen.interests.config import InterestsConfig
from sweeps import uniscale
from sweeps.planning import preset_named
from sweeps.stages import Stages, make_logs
from unisc.config import Runtime
from unisc.data.interests import Interests, load
from unisc.errors import InputError
from unisc.sweep.launch.local import run_sweep
from unisc.sweep.plan import Run


def prepare(presets: Mapping[str, Any], root: Path, *, preset: str) -> None:
    """Make the logs of the study's preset of that name, and their interests, in `root` where no interests are there yet.

    Raises:
      InputError: an unknown preset.
    """
    if not (out := data_dir(presets, root, preset=preset)).exists():
        make_logs(uniscale.shop(uniscale.PRESETS[preset]), root / "logs", Stages(root, root, workers=0))
        build(root / "logs", out, InterestsConfig())


def data_dir(presets: Mapping[str, Any], root: Path, *, preset: str) -> Path:
    """Return the interests that the runs read. Raises InputError for an unknown preset."""
    preset_named(presets, preset)
    return root / "interests"


def prepared(path: Path) -> Interests:
    """Map the interests. Raises InputError where there are none."""
    if not path.exists():
        raise InputError(f"{path}: not there; call prepare first, or put interests there")
    return load(path)


def run(
    title: str,
    about: str | None,
    presets: Mapping[str, Any],
    runs: Callable[..., list[Run]],
    table: Callable[[Sequence[Mapping[str, Any]], Mapping[str, str]], str],
) -> None:
    """Make the interests in the folder that the command names, run the sweep there and print its table."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of interests and sweep")
    parser.add_argument("--preset", default="laptop", help=f"one of {', '.join(presets)}")
    parser.add_argument("--workers", type=int, help="one a core if not given")
    args = parser.parse_args()
    prepare(presets, args.root, preset=args.preset)
    planned, sweep = runs(args.root, preset=args.preset), args.root / "sweep"
    data = data_dir(presets, args.root, preset=args.preset).resolve()
    runtime = Runtime(data_dir=str(data), work_dir=str(sweep))
    print(table(run_sweep(planned, sweep, runtime=runtime, workers=args.workers, title=title), labels(planned)))


def labels(planned: Sequence[Run]) -> dict[str, str]:
    """Return the planned runs' labels by fingerprint; a folder may hold records of other presets."""
    return {run.fingerprint: run.label for run in planned}
