"""KARMA as a sweep: the ablation of its objective, and how what it finds scales with the decoder and with users' histories.

`unisc sweep run sweeps/karma.py --preset laptop --out DIR`, or `python -m sweeps.karma DIR`, which prints the table, too;
killed and typed again both continue. Interests in `DIR/interests` are read where there are some (Amazon Beauty's, say), else
those of the study's shop are made. The table gives the mean over seeds with its 90 % t interval, and beside each objective its
difference to the action loss alone, seed by seed. Runs of one seed meet the same batches in the same order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments import karma
from experiments.karma import OBJECTIVES, Config
from sweeps import shop_interests
from sweeps.planning import preset_named
from sweeps.rankers import interval
from unisc.config import override
from unisc.data.interests import Interests
from unisc.data.tower_batches import kept
from unisc.errors import run_command
from unisc.models.karma import num_params
from unisc.sweep.budget import cost_units
from unisc.sweep.plan import Run

METRICS = ("eval/hr@200", "eval/hr@50", "eval/gauc")
SEMANTICS = tuple(
    f"eval/semantics/{name}"
    for name in ("sink_rate", "entropy", "cosine", "sensitivity", "category_accuracy", "brand_accuracy", "text_loss")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """The ablation at `size`; beside it `scaled` objectives over sizes x shares of users."""

    objectives: tuple[str, ...]
    size: str
    sizes: tuple[str, ...]
    fractions: tuple[float, ...]
    scaled: tuple[str, ...]
    seeds: tuple[int, ...]
    num_epochs: int


PRESETS = MappingProxyType(
    {
        "smoke": Preset(objectives=("act", "rec"), size="xxs", sizes=(), fractions=(), scaled=(), seeds=(0,), num_epochs=1),
        "laptop": Preset(
            objectives=tuple(OBJECTIVES), size="xs", sizes=(), fractions=(), scaled=(), seeds=(0, 1, 2), num_epochs=10
        ),
        "paper": Preset(
            objectives=tuple(OBJECTIVES),
            size="xs",
            sizes=("xxs", "xs", "s"),
            fractions=(0.25, 0.5, 1.0),
            scaled=("act", "rec"),
            seeds=(0, 1, 2, 3, 4),
            num_epochs=10,
        ),
    }
)

prepare, data_dir = partial(shop_interests.prepare, PRESETS), partial(shop_interests.data_dir, PRESETS)


def runs(root: Path, *, preset: str) -> list[Run]:
    """List a preset's runs, largest first. Raises InputError for an unknown preset, or without interests."""
    chosen, path = preset_named(PRESETS, preset), data_dir(root, preset=preset)
    data = shop_interests.prepared(path)
    names = [name for name in chosen.objectives if name != "visual" or data.catalogue.visual is not None]
    points = {(name, chosen.size, 1.0) for name in names}
    points |= {(name, size, share) for name in chosen.scaled for size in chosen.sizes for share in chosen.fractions}
    base = {(name, size): karma.default(path, model=name, size=size) for name, size, _ in points}
    found = [
        plan(base[name, size], f"{name} {size}", data, share, seed, chosen.num_epochs)
        for name, size, share in points
        for seed in chosen.seeds
    ]
    return sorted(found, key=lambda run: (-run.cost, run.label))


def plan(base: Config, name: str, data: Interests, fraction: float, seed: int, num_epochs: int) -> Run:
    """Plan one run; its cost is counted FLOPs of training, the language model's, which is trained once, aside."""
    config = override(base, {"data.fraction": fraction, "train.num_epochs": num_epochs, "train.seed": seed})
    num_examples = num_epochs * len(kept(data, fraction)) // config.train.batch_size * config.train.batch_size
    work = float(karma.train_flops(config, num_examples))
    return Run.of(
        karma,
        config,
        cost=cost_units(work),
        label=f"{name} users {fraction:g} seed {seed}",
        compile_key=name,
        num_params=num_params(config.model).dense,
        num_examples=num_examples,
        train_flops=work,
    )


def table(records: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    """Lay out records by metric: each objective's mean over seeds and, seed by seed, its difference to the action loss."""
    by: dict[str, dict[str, Mapping[str, float]]] = {}
    for record in records:
        if (label := labels.get(record["fingerprint"])) is not None:
            name, seed = label.rsplit(" seed ", 1)
            by.setdefault(name, {})[seed] = record["metrics"]
    lines = []
    for metric in (*METRICS, *SEMANTICS):
        lines.append(f"{metric:34} {'seeds':>5} {'':>26} {'less act':>30} {'before training':>16}")
        for name, found in sorted(by.items()):
            objective, rest = name.split(" ", 1)
            base = by.get(f"act {rest}", {})
            seeds = sorted(seed for seed in found if metric in found[seed])
            if not seeds:
                continue
            both = [seed for seed in seeds if seed in base]
            less = interval([found[s][metric] - base[s][metric] for s in both], signed=True) if both else "-"
            start = found[seeds[0]].get(metric.replace("semantics", "before"))
            before = f"{start:16.4f}" if start is not None and "semantics" in metric else f"{'':16}"
            mean = interval([found[s][metric] for s in seeds])
            lines.append(f"  {name:32} {len(seeds):5} {mean:>26} {'' if objective == 'act' else less:>30} {before}")
    return "\n".join(lines)


def main() -> None:
    """Make the interests, run the sweep and print the table."""
    shop_interests.run("karma", __doc__, PRESETS, runs, table)


if __name__ == "__main__":
    run_command("karma", main)
