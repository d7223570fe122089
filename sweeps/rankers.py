"""The ranker zoo as a sweep: every architecture at some sizes and seeds on one set of samples, and a table of how they did.

`python -m sweeps.rankers SAMPLES --out DIR --sizes s --seeds 0 1 2`; killed and typed again it continues. Samples made by
retrieval are for `--experiment next_item`. The table gives the mean over seeds with its 90 % t interval; it compares
architectures at one rate each, so a difference is one of these settings.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from scipy import stats

from experiments import next_item, rankers
from sweeps import uniscale
from sweeps.planning import counted, preset_named
from unisc.config import Runtime, override
from unisc.data.columns import load
from unisc.errors import run_command
from unisc.models import zoo
from unisc.sweep.launch.local import run_sweep
from unisc.sweep.plan import Run

EXPERIMENTS = {"rankers": rankers, "next_item": next_item}


PRESETS = MappingProxyType({"smoke": (("xs",), (0,)), "laptop": (("s",), (0, 1, 2))})
"""Sizes and seeds. The samples are those of the study's preset of the same name, `exposed`."""


def prepare(root: Path, *, preset: str) -> None:
    """Make the study's logs and samples in `root` where they are missing. Raises InputError for an unknown preset."""
    preset_named(PRESETS, preset)
    uniscale.prepare(root, preset=preset)


def data_dir(root: Path, *, preset: str) -> Path:
    """Return the samples that the runs read."""
    preset_named(PRESETS, preset)
    return root / "samples" / "exposed"


def runs(root: Path, *, preset: str) -> list[Run]:
    """List a preset's runs, every architecture in it. Raises InputError for an unknown preset."""
    sizes, seeds = preset_named(PRESETS, preset)
    return grid(data_dir(root, preset=preset), models=list(zoo.RANKERS), sizes=sizes, seeds=seeds, fraction=1.0)


def grid(
    samples: Path,
    *,
    models: Sequence[str],
    sizes: Sequence[str],
    seeds: Sequence[int],
    fraction: float,
    experiment: ModuleType = rankers,
) -> list[Run]:
    """List the runs, largest first."""
    data = load(samples, "train", history_len=20)
    num_examples, num_requests = round(fraction * data.num_examples), round(fraction * data.num_requests)
    planned = []
    for model in models:
        for size in sizes:
            for seed in seeds:
                config = experiment.default(samples, model=model, size=size, seed=seed)
                config = override(config, {"data.fraction": fraction})
                facts = counted(
                    config.model,
                    data.spec,
                    num_examples=num_examples,
                    num_requests=num_requests,
                    num_epochs=config.train.num_epochs,
                )
                label = f"{model} {size}"
                planned.append(Run.of(experiment, config, label=f"{label} seed {seed}", compile_key=label, **facts))
    return sorted(planned, key=lambda run: -run.cost)


def main() -> None:
    """Run the sweep and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help="samples that `python -m data_gen.es3 build` made")
    parser.add_argument("--experiment", default="rankers", choices=list(EXPERIMENTS))
    parser.add_argument("--out", type=Path, required=True, help="directory of the sweep")
    parser.add_argument("--models", nargs="+", default=list(zoo.RANKERS), choices=list(zoo.RANKERS))
    parser.add_argument("--sizes", nargs="+", default=["s"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the train requests")
    parser.add_argument("--workers", type=int, help="one a core if not given")
    args = parser.parse_args()
    experiment = EXPERIMENTS[args.experiment]
    planned = grid(
        args.samples,
        models=args.models,
        sizes=args.sizes,
        seeds=args.seeds,
        fraction=args.fraction,
        experiment=experiment,
    )
    runtime = Runtime(data_dir=str(args.samples.absolute()), work_dir=str(args.out))
    records = run_sweep(planned, args.out, runtime=runtime, workers=args.workers, title="rankers")
    labels = {run.fingerprint: run.label.rsplit(" seed", 1)[0] for run in planned}
    found = defaultdict(list)
    for record in records:
        if record["fingerprint"] in labels:
            found[labels[record["fingerprint"]]].append(record)
    print(table(found, experiment))


def table(found: Mapping[str, Sequence[Mapping[str, Any]]], experiment: ModuleType) -> str:
    """Lay out the records of each ranker and size by the experiment's METRICS, below them its FLOORS on the same requests."""
    names = [metric.rpartition("/")[2] for metric in experiment.METRICS]
    lines = [f"{'ranker':22} {'seeds':>5} {'parameters':>10} " + " ".join(f"{name:>26}" for name in names)]
    for label, of in found.items():
        cells = [interval([r["metrics"][metric] for r in of]) for metric in experiment.METRICS]
        dense = of[0]["counts"]["num_params_dense"]
        lines.append(f"{label:22} {len(of):5} {dense:10,} " + " ".join(f"{cell:>26}" for cell in cells))
    reached = next(iter(found.values()))[0]["metrics"] if found else {}
    for floor in experiment.FLOORS:
        if f"eval/{floor}/{names[0]}" in reached:
            lines.append(f"{floor:39} " + " ".join(f"{reached[f'eval/{floor}/{name}']:26.4f}" for name in names))
    return "\n".join(lines)


def interval(values: Sequence[float], *, signed: bool = False) -> str:
    """Return the mean with its 90 % t interval over seeds."""
    mean, sign = statistics.fmean(values), "+" if signed else ""
    if len(values) < 2:
        return f"{mean:{sign}.4f} (one seed)"
    half = stats.t.ppf(0.95, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:{sign}.4f} [{mean - half:{sign}.4f}, {mean + half:{sign}.4f}]"


if __name__ == "__main__":
    run_command("rankers", main)
