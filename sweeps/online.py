"""Does what looks better offline sell more? A zoo of rankers, each in charge of the shop's pages, against one control.

`python -m sweeps.online --preset small --out DIR` trains the zoo on a generated shop, puts every ranker in charge and draws
online lift against offline metrics; killed and typed again it continues. With `--rankers FOLDER --logs DIR` it takes rankers
that are there already: folders that training left, or a sweep's directory. All worlds share visitors, lists and random
numbers, so a ranker's world is the same whatever it is compared with, and is kept in `DIR/worlds`.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from analysis.figures import offline_online
from analysis.online import clusters
from analysis.online_agreement import PANELS, Judged, rank_correlation
from data_gen.marketplace.config import MarketplaceConfig
from data_gen.marketplace.config import preset as shop_preset
from data_gen.marketplace.online import METRICS, OWN, SEGMENTS, Outcome
from experiments import online
from experiments.rankers import LIST_LEN, LISTWISE
from experiments.uniscale import Config, DataConfig
from sweeps import uniscale
from sweeps.planning import preset_named
from sweeps.stages import Stages, make_logs, make_samples
from unisc.config import Runtime
from unisc.data import manifest
from unisc.data.columns import load
from unisc.errors import InputError, run_command
from unisc.files import write_atomic
from unisc.models import zoo
from unisc.report import style
from unisc.sweep.launch.local import run_sweep
from unisc.sweep.plan import Run
from unisc.train.trained import NAME, model_file, read_about

AT_ONCE = 6
"""Rankers simulated side by side: they share the lists, and each holds a world in memory."""
COMPOSITION = "unexposed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Which rankers, on how much data of a shop of how many requests, and how many requests each is judged by."""

    logged: int
    models: tuple[str, ...]
    sizes: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    requests: int


PRESETS = MappingProxyType(
    {
        "small": Preset(
            logged=3_000,
            models=("dcn", "din", "dlrm", "hhsft"),
            sizes=("xs",),
            fractions=(0.2, 1.0),
            seeds=(0,),
            requests=5_000,
        ),
        "zoo": Preset(
            logged=20_000,
            models=tuple(zoo.RANKERS),
            sizes=("xs", "m"),
            fractions=(0.25, 1.0),
            seeds=(0, 1),
            requests=50_000,
        ),
    }
)


def _shop(preset: Preset) -> MarketplaceConfig:
    users = preset.logged // uniscale.REQUESTS_A_USER
    return shop_preset("default", seed=1, requests=preset.logged, users=users, **uniscale.TRAFFIC)


def prepare(root: Path, *, preset: str) -> None:
    """Make the logs and samples of a preset under `root` where they are missing. Raises InputError for an unknown preset."""
    chosen, stages = preset_named(PRESETS, preset), Stages(root, root, workers=0)
    make_logs(_shop(chosen), root / "logs", stages)
    make_samples(root / "logs", root / "samples", (COMPOSITION,), stages)


def runs(root: Path, *, preset: str) -> list[Run]:
    """Plan the training of a preset's zoo on the samples under `root`. Raises InputError for an unknown preset."""
    chosen = preset_named(PRESETS, preset)
    samples = root / "samples" / COMPOSITION
    fingerprint = manifest.read(samples, kind="samples")["fingerprint"]
    columns = load(samples, "train", history_len=uniscale.HISTORY_LEN)
    planned = []
    for model in chosen.models:
        for size in chosen.sizes:
            for fraction in chosen.fractions:
                for seed in chosen.seeds:
                    data = DataConfig(
                        samples=fingerprint, composition=COMPOSITION, fraction=fraction, history_len=uniscale.HISTORY_LEN
                    )
                    planned.append(uniscale.plan("zoo", _config(model, size, data, seed), columns))
    return planned


def _config(model: str, size: str, data: DataConfig, seed: int) -> Config:
    config = uniscale.base("s", data=data, num_full_requests=300)
    list_len = LIST_LEN if model in LISTWISE else 0
    return dataclasses.replace(
        config,
        size=f"{model}-{size}",
        model=zoo.config_of(model, size, embed_dim=uniscale.EMBED_DIM),
        train=dataclasses.replace(config.train, seed=seed, list_len=list_len),
        evaluate=dataclasses.replace(config.evaluate, list_len=list_len),
    )


def find_rankers(folder: Path) -> list[Path]:
    """Return the folders of trained rankers in `folder`: its own, its subfolders', or a sweep's runs.

    Raises:
      InputError: there is none.
    """
    places = (Path(), Path("*"), Path("*", "work"), Path("runs", "*", "work"))
    found = {file.parent for place in places for file in folder.glob(str(place / NAME))}
    if not found:
        raise InputError(f"{folder}: holds no trained ranker ({NAME}); give a sweep's directory or a folder of such folders")
    return sorted(found)


def judge(
    shop: online.Shop, rankers: Sequence[Path], control: str, settings: online.Settings, out: Path, *, workers: int
) -> dict[str, Judged]:
    """Put every ranker in charge that is not in `out/worlds` yet; return them judged by each online metric."""
    key = f"{shop.fingerprint}-{settings.requests}-{settings.days}-{settings.seed}-{settings.domains}"
    folder = out / "worlds" / key
    folder.mkdir(parents=True, exist_ok=True)
    arms = [control, *map(str, rankers)]
    online.check_rankers(shop, arms)
    files = {arm: folder / f"{_identity(arm)}.npz" for arm in arms}
    missing = [arm for arm in dict.fromkeys(arms) if not files[arm].is_file()]
    for start in range(0, len(missing), AT_ONCE):
        some = missing[start : start + AT_ONCE]
        sys.stderr.write(f"in charge: {start + 1} to {start + len(some)} of {len(missing)} rankers\n")
        outcome = online.simulate(shop, some, settings, workers=workers)
        for arm, sums in zip(some, outcome.sums, strict=True):
            aside = files[arm].with_suffix(f".{os.getpid()}.tmp")
            with aside.open("wb") as f:
                np.savez_compressed(f, user_id=outcome.user_id, life=outcome.life, requests=outcome.requests, sums=sums)
            aside.replace(files[arm])
    worlds = [_world(files[arm]) for arm in arms]
    sums = np.stack([world.sums[0] for world in worlds])
    data = clusters(worlds[0].user_id, worlds[0].requests, sums, seed=settings.seed)
    records = [online.read_record(ranker) for ranker in rankers]
    offline = {
        name: np.array([r["metrics"][name] for r in records])
        for name in PANELS
        if all(name in r.get("metrics", {}) for r in records)
    }
    if not offline:
        raise InputError(
            f"{rankers[0]}: no record.json with metrics beside every ranker; give folders that training left whole"
        )
    charge = SEGMENTS.index("in charge")
    about = [read_about(ranker) for ranker in rankers]
    return {
        metric: Judged(
            names=[str(r) for r in rankers],
            families=[next(n for n, z in zoo.RANKERS.items() if z.config is type(a.model)) for a in about],
            offline=offline,
            metric=metric,
            control_name=control if control in OWN else "the control",
            requests=data.requests[:, charge],
            control=data.sums[0, :, charge, m],
            sold=data.sums[1:, :, charge, m],
        )
        for m, metric in enumerate(METRICS)
    }


def _identity(arm: str) -> str:
    return arm if arm in OWN else hashlib.sha256(model_file(Path(arm)).read_bytes()).hexdigest()[:16]


def _world(file: Path) -> Outcome:
    with np.load(file, allow_pickle=False) as f:
        return Outcome(user_id=f["user_id"], life=f["life"], requests=f["requests"], sums=f["sums"][None])


def summary(judged: Mapping[str, Judged], settings: online.Settings) -> dict[str, Any]:
    """Return everything that was measured as plain JSON values."""
    first = next(iter(judged.values()))
    return {
        "settings": dataclasses.asdict(settings),
        "control": first.control_name,
        "users": len(first.requests),
        "requests_in_charge": int(first.requests.sum()),
        "rankers": [
            {
                "name": first.names[k],
                "family": first.families[k],
                "offline": {name: float(values[k]) for name, values in first.offline.items()},
                "lift": {metric: of.lifts()[k].plain() for metric, of in judged.items()},
            }
            for k in range(len(first.names))
        ],
        "spearman": {
            metric: {name: rank_correlation(of, name, seed=settings.seed).plain() for name in of.offline}
            for metric, of in judged.items()
        },
    }


def main() -> None:
    """Judge a zoo, print the rank correlations, write `agreement.json` and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--preset", default="small", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--rankers", type=Path, help="folder of trained rankers, or a sweep's directory; none are trained then")
    parser.add_argument("--logs", type=Path, help="with --rankers, logs of their shop")
    parser.add_argument("--control", default="shop", help="shop, random, oracle, or a trained ranker's folder")
    parser.add_argument("--requests", type=int, help="the preset's if not given")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    chosen = preset_named(PRESETS, args.preset)
    settings = online.Settings(
        requests=chosen.requests if args.requests is None else args.requests, seed=args.seed, days=args.days
    )
    if (args.rankers is None) != (args.logs is None):
        raise InputError("--rankers and --logs go together; give both, or neither for a preset's own")
    folder, logs = args.rankers or args.out / "sweep", args.logs or args.out / "logs"
    if args.rankers is None:
        prepare(args.out, preset=args.preset)
        runtime = Runtime(work_dir=str(folder), data_dir=str(args.out.resolve()))
        run_sweep(runs(args.out, preset=args.preset), folder, runtime=runtime, workers=args.workers, title="zoo")
    judged = judge(online.open_shop(logs), find_rankers(folder), args.control, settings, args.out, workers=args.workers)
    found = summary(judged, settings)
    write_atomic(args.out / "agreement.json", json.dumps(found, indent=1))
    style.save(offline_online(judged["clicks"], seed=args.seed), args.out, "agreement")
    for metric, of in found["spearman"].items():
        for name, rho in of.items():
            known = {end: float("nan") if x is None else x for end, x in rho.items()}
            between = f"{known['value']:+.2f} [{known['low']:+.2f}, {known['high']:+.2f}]"
            print(f"{metric:10} {name:36} Spearman {between} over {len(found['rankers'])} rankers")
    print(args.out / "agreement.png")


if __name__ == "__main__":
    run_command("online", main)
