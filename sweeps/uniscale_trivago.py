"""The UniScale line on real request logs: trivago sessions, shown hotel lists with prices and one click-out each.

What these logs can say: whether other actions of a session ("browse"), attributed to the lists that were shown, help a ranker
of click-outs, and whether HHSFT beats rules that need no model. What they cannot: candidates that were not shown and lists
behind browse events are not in them, so `unexposed` equals `exposed` and `searchified` equals `attributed`, and there is no
oracle. MRR and NDCG stand beside three floors, computed in the same run on the same lists.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from data_gen.public import trivago
from experiments.uniscale import Config, DataConfig
from sweeps.stages import Stages, make_samples
from sweeps.uniscale import HISTORY_LEN, base, finish, plan, volumes
from unisc.data import manifest
from unisc.data.columns import Columns, load
from unisc.errors import InputError
from unisc.sweep.plan import Run, run_folder
from unisc.train.evaluate import Scores, evaluate_scores

COMPOSITIONS = ("exposed", "attributed")
"""The two that differ on these logs; `attributed` is the entire-space one."""

DRAWS = 2_000

TABLE_LEARNING_RATE = 0.03
"""Most hotels are seen once or twice: rows learn slowly, or a pass is enough to remember them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Sizes and shares of the train sessions' click-outs, and the seeds of every cell."""

    sizes: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]


PRESETS = MappingProxyType(
    {
        "smoke": Preset(sizes=("s",), fractions=(1.0,), seeds=(0, 1)),
        "laptop": Preset(sizes=("xs", "s", "m"), fractions=(0.25, 0.5, 1.0), seeds=(0, 1, 2)),
    }
)


def points(preset: Preset, samples: Mapping[str, str]) -> list[Config]:
    """List a preset's configurations; `samples` gives each composition's fingerprint."""
    found = []
    for seed in preset.seeds:
        for composition in COMPOSITIONS:
            for fraction in preset.fractions:
                data = DataConfig(
                    samples=samples[composition], composition=composition, fraction=fraction, history_len=HISTORY_LEN
                )
                for size in preset.sizes:
                    made = base(size, data=data, num_full_requests=1)
                    train = dataclasses.replace(made.train, seed=seed, table_learning_rate=TABLE_LEARNING_RATE)
                    found.append(dataclasses.replace(made, train=train))
    return found


def prepare(root: Path, *, preset: str) -> None:
    """Convert the logs in `root/trivago` and build the samples where they are missing.

    Raises:
      InputError: an unknown preset, or no logs there; make a link to their folder.
    """
    preset_named(preset)
    stages = Stages(root, root, workers=0)
    make_logs(root / "trivago", root / "logs", stages)
    make_samples(root / "logs", root / "samples", COMPOSITIONS, stages)


def runs(root: Path, *, preset: str) -> list[Run]:
    """Plan a preset's runs on what `prepare` has made in `root`. Raises InputError for an unknown preset."""
    samples = {c: manifest.read(root / "samples" / c, kind="samples")["fingerprint"] for c in COMPOSITIONS}
    columns = {c: load(root / "samples" / c, "train", history_len=HISTORY_LEN) for c in COMPOSITIONS}
    return [plan("grid", config, columns[config.data.composition]) for config in points(preset_named(preset), samples)]


def preset_named(name: str) -> Preset:
    """Return a preset. Raises InputError where there is none of that name."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r} for trivago; the presets are: {', '.join(PRESETS)}")
    return PRESETS[name]


def study(*, path: Path, preset: str, out: Path, work: Path, workers: int) -> Path:
    """Run the study on a folder of trivago logs and write its report to `out`; return the page's path."""
    preset_named(preset)
    stages = Stages(work, out, workers=workers)
    with stages("logs"):
        logs = make_logs(path, work / "logs", stages)
    with stages("samples"):
        samples = make_samples(work / "logs", work / "samples", COMPOSITIONS, stages)
    columns = {c: load(work / "samples" / c, "train", history_len=HISTORY_LEN) for c in COMPOSITIONS}
    test = load(work / "samples" / COMPOSITIONS[0], "test", history_len=HISTORY_LEN)
    configs = points(PRESETS[preset], {name: m["fingerprint"] for name, m in samples.items()})
    planned = [plan("grid", config, columns[config.data.composition]) for config in configs]
    per_request = floors(test)

    def facts(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "preset": preset,
            "source": "trivago",
            "domains": logs["domains"],
            "stationary": False,
            "logs": {"fingerprint": logs["fingerprint"], "counts": logs["counts"], "quality": logs["quality"]},
            "volumes": volumes(samples),
            "real": {
                "num_requests": len(per_request["shown_order"]["mrr"]),
                "floor": {rule: {k: float(v.mean()) for k, v in found.items()} for rule, found in per_request.items()},
                "paired": paired(records, planned, work / "sweep", per_request["last_touched_first"]["mrr"]),
            },
        }

    return finish(planned, work, out, stages, facts)


def make_logs(path: Path, out: Path, stages: Stages) -> dict[str, Any]:
    """Convert the events in `path` unless that was done already; return the logs' manifest.

    Raises:
      InputError: `out` holds the logs of other events.
    """
    if out.exists():
        found, events = manifest.read(out, kind="logs"), path / "events.parquet"
        if not events.is_file() or found["config"].get("events_sha256") != manifest.file_sha256(events):
            raise InputError(f"{out}: not made from {events}; remove {out.parent} or give another --work")
        return found
    stages.say(f"reading {path}")
    return trivago.convert(path, out)


def floors(test: Columns) -> dict[str, dict[str, np.ndarray]]:
    """Return MRR and NDCG of each test list under rules that need no model, on the lists the models are measured on."""
    names = [f.name for f in test.spec.numeric]
    shown = np.arange(len(test.item_id)) - np.repeat(test.candidate_offsets[:-1], np.diff(test.candidate_offsets))
    touched = test.candidate_numeric[:, names.index("reciprocal_touch_rank")]
    rules = {
        "shown_order": -shown,
        "cheapest_first": -test.candidate_numeric[:, names.index("log_price_over_mean")] - 1e-6 * shown,
        "last_touched_first": touched - 1e-6 * shown,
    }
    nothing = np.full(len(shown), np.nan, np.float32)
    found = {}
    for rule, score in rules.items():
        arrays = evaluate_scores(Scores(exposed=score.astype(np.float32), full=nothing), test).arrays
        found[rule] = {"mrr": arrays["exposed/mrr"], "ndcg": arrays["exposed/ndcg"]}
    return found


def paired(
    records: Sequence[Mapping[str, Any]], planned: Sequence[Run], sweep: Path, floor: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return each composition's MRR less the last-touched floor's at the largest model on all data, over the same lists.

    The mean is over seeds and lists; the 90 % interval resamples lists, since they are what is few here.
    """
    done = {record["fingerprint"] for record in records}
    largest = max(planned, key=lambda run: run.cost).config["size"]
    rng = np.random.default_rng(0)
    found = {}
    for composition in COMPOSITIONS:
        runs = [
            run
            for run in planned
            if run.fingerprint in done
            and run.config["size"] == largest
            and run.config["data"]["composition"] == composition
            and run.config["data"]["fraction"] == 1.0
        ]
        if not runs:
            continue
        each = [np.load(run_folder(sweep, run.fingerprint) / "work" / "eval.npz")["exposed/mrr"] for run in runs]
        difference = np.mean(each, axis=0) - floor
        draws = difference[rng.integers(0, len(difference), (DRAWS, len(difference)))].mean(axis=1)
        low, high = np.quantile(draws, [0.05, 0.95])
        found[composition] = {
            "value": float(difference.mean()),
            "low": float(low),
            "high": float(high),
            "num_requests": len(difference),
            "num_seeds": len(runs),
        }
    return found
