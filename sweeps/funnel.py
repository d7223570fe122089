"""KARMA in the ranking stage: HHSFT with and without the score of interest and candidate among what it reads.

`python -m sweeps.funnel DIR --preset laptop` makes the study's shop, trains KARMA on the first half of its clicks, scores the
requests after that and the test day with it, trains the rankers there and prints the table; killed and typed again it
continues. The table gives the mean over seeds with its 90 % t interval, and each arm's difference to the ranker without
interests, seed by seed: a seed has its own KARMA, and rankers of one seed meet the same requests in the same order. What KARMA
has seen the ranker beside it has not; the arm "exposed" is the ranker without interests that has learned from all requests.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_gen.interests.build import build
from data_gen.interests.config import InterestsConfig
from experiments import funnel, karma
from experiments.funnel import METRICS, Config
from experiments.uniscale import DataConfig
from sweeps import karma as karma_sweep
from sweeps import uniscale
from sweeps.planning import counted, preset_named
from sweeps.rankers import interval
from sweeps.stages import Stages, make_logs, make_samples
from unisc.config import Runtime, override
from unisc.data import manifest
from unisc.data.columns import load
from unisc.data.interests import load as load_interests
from unisc.errors import run_command
from unisc.sweep.launch.local import run_sweep
from unisc.sweep.plan import Run, run_folder
from unisc.train.interest_numbers import add_interests

WITHOUT, ALL = "without", "exposed"
TRAINED_ON = 0.5
"""Share of the clicks that KARMA learns from, the first; the ranker learns from the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """KARMA's objectives and decoder, the ranker's sizes, and the seeds of both; the shop is the study's of the same name."""

    objectives: tuple[str, ...]
    decoder: str
    num_epochs: int
    sizes: tuple[str, ...]
    seeds: tuple[int, ...]


PRESETS = MappingProxyType(
    {
        "smoke": Preset(objectives=("rec",), decoder="xxs", num_epochs=1, sizes=("xs",), seeds=(0,)),
        "laptop": Preset(objectives=("act", "rec"), decoder="xs", num_epochs=10, sizes=("s",), seeds=(0, 1, 2, 3, 4)),
    }
)


def prepare(root: Path, *, preset: str) -> None:
    """Make logs, samples, interests, the KARMAs and every arm's samples under `root` where they are missing.

    Raises:
      InputError: an unknown preset, or logs or samples of another configuration in the way.
    """
    chosen, stages = preset_named(PRESETS, preset), Stages(root, root, workers=0)
    make_logs(uniscale.shop(uniscale.PRESETS[preset]), root / "logs", stages)
    make_samples(root / "logs", root / "samples", (ALL,), stages)
    interests = root / "interests"
    if not interests.exists():
        build(root / "logs", interests, InterestsConfig(validation_share=1 - TRAINED_ON))
    planned = _karmas(interests, chosen)
    runtime = Runtime(data_dir=str(interests.resolve()), work_dir=str(root / "karma"), keep_model=True)
    run_sweep(list(planned.values()), root / "karma", runtime=runtime, title="karma")
    served = {arm: run_folder(root / "karma", run.fingerprint) / "work" / "karma" for arm, run in planned.items()}
    for arm, folder in [(WITHOUT, None), *served.items()]:
        if not (out := root / "samples" / arm).exists():
            stages.say(f"scoring for {arm}")
            scorers = {} if folder is None else {"interest": folder}
            add_interests(root / "samples" / ALL, out, scorers=scorers, interests=interests)


def data_dir(root: Path, *, preset: str) -> Path:
    """Return the folder that the runs read. Raises InputError for an unknown preset."""
    preset_named(PRESETS, preset)
    return root


def runs(root: Path, *, preset: str) -> list[Run]:
    """Plan the rankers on what `prepare` made under `root`. Raises InputError for an unknown preset or samples not there."""
    chosen = preset_named(PRESETS, preset)
    return [
        _plan(root, arm, size, seed, uniscale.PRESETS[preset].num_full_requests)
        for size in chosen.sizes
        for seed in chosen.seeds
        for arm in (ALL, WITHOUT, *(f"{objective}-{seed}" for objective in chosen.objectives))
    ]


def _karmas(interests: Path, preset: Preset) -> dict[str, Run]:
    """Plan the KARMAs, by their arm's name."""
    data, found = load_interests(interests), {}
    for objective in preset.objectives:
        base = karma.default(interests, model=objective, size=preset.decoder)
        for seed in preset.seeds:
            name = f"{objective} {preset.decoder}"
            found[f"{objective}-{seed}"] = karma_sweep.plan(base, name, data, 1.0, seed, preset.num_epochs)
    return found


def _plan(root: Path, arm: str, size: str, seed: int, num_full_requests: int) -> Run:
    samples = root / "samples" / arm
    made = manifest.read(samples, kind="samples")
    columns = load(samples, "train", history_len=uniscale.HISTORY_LEN)
    data = DataConfig(
        samples=made["fingerprint"], composition=made["composition"], fraction=1.0, history_len=uniscale.HISTORY_LEN
    )
    config = override(uniscale.base(size, data=data, num_full_requests=num_full_requests), {"train.seed": seed})
    return Run.of(
        funnel,
        Config(arm=arm, run=config),
        label=f"{size}/{arm.partition('-')[0]}/seed{seed}",
        compile_key=f"{size}/{arm in (ALL, WITHOUT)}",
        **counted(config.model, columns.spec, num_examples=columns.num_examples, num_requests=columns.num_requests),
    )


def table(records: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    """Lay out records by metric: each arm's mean over seeds and, seed by seed, its difference to the one without."""
    by: dict[str, dict[str, dict[str, Mapping[str, float]]]] = {}
    for record in records:
        if (label := labels.get(record["fingerprint"])) is not None:
            size, arm, seed = label.split("/")
            by.setdefault(size, {}).setdefault(arm, {})[seed] = record["metrics"]
    lines = []
    for size, arms in by.items():
        for metric in METRICS:
            lines.append(f"{size} {metric:34} {'seeds':>5} {'':>26} {'less without':>30}")
            for arm, found in arms.items():
                seeds = sorted(set(found) & set(arms.get(WITHOUT, {})))
                mean = interval([found[s][metric] for s in sorted(found)])
                less = interval([found[s][metric] - arms[WITHOUT][s][metric] for s in seeds], signed=True) if seeds else "-"
                lines.append(f"  {arm:34} {len(found):5} {mean:>26} {'' if arm == WITHOUT else less:>30}")
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, run the rankers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of everything that is made")
    parser.add_argument("--preset", default="laptop", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--workers", type=int, help="one a core if not given")
    args = parser.parse_args()
    prepare(args.root, preset=args.preset)
    planned = runs(args.root, preset=args.preset)
    runtime = Runtime(data_dir=str(args.root.resolve()), work_dir=str(args.root / "sweep"))
    records = run_sweep(planned, args.root / "sweep", runtime=runtime, workers=args.workers, title="funnel")
    print(table(records, {run.fingerprint: run.label for run in planned}))


if __name__ == "__main__":
    run_command("funnel", main)
