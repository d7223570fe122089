"""UniScale as a sweep: model size x data size x composition x seed, the isolation ablation, and the study around them.

`runs()` says which points are asked for; `study()` is the whole line, from an empty folder to the report:
logs, samples, runs, laws, figures. Every step leaves finished files, so a study that was killed goes on where it was.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_gen.marketplace.config import MarketplaceConfig
from data_gen.marketplace.config import preset as shop_preset
from experiments import uniscale
from experiments.uniscale import Config, DataConfig
from sweeps import peers
from sweeps.planning import counted, preset_named
from sweeps.stages import Stages, make_logs, make_samples
from unisc.config import Runtime, override
from unisc.data import manifest
from unisc.data.columns import Columns, load
from unisc.data.schema import COMPOSITIONS
from unisc.errors import InputError
from unisc.models.hhsft import ISOLATIONS
from unisc.models.ladder import dlrm_ladder, hhsft_ladder
from unisc.sweep.plan import Run
from unisc.train.evaluate import EvalConfig
from unisc.train.ranking import TrainConfig

HISTORY_LEN = 16
EMBED_DIM = 8
"""Held over the ladder, so that the dense axis is moved alone."""

LADDER = hhsft_ladder(embed_dim=EMBED_DIM)
BASELINE = dlrm_ladder(embed_dim=EMBED_DIM)


REQUESTS_A_USER = 12
"""Users grow with the requests: what fatigue hides from a model would grow with the requests of one user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """How much of the question to ask. `sizes` are rungs of the ladder; the largest fraction is met by every seed.

    The ablation runs at `ablation_sizes`, all data, `seeds`, and without isolation at one seed on the shares, too; the DLRM-MLP
    baseline at `baseline_sizes` on `exposed`. Of `grow_sizes` one width alone is grown from `GROWN_FROM`; at `volume_sizes`
    every composition is cut to the samples of `exposed`; the zoo is compared with `peer_size`.
    """

    shop: str
    requests: int
    sizes: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    ablation_sizes: tuple[str, ...]
    baseline_sizes: tuple[str, ...]
    num_full_requests: int
    ablation_on_shares: bool = False
    grow_sizes: tuple[str, ...] = ()
    volume_sizes: tuple[str, ...] = ()
    peer_size: str | None = None
    compositions: tuple[str, ...] = COMPOSITIONS
    shop_seed: int = 1


TRAFFIC = MappingProxyType({"search_share": 0.4, "rec_share": 0.4, "domain_overlap": 0.9})
"""Where visitors are, and how much of their taste the domains share, in the rich shop. At an overlap of 0.7 and half of the
traffic in search, foreign samples made no difference that three seeds could resolve (see `experiments/LOG.md`)."""

SIZES = ("xxs", "xs", "s", "m", "xl", "xxl")
FRACTIONS = tuple(round(32 ** (-i / 4), 4) for i in (4, 3, 2, 1, 0))
"""Five data sizes spanning 32x."""

PRESETS = MappingProxyType(
    {
        "smoke": Preset(
            shop="default",
            requests=3_000,
            sizes=SIZES[:5:2],
            fractions=(0.25, 1.0),
            seeds=(0,),
            ablation_sizes=("s",),
            baseline_sizes=(),
            num_full_requests=100,
        ),
        "laptop": Preset(
            shop="default",
            requests=20_000,
            sizes=SIZES,
            fractions=FRACTIONS,
            seeds=(0, 1, 2),
            ablation_sizes=("s",),
            baseline_sizes=("s", "m", "xl"),
            num_full_requests=300,
        ),
        "paper": Preset(
            shop="default",
            requests=36_000,
            sizes=SIZES,
            fractions=FRACTIONS,
            seeds=(0, 1, 2, 3, 4),
            ablation_sizes=SIZES[1:],
            ablation_on_shares=True,
            baseline_sizes=(),
            num_full_requests=600,
            grow_sizes=SIZES[1:],
            volume_sizes=("xs", "m", "xxl"),
            peer_size="m",
        ),
        # The law is about trained models: the unstable rung and the share that is over in fifty steps are left out here.
        "stationary": Preset(
            shop="stationary",
            shop_seed=2,
            requests=60_000,
            sizes=("xs", "s", "m", "l", "xl", "xxl"),
            fractions=FRACTIONS[1:],
            seeds=(0, 1, 2),
            ablation_sizes=(),
            baseline_sizes=(),
            num_full_requests=100,
            compositions=("exposed",),
        ),
    }
)


LEARNING_RATE = 1.5e-3
GROWN_FROM = "s"
UNSTABLE = MappingProxyType({"xxs": 5e-4})
"""The narrowest rung needs a lower rate, and even so its AUC differs by five points between seeds: it stands at the low end of
the laws with one seed, and no comparison between compositions rests on it."""


def shop(preset: Preset) -> MarketplaceConfig:
    """Return the shop of a preset."""
    traffic = TRAFFIC if preset.shop == "default" else {}
    users = preset.requests // REQUESTS_A_USER
    return shop_preset(preset.shop, seed=preset.shop_seed, requests=preset.requests, users=users, **traffic)


def base(size: str, *, data: DataConfig, num_full_requests: int) -> Config:
    """Return the run that all points vary: one pass, batches of 256 candidates, one schedule for every size."""
    return Config(
        size=size,
        data=data,
        model=LADDER[size],
        train=TrainConfig(
            batch_candidates=256,
            learning_rate=UNSTABLE.get(size, LEARNING_RATE),
            table_learning_rate=0.2,
            weight_decay=0.0,
            purchase_weight=0.2,
            seed=0,
        ),
        evaluate=EvalConfig(batch_candidates=1024, num_full_requests=num_full_requests),
    )


def points(preset: Preset, samples: Mapping[str, str]) -> list[tuple[str, Config]]:
    """List a preset's configurations with their labels; `samples` gives each composition's fingerprint."""

    def config(size: str, composition: str, fraction: float, seed: int) -> Config:
        data = DataConfig(samples=samples[composition], composition=composition, fraction=fraction, history_len=HISTORY_LEN)
        made = base(size, data=data, num_full_requests=preset.num_full_requests)
        return dataclasses.replace(made, train=dataclasses.replace(made.train, seed=seed))

    found: list[tuple[str, Config]] = []
    # The grid: every size on every share of every composition; further seeds where the claims are made, on all data.
    for seed in preset.seeds:
        for fraction in preset.fractions if seed == preset.seeds[0] else preset.fractions[-1:]:
            for composition in preset.compositions:
                sizes = [size for size in preset.sizes if seed == preset.seeds[0] or size not in UNSTABLE]
                found += [("grid", config(size, composition, fraction, seed)) for size in sizes]
    # The ablation: composition x isolation x size; its "both" is the grid's own.
    for seed in preset.seeds:
        for composition in preset.compositions:
            for size in preset.ablation_sizes:
                one = config(size, composition, preset.fractions[-1], seed)
                found += [("ablation", uniscale.with_isolation(one, i)) for i in ISOLATIONS if i != "both"]
    if preset.ablation_on_shares:
        for composition in preset.compositions:
            for fraction in preset.fractions[:-1]:
                some = [config(size, composition, fraction, preset.seeds[0]) for size in preset.ablation_sizes]
                found += [("ablation", uniscale.with_isolation(one, "none")) for one in some]
    # Figure 4: one width grown alone, from what the grid has at `GROWN_FROM`.
    for grow in ("hfa", "gfa"):
        ladder = hhsft_ladder(embed_dim=EMBED_DIM, grow=grow, base=GROWN_FROM)
        for seed in preset.seeds:
            for composition in (preset.compositions[0], preset.compositions[-1]):
                for size in preset.grow_sizes:
                    if size != GROWN_FROM:
                        one = config(size, composition, preset.fractions[-1], seed)
                        found.append((f"grow-{grow}", dataclasses.replace(one, size=f"{grow}-{size}", model=ladder[size])))
    # The baseline that published gains are measured against.
    for seed in preset.seeds:
        for size in preset.baseline_sizes:
            one = config(size, "exposed", preset.fractions[-1], seed)
            found.append(("baseline", dataclasses.replace(one, size=f"dlrm-{size}", model=BASELINE[size])))
    return found


def prepare(root: Path, *, preset: str) -> None:
    """Make a preset's logs and samples in `root` where they are missing. Raises InputError for an unknown preset."""
    chosen, stages = preset_named(PRESETS, preset), Stages(root, root, workers=0)
    make_logs(shop(chosen), root / "logs", stages)
    make_samples(root / "logs", root / "samples", chosen.compositions, stages)


def runs(root: Path, *, preset: str) -> list[Run]:
    """Plan a preset's runs on what `prepare` has made in `root`. Raises InputError for an unknown preset."""
    chosen = preset_named(PRESETS, preset)
    samples = {c: manifest.read(root / "samples" / c, kind="samples")["fingerprint"] for c in chosen.compositions}
    return planned_runs(chosen, root, samples)


def planned_runs(preset: Preset, root: Path, samples: Mapping[str, str]) -> list[Run]:
    """Plan a preset's runs on the samples under `root`, each with its predicted cost."""
    columns = {c: load(root / "samples" / c, "train", history_len=HISTORY_LEN) for c in preset.compositions}
    found = [*points(preset, samples), *_equal_volumes(preset, samples, columns)]
    if preset.peer_size is not None:
        data = DataConfig(samples=samples["exposed"], composition="exposed", fraction=1.0, history_len=HISTORY_LEN)
        reference = base(preset.peer_size, data=data, num_full_requests=preset.num_full_requests)
        shown = columns["exposed"]
        list_len = shown.num_examples / shown.num_requests
        found += peers.points(reference, shown.spec, samples, list_len=list_len, seeds=preset.seeds)
    return [plan(study, config, columns[config.data.composition]) for study, config in found]


def _equal_volumes(preset: Preset, samples: Mapping[str, str], columns: Mapping[str, Columns]) -> list[tuple[str, Config]]:
    """List the runs on as many samples of every composition as `exposed` has, so that kinds are told from volume."""
    found = []
    for composition in preset.compositions if preset.volume_sizes else ():
        fraction = round(columns["exposed"].num_examples / columns[composition].num_examples, 4)
        data = DataConfig(samples=samples[composition], composition=composition, fraction=fraction, history_len=HISTORY_LEN)
        for size in preset.volume_sizes if fraction < 1 else ():
            made = base(size, data=data, num_full_requests=preset.num_full_requests)
            found += [("volume", override(made, {"train.seed": seed})) for seed in preset.seeds]
    return found


def plan(study: str, config: Config, columns: Columns) -> Run:
    """Plan one run; its cost is counted FLOPs of training on its share of `columns`."""
    share = columns.first(max(1, round(config.data.fraction * columns.num_requests)))
    isolation = getattr(config.model, "isolation", "mlp")
    data = f"{config.data.composition}@{config.data.fraction:g}"
    return Run.of(
        uniscale,
        config,
        label=f"{study}/{config.size}/{data}/{isolation}/seed{config.train.seed}",
        compile_key=f"{config.size}/{isolation}/{config.data.composition}",
        **counted(config.model, columns.spec, num_examples=share.num_examples, num_requests=share.num_requests),
    )


def study(*, preset: str, out: Path, work: Path, workers: int) -> Path:
    """Run the study on the generated shop and write its report to `out`; return the page's path."""
    chosen = preset_named(PRESETS, preset)
    stages = Stages(work, out, workers=workers)
    with stages("logs"):
        logs = make_logs(shop(chosen), work / "logs", stages)
    with stages("samples"):
        samples = make_samples(work / "logs", work / "samples", chosen.compositions, stages)
    planned = planned_runs(chosen, work, {name: m["fingerprint"] for name, m in samples.items()})

    def facts(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "preset": preset,
            "source": "marketplace",
            "domains": logs["domains"],
            "stationary": chosen.shop == "stationary",
            "logs": {"fingerprint": logs["fingerprint"], "config": logs["config"], "counts": logs["counts"]},
            "volumes": volumes(samples),
            "oracle": oracle(records[0]),
        }

    return finish(planned, work, out, stages, facts)


Facts = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]


def finish(planned: Sequence[Run], work: Path, out: Path, stages: Stages, facts: Facts) -> Path:
    """Run what is planned, write `study.json` (what `facts` makes of the records) and the report; return the page's path."""
    from analysis import report
    from unisc.sweep.launch.local import run_sweep

    # Hundreds of models that nobody serves: `unisc train` leaves one to be kept.
    runtime = Runtime(work_dir=str(work / "sweep"), data_dir=str(work.resolve()), keep_model=False)
    with stages("runs"):
        records = run_sweep(planned, work / "sweep", runtime=runtime, workers=stages.workers, title="runs")
    if len(records) < len(planned):
        missing = len(planned) - len(records)
        sys.stderr.write(f"{missing} of {len(planned)} runs failed; their output is in {work / 'sweep' / 'runs'}/*/log.txt\n")
    if not records:
        raise InputError(f"{work / 'sweep'}: no run finished; read the log.txt of a run, then type the same command again")
    with stages("report"):
        stages.write_facts(facts(records))
        page = report.build_from(work, out)
    sys.stdout.write(f"report: {page}\n")
    return page


def volumes(samples: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return requests, samples and click positives of each composition's train split."""
    return {
        name: {
            "requests": m["counts"]["train_requests"],
            "samples": m["counts"]["train_samples"],
            "positives": m["counts"]["train_clicks"],
        }
        for name, m in samples.items()
    }


def oracle(record: Mapping[str, Any]) -> dict[str, float]:
    """Return what the best possible ranker would score on the test lists; every record holds the same."""
    return {key: record["metrics"][f"eval/oracle/{key}"] for key in ("log_loss", "auc_roc")}
