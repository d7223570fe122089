"""The phase diagram: overlap of the domains' rules x share of foreign samples x model size x isolation, seed by seed.

`python -m sweeps.phase DIR --preset smoke` makes the shops, runs what is planned and writes the page; killed and typed again it
continues. `DIR/shops/overlap-O-world-W/` holds a shop's `logs/` and `samples/`, `DIR/sweep/` the runs.

How it is planned. Effects are tenths of an AUC point, so everything that is noise is taken out or averaged over:

* a run is compared with the run of its own shop, size, isolation and seed that saw search samples alone;
* the metrics are expectations over the oracle's probabilities, so that the test day's clicks add no noise, and it is long: a
  quarter of the days;
* a seed draws the shop as well as the training, and no two shops share a world. So intervals cover other shops, and errors are
  independent from shop to shop, which the fit over overlaps (`analysis.boundary`) rests on;
* own samples are many enough for one pass: a second one adds nothing that two shops showed. With half of them it added as much
  as pooling did, for one pass over more samples is also more steps. Runs of `control` take that pass, to say so by numbers;
* foreign samples are lists as they were shown elsewhere, each once for every click on it, without a query. UniScale's pseudo
  requests differ in more than the domain: their query is made from the clicked item and their negatives are those that resemble
  it, which is a bias of its own. The preset `searchified` has them so.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from data_gen.es3.config import ES3Config
from data_gen.marketplace.config import MarketplaceConfig
from data_gen.marketplace.config import preset as shop_preset
from experiments import phase
from experiments.phase import COMPOSITION, Config, DataConfig, Queries, folder, kept
from sweeps.planning import counted, preset_named
from sweeps.stages import Stages, make_logs, make_samples
from sweeps.uniscale import HISTORY_LEN, LADDER, LEARNING_RATE, REQUESTS_A_USER
from unisc.config import Runtime
from unisc.data import manifest
from unisc.data.columns import Columns, load
from unisc.errors import InputError, run_command
from unisc.models.hhsft import Isolation
from unisc.sweep.plan import Run
from unisc.train.evaluate import EvalConfig
from unisc.train.ranking import TrainConfig

TRAFFIC = MappingProxyType({"search_share": 0.3, "rec_share": 0.5, "days": 4})
CONTROL_PASSES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """How much of the plane to walk. `foreign` begins with 0, the baseline; `requests` are those of one shop, all domains.

    `queries` and `negatives` say what foreign samples are, see `experiments.phase.DataConfig` and `data_gen.es3`.
    """

    requests: int
    overlaps: tuple[float, ...]
    foreign: tuple[float, ...]
    sizes: tuple[str, ...]
    seeds: tuple[int, ...]
    control: bool = True
    isolations: tuple[Isolation, ...] = ("none", "both")
    own: float = 1.0
    queries: Queries = "none"
    negatives: str = "all"


LAPTOP = Preset(requests=16_000, overlaps=(0.0, 0.5, 0.75, 1.0), foreign=(0.0, 0.25, 1.0), sizes=("xs", "m"), seeds=(0, 1, 2))

PRESETS = MappingProxyType(
    {
        "smoke": Preset(
            requests=1_600, overlaps=(0.0, 0.5, 1.0), foreign=(0.0, 1.0), sizes=("xs",), seeds=(0, 1), control=False
        ),
        "laptop": LAPTOP,
        "paper": Preset(
            requests=20_000,
            overlaps=(0.0, 0.25, 0.5, 0.75, 0.9, 1.0),
            foreign=(0.0, 0.25, 0.5, 1.0),
            sizes=("xs", "m", "xl"),
            seeds=(0, 1, 2),
        ),
        "searchified": dataclasses.replace(LAPTOP, queries="pseudo", negatives="similar"),
    }
)


def world(overlap: float, seed: int) -> int:
    """Return the random seed of the shop of an overlap and a run's seed: no two of them share one."""
    return 1_000_000 * (seed + 1) + round(100_000 * overlap)


def shop(preset: Preset, overlap: float, seed: int) -> MarketplaceConfig:
    """Return one shop of a preset."""
    users = preset.requests // REQUESTS_A_USER
    return shop_preset(
        "default", seed=world(overlap, seed), requests=preset.requests, users=users, domain_overlap=overlap, **TRAFFIC
    )


def es3(preset: Preset) -> ES3Config:
    """Return how samples are made: shown search lists as they are, and a request for every foreign click."""
    return ES3Config(
        composition=COMPOSITION,
        unexposed_per_exposed=0,
        click_window=0,
        purchase_window=0,
        negatives=preset.negatives,
    )


def shops(preset: Preset) -> list[tuple[float, int]]:
    """List overlap and seed of every shop."""
    return [(overlap, seed) for seed in preset.seeds for overlap in preset.overlaps]


def prepare(root: Path, *, preset: str) -> None:
    """Make the logs and the samples of every shop that is not there yet.

    Raises:
      InputError: an unknown preset, or shops of another preset or version in the way.
    """
    chosen, stages = preset_named(PRESETS, preset), Stages(root, root, workers=0)
    for overlap, seed in shops(chosen):
        at = folder(root, overlap, world(overlap, seed))
        with stages("logs"):
            make_logs(shop(chosen, overlap, seed), at / "logs", stages)
        with stages("samples"):
            make_samples(at / "logs", at / "samples", [COMPOSITION], stages, config=es3(chosen))


def runs(root: Path, *, preset: str) -> list[Run]:
    """Plan a preset's runs on the shops under `root`, each with its predicted cost.

    Raises:
      InputError: an unknown preset, or a shop that `prepare` has not made.
    """
    chosen = preset_named(PRESETS, preset)
    planned = []
    for overlap, seed in shops(chosen):
        samples = folder(root, overlap, world(overlap, seed)) / "samples" / COMPOSITION
        if not samples.exists():
            raise InputError(f"{samples}: not there; call prepare first, or `python -m sweeps.phase {root} --preset {preset}`")
        columns = load(samples, "train", history_len=HISTORY_LEN)
        fingerprint = manifest.read(samples, kind="samples")["fingerprint"]
        planned += [plan(study, config, columns) for study, config in points(chosen, overlap, seed, fingerprint)]
    return planned


def points(preset: Preset, overlap: float, seed: int, samples: str) -> Iterator[tuple[str, Config]]:
    """Yield the configurations of one shop, whose samples have that fingerprint, with their labels."""
    for size in preset.sizes:
        for isolation in preset.isolations:
            for foreign in preset.foreign:
                yield "phase", point(preset, size, isolation, overlap, seed, foreign, samples)
        if preset.control:
            one = point(preset, size, preset.isolations[0], overlap, seed, 0.0, samples)
            yield "control", dataclasses.replace(one, train=dataclasses.replace(one.train, num_epochs=CONTROL_PASSES))


def point(preset: Preset, size: str, isolation: Isolation, overlap: float, seed: int, foreign: float, samples: str) -> Config:
    """Return one run: one pass, 256 candidates a step, one schedule for every size and share."""
    return Config(
        size=size,
        data=DataConfig(
            samples=samples,
            overlap=overlap,
            world=world(overlap, seed),
            own=preset.own,
            foreign=foreign,
            queries=preset.queries,
            history_len=HISTORY_LEN,
        ),
        model=dataclasses.replace(LADDER[size], isolation=isolation),
        train=TrainConfig(
            batch_candidates=256,
            learning_rate=LEARNING_RATE,
            table_learning_rate=0.2,
            weight_decay=0.0,
            purchase_weight=0.2,
            seed=seed,
        ),
        evaluate=EvalConfig(batch_candidates=1024, num_full_requests=0),
    )


def plan(study: str, config: Config, columns: Columns) -> Run:
    """Plan one run; its cost is counted FLOPs of training on the samples of `columns` that it keeps."""
    lengths = (columns.candidate_offsets[1:] - columns.candidate_offsets[:-1])[kept(columns.domain, config.data)]
    volume = {"num_examples": int(lengths.sum()), "num_requests": len(lengths), "num_epochs": config.train.num_epochs}
    data, isolation = config.data, config.model.isolation
    return Run.of(
        phase,
        config,
        label=f"{study}/{config.size}/overlap{data.overlap:g}@{data.foreign:g}/{isolation}/seed{config.train.seed}",
        compile_key=f"{config.size}/{isolation}",
        **counted(config.model, columns.spec, **volume),
    )


def main() -> None:
    """Make the shops, run the sweep and write the page."""
    from analysis.phase import build
    from unisc.sweep.launch.local import run_sweep

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of shops and sweep")
    parser.add_argument("--preset", default="laptop", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--out", type=Path, help="folder of the page, DIR/report if not given")
    parser.add_argument("--workers", type=int, help="one a core if not given")
    args = parser.parse_args()
    prepare(args.root, preset=args.preset)
    runtime = Runtime(work_dir=str(args.root / "sweep"), data_dir=str(args.root.resolve()))
    planned = runs(args.root, preset=args.preset)
    run_sweep(planned, args.root / "sweep", runtime=runtime, workers=args.workers, title="phase")
    print(build(args.root, args.out or args.root / "report"))


if __name__ == "__main__":
    run_command("phase", main)
