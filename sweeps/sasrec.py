"""Scaling of SASRec: R@10 over width x share of users, seed by seed.

`python -m sweeps.sasrec DIR --preset smoke` makes a shop's interests in `DIR/interests`, unless some are there already (Amazon
Beauty's, say, by `python -m data_gen.interests build`), runs what is planned and prints the table; killed and typed again it
continues. Users are cut by a hash of their number, so that a larger share holds a smaller one; the catalogue and the held-out
items stay whole. Every run makes as many passes, so fewer users are fewer steps, too: a share is what that much traffic would
give with the same recipe.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments import sasrec
from experiments.sasrec import Config
from sweeps import shop_interests
from sweeps.planning import preset_named
from sweeps.rankers import interval
from unisc.config import Runtime, override
from unisc.data.interests import Interests, load
from unisc.errors import InputError, run_command
from unisc.models.sasrec import num_params
from unisc.sweep.budget import cost_units
from unisc.sweep.plan import Run

METRIC = "eval/test/recall@10"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """The grid; the shop that stands in where no interests are given is the study's of the same preset."""

    widths: tuple[int, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    num_epochs: int


PRESETS = MappingProxyType(
    {
        "smoke": Preset(widths=(8, 16), fractions=(0.25, 1.0), seeds=(0,), num_epochs=2),
        "laptop": Preset(widths=(16, 32, 64, 128), fractions=(0.125, 0.25, 0.5, 1.0), seeds=(0, 1, 2), num_epochs=30),
    }
)


def prepare(root: Path, *, preset: str) -> None:
    """Make a shop's interests in `root` where none are there. Raises InputError for an unknown preset."""
    preset_named(PRESETS, preset)
    shop_interests.prepare(root, preset=preset)


def data_dir(root: Path, *, preset: str) -> Path:
    """Return the interests that the runs read."""
    preset_named(PRESETS, preset)
    return shop_interests.data_dir(root)


def runs(root: Path, *, preset: str) -> list[Run]:
    """List a preset's runs, largest first. Raises InputError for an unknown preset, or without interests."""
    chosen, path = preset_named(PRESETS, preset), data_dir(root, preset=preset)
    if not path.exists():
        raise InputError(f"{path}: not there; call prepare first, or put interests there")
    data = load(path)
    planned = [
        plan(point(path, width=width, fraction=fraction, seed=seed, num_epochs=chosen.num_epochs), data)
        for width in chosen.widths
        for fraction in chosen.fractions
        for seed in chosen.seeds
    ]
    return sorted(planned, key=lambda run: -run.cost)


def point(path: Path, *, width: int, fraction: float, seed: int, num_epochs: int) -> Config:
    """Return one run's configuration."""
    changes = {"model.dim": width, "model.ffn_hidden": width, "data.fraction": fraction, "train.num_epochs": num_epochs}
    return override(sasrec.default(path, seed=seed), changes)


def plan(config: Config, data: Interests) -> Run:
    """Plan one run; its cost is counted FLOPs of training, as many steps a pass as the first has."""
    once = sasrec.batches(override(config, {"train.num_epochs": 1}), data)
    work = float(sasrec.train_flops(config, num_steps=config.train.num_epochs * len(once)))
    return Run.of(
        sasrec,
        config,
        label=f"width {config.model.dim} users {config.data.fraction:g} seed {config.train.seed}",
        compile_key=f"width {config.model.dim}",
        cost=cost_units(work),
        num_params=num_params(config.model).dense,
        num_examples=config.train.num_epochs * once.num_targets,
        train_flops=work,
    )


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Lay out R@10 by width and share: the mean over seeds with its 90 % t interval."""
    cells = defaultdict(list)
    for record in records:
        config = record["config"]
        cells[config["model"]["dim"], config["data"]["fraction"]].append(record["metrics"][METRIC])
    fractions = sorted({fraction for _, fraction in cells})
    lines = [f"{'width':>5} " + " ".join(f"{f'users {fraction:g}':>24}" for fraction in fractions)]
    for width in sorted({width for width, _ in cells}):
        found = [cells.get((width, fraction)) for fraction in fractions]
        lines.append(f"{width:5} " + " ".join(f"{interval(values) if values else '-':>24}" for values in found))
    return "\n".join(lines)


def main() -> None:
    """Make the interests, run the sweep and print the table."""
    from unisc.sweep.launch.local import run_sweep

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of interests and sweep")
    parser.add_argument("--preset", default="laptop", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--workers", type=int, help="one a core if not given")
    args = parser.parse_args()
    prepare(args.root, preset=args.preset)
    planned = runs(args.root, preset=args.preset)
    runtime = Runtime(data_dir=str(data_dir(args.root, preset=args.preset).resolve()), work_dir=str(args.root / "sweep"))
    records = run_sweep(planned, args.root / "sweep", runtime=runtime, workers=args.workers, title="sasrec")
    wanted = {run.fingerprint for run in planned}
    print(table([record for record in records if record["fingerprint"] in wanted]))


if __name__ == "__main__":
    run_command("sasrec", main)
