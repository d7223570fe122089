"""Scaling of SASRec: R@10 over width x share of users, seed by seed.

`python -m sweeps.sasrec DIR --preset smoke` makes a shop's interests in `DIR/interests`, unless some are there already (Amazon
Beauty's, say, by `python -m data_gen.interests build`), runs what is planned and prints the table; killed and typed again it
continues. Users are cut by a hash of their number, so that a larger share holds a smaller one; the catalogue and the held-out
items stay whole. Every run makes as many passes, so fewer users are fewer steps, too: a share is what that much traffic would
give with the same recipe.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments import sasrec
from experiments.sasrec import Config
from sweeps import shop_interests
from sweeps.planning import preset_named
from sweeps.rankers import interval
from unisc.config import override
from unisc.data.interests import Interests
from unisc.errors import run_command
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

prepare, data_dir = partial(shop_interests.prepare, PRESETS), partial(shop_interests.data_dir, PRESETS)


def runs(root: Path, *, preset: str) -> list[Run]:
    """List a preset's runs, largest first. Raises InputError for an unknown preset, or without interests."""
    chosen, path = preset_named(PRESETS, preset), data_dir(root, preset=preset)
    data = shop_interests.prepared(path)
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


def table(records: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    """Lay out R@10 by width and share: the mean over seeds with its 90 % t interval."""
    cells = defaultdict(list)
    for record in records:
        if record["fingerprint"] not in labels:
            continue
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
    shop_interests.run("sasrec", __doc__, PRESETS, runs, table)


if __name__ == "__main__":
    run_command("sasrec", main)
