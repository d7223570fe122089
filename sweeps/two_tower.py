"""Two towers as a sweep: rounds of hard negatives x features x embedding width, and recall over shares of the users' histories.

`python -m sweeps.two_tower INTERESTS --out DIR`; killed and typed again it continues. The table gives the mean over seeds with
its 90 % t interval. `runs()` is the same on interests of the generated shop, which `prepare()` makes.
"""

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments import two_tower
from experiments.two_tower import Config
from sweeps import shop_interests
from sweeps.planning import preset_named
from sweeps.rankers import interval
from unisc.config import Runtime, override
from unisc.data.interests import Interests, load
from unisc.data.tower_batches import kept
from unisc.errors import run_command
from unisc.models.two_tower import flops_per_example, num_params
from unisc.sweep.budget import cost_units
from unisc.sweep.launch.local import run_sweep
from unisc.sweep.plan import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """What is crossed. Shares of users below 1 are met at the first features, the largest size and no rounds."""

    features: tuple[str, ...]
    sizes: tuple[str, ...]
    rounds: tuple[int, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    num_epochs: int


PRESETS = MappingProxyType(
    {
        "smoke": Preset(features=("all",), sizes=("xs",), rounds=(0, 1), fractions=(0.5, 1.0), seeds=(0,), num_epochs=2),
        "laptop": Preset(
            features=("all", "content", "text", "id"),
            sizes=("xs", "s", "m"),
            rounds=(0, 1, 2),
            fractions=(0.0625, 0.125, 0.25, 0.5, 1.0),
            seeds=(0, 1, 2),
            num_epochs=10,
        ),
    }
)
"""The shop's logs are those of the study's preset of the same name."""

prepare, data_dir = partial(shop_interests.prepare, PRESETS), partial(shop_interests.data_dir, PRESETS)


def runs(root: Path, *, preset: str) -> list[Run]:
    """List a preset's runs. Raises InputError for an unknown preset."""
    return grid(data_dir(root, preset=preset), preset_named(PRESETS, preset))


def grid(interests: Path, preset: Preset) -> list[Run]:
    """List the runs, largest first."""
    asked = [(f, s, r, 1.0) for f in preset.features for s in preset.sizes for r in preset.rounds]
    asked += [(preset.features[0], preset.sizes[-1], 0, share) for share in preset.fractions if share < 1]
    base = {(f, s): two_tower.default(interests, model=f, size=s) for f, s, _, _ in asked}
    data = load(interests)
    planned = [
        planned_run(base[f, s], f"{f} {s}", data, rounds, share, seed, preset.num_epochs)
        for f, s, rounds, share in asked
        for seed in preset.seeds
    ]
    return sorted(planned, key=lambda run: -run.cost)


def planned_run(base: Config, name: str, data: Interests, rounds: int, fraction: float, seed: int, num_epochs: int) -> Run:
    """Plan one run, its work counted: each round trains anew, and scores of a batch's pairs are work, too."""
    changes = {"mining.num_rounds": rounds, "data.fraction": fraction, "train.num_epochs": num_epochs, "train.seed": seed}
    config = override(base, changes)
    num_examples = (1 + rounds) * num_epochs * len(kept(data, fraction))
    flops = flops_per_example(config.model, history_len=config.data.history_len)
    # At most so many items are encoded: those of histories and of other rows are mostly among them.
    items = num_examples * (1 + config.contrast.num_shown + bool(rounds) * config.mining.num_hard)
    pairs = 6 * num_examples * config.train.batch_size * config.model.embed_dim
    work = float(flops.train(num_candidates=items, num_requests=num_examples) + pairs)
    label = f"{name} rounds {rounds} share {fraction:g}"
    return Run.of(
        two_tower,
        config,
        cost=cost_units(work),
        label=f"{label} seed {seed}",
        compile_key=f"{name} {rounds > 0}",
        num_params=num_params(config.model, num_users=data.num_users, num_items=data.catalogue.num_items).dense,
        num_examples=num_examples,
        train_flops=work,
    )


def table(records: Sequence[dict], labels: dict[str, str]) -> str:
    """Lay out records by the experiment's METRICS, below them popularity on the same examples."""
    found = defaultdict(list)
    for record in records:
        if record["fingerprint"] in labels:
            found[labels[record["fingerprint"]].rsplit(" seed", 1)[0]].append(record["metrics"])
    names = [metric for metric in two_tower.METRICS if any(metric in m for of in found.values() for m in of)]
    lines = [f"{'towers':36} {'seeds':>5} " + " ".join(f"{name:>26}" for name in names)]
    for label, of in found.items():
        lines.append(f"{label:36} {len(of):5} " + " ".join(f"{interval([m[name] for m in of]):>26}" for name in names))
    for floor in two_tower.FLOORS if found else ():
        reached = next(iter(found.values()))[0]
        cells = (reached[name.replace("eval/", f"eval/{floor}/")] for name in names)
        lines.append(f"{floor:42} " + " ".join(f"{value:26.4f}" for value in cells))
    return "\n".join(lines)


def main() -> None:
    """Run the sweep and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interests", type=Path, help="interests that `python -m data_gen.interests build` made")
    parser.add_argument("--out", type=Path, required=True, help="directory of the sweep")
    parser.add_argument("--preset", default="laptop", choices=list(PRESETS))
    parser.add_argument("--features", nargs="+", choices=list(two_tower.FEATURES))
    parser.add_argument("--sizes", nargs="+", choices=list(two_tower.EMBED_DIMS))
    parser.add_argument("--rounds", nargs="+", type=int)
    parser.add_argument("--fractions", nargs="+", type=float)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--workers", type=int, help="one a core if not given")
    args = parser.parse_args()
    given: dict[str, Any] = {name: getattr(args, name) for name in ("features", "sizes", "rounds", "fractions", "seeds")}
    given = {name: tuple(values) for name, values in given.items() if values}
    planned = grid(args.interests, dataclasses.replace(PRESETS[args.preset], **given))
    runtime = Runtime(data_dir=str(args.interests.absolute()), work_dir=str(args.out))
    records = run_sweep(planned, args.out, runtime=runtime, workers=args.workers, title="two towers")
    print(table(records, shop_interests.labels(planned)))


if __name__ == "__main__":
    run_command("two_tower", main)
