"""What does a context computed once a request cost in quality? Rankers with `context` "joint" and "shared", seed by seed.

`python -m sweeps.contexts SAMPLES --out DIR --seeds 0 1 2 3 4`; killed and typed again it continues. Both contexts of a seed
meet the same batches in the same order and, OneTrans aside, start from the same parameters; so the table gives the mean over
seeds of the difference, shared less joint, with its 90 % t interval. HSTU is left out: its scores are the same either way. What
the shared context saves is measured by `benchmarks/context_modes.py`.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments import rankers
from sweeps import uniscale
from sweeps.planning import counted, preset_named
from sweeps.rankers import interval
from unisc.config import Runtime, override
from unisc.data.columns import load
from unisc.errors import InputError, run_command
from unisc.nn.slots import CONTEXTS, Context
from unisc.sweep.launch.local import run_sweep
from unisc.sweep.plan import Run

MODELS = ("hhsft", "transformer", "onetrans")


SEEDS = MappingProxyType({"smoke": (0, 1), "laptop": (0, 1, 2, 3, 4)})
"""By preset; the samples are those of the study's preset of the same name, `exposed`."""


def prepare(root: Path, *, preset: str) -> None:
    """Make the study's logs and samples in `root` where they are missing. Raises InputError for an unknown preset."""
    preset_named(SEEDS, preset)
    uniscale.prepare(root, preset=preset)


def data_dir(root: Path, *, preset: str) -> Path:
    """Return the samples that the runs read."""
    preset_named(SEEDS, preset)
    return root / "samples" / "exposed"


def runs(root: Path, *, preset: str) -> list[Run]:
    """List a preset's runs. Raises InputError for an unknown preset."""
    samples = data_dir(root, preset=preset)
    size, seeds = "xs" if preset == "smoke" else "s", preset_named(SEEDS, preset)
    return list(pairs(samples, models=MODELS, size=size, seeds=seeds).values())


def pairs(samples: Path, *, models: Sequence[str], size: str, seeds: Sequence[int]) -> dict[tuple[str, Context, int], Run]:
    """Return the runs by model, context and seed."""
    data = load(samples, "train", history_len=20)
    volume = {"num_examples": data.num_examples, "num_requests": data.num_requests}
    planned = {}
    for model in models:
        for context in CONTEXTS:
            for seed in seeds:
                config = override(rankers.default(samples, model=model, size=size, seed=seed), {"model.context": context})
                facts = counted(config.model, data.spec, **volume, num_epochs=config.train.num_epochs)
                label = f"{model} {size} {context}"
                planned[model, context, seed] = Run.of(
                    rankers, config, label=f"{label} seed {seed}", compile_key=label, **facts
                )
    return planned


def main() -> None:
    """Run the sweep and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help="samples that `python -m data_gen.es3 build` made")
    parser.add_argument("--out", type=Path, required=True, help="directory of the sweep")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--size", default="s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=int, help="one a core if not given")
    args = parser.parse_args()
    if len(set(args.seeds)) < 2:
        raise InputError(f"--seeds {' '.join(map(str, args.seeds))}: an interval needs two different seeds; give more")
    planned = pairs(args.samples, models=args.models, size=args.size, seeds=args.seeds)
    runtime = Runtime(data_dir=str(args.samples.absolute()), work_dir=str(args.out))
    in_order = sorted(planned.values(), key=lambda run: -run.cost)
    found = {
        r["fingerprint"]: r for r in run_sweep(in_order, args.out, runtime=runtime, workers=args.workers, title="contexts")
    }
    records = {key: found[run.fingerprint] for key, run in planned.items() if run.fingerprint in found}
    print(table(records))


def table(records: Mapping[tuple[str, Context, int], Mapping[str, Any]]) -> str:
    """Return the table of differences; seeds of which only one context is recorded are left out."""
    names = [metric.removeprefix("eval/exposed/") for metric in rankers.METRICS]
    lines = [f"{'ranker':12} {'seeds':>5} {'':7}" + "".join(f"{name:>27}" for name in names)]
    for model in dict.fromkeys(model for model, _, _ in records):
        of = {context: {s: r for (m, c, s), r in records.items() if (m, c) == (model, context)} for context in CONTEXTS}
        seeds = sorted(of["joint"].keys() & of["shared"].keys())
        if not seeds:
            continue
        values = {c: [[of[c][s]["metrics"][metric] for s in seeds] for metric in rankers.METRICS] for c in CONTEXTS}
        for context in CONTEXTS:
            means = "".join(f"{statistics.fmean(each):27.4f}" for each in values[context])
            lines.append(f"{model:12} {len(seeds):5} {context:7}{means}")
        less = [[s - j for j, s in zip(*pair, strict=True)] for pair in zip(values["joint"], values["shared"], strict=True)]
        cells = "".join(f"{interval(each, signed=True):>27}" for each in less)
        lines.append(f"{model:12} {len(seeds):5} {'less':7}{cells}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command("contexts", main)
