"""The UniScale ablation on real logs: composition x isolation x size x data, beside rules that need no model.

What differs between logs (how they become samples, which compositions they support, which rules stand as floors) is a `Source`;
the points are the same. There is no oracle, and nothing of what was not recorded: each source's limits are in its own file.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.uniscale import Config, DataConfig, with_isolation
from sweeps.planning import preset_named
from sweeps.stages import Stages
from sweeps.uniscale import HISTORY_LEN, base, finish, plan, volumes
from unisc.config import override
from unisc.data import manifest
from unisc.data.columns import Columns, load
from unisc.errors import InputError
from unisc.models.hhsft import Isolation
from unisc.sweep.plan import Run, run_folder
from unisc.train.evaluate import Scores, evaluate_scores

DATA = "UNISC_REAL_DATA"
"""The environment variable that names the folder which holds the real logs, each in a folder of its own."""
FLOORS = "floors.npz"
DRAWS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Sizes, shares of the train requests, and the seeds of every cell; the shares are met with both modules alone.

    `isolations` are the others, met on all data; with `equal_volumes` the compositions are also cut to the first one's samples.
    """

    sizes: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    isolations: tuple[Isolation, ...] = ()
    equal_volumes: bool = False


Rules = Callable[[Columns, np.ndarray], Mapping[str, np.ndarray]]
"""From the test columns and the place of each candidate in its list: scores by rule, the strongest rule first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One kind of real logs.

    Attributes:
      name: as the study's `--source`.
      folder: of the logs within the folder that UNISC_REAL_DATA names.
      compositions: which of ES3's differ on these logs, the base first.
      presets: by name.
      make: makes logs/ and samples/ of a folder of source files under a root, or finds them; returns both manifests' contents.
      rules: rankings that need no model.
      table_learning_rate: of embedding rows.
    """

    name: str
    folder: str
    compositions: tuple[str, ...]
    presets: Mapping[str, Preset]
    make: Callable[[Path, Path, Stages], tuple[dict[str, Any], dict[str, dict[str, Any]]]]
    rules: Rules
    table_learning_rate: float

    def data(self) -> Path:
        """Return the folder of the source files.

        Raises:
          InputError: the variable is not set, or the folder is not there.
        """
        if not (named := os.environ.get(DATA)):
            raise InputError(
                f"{self.name}: the folder of real logs is not known; set {DATA} to the one that holds {self.folder}"
            )
        if not (path := Path(named, self.folder)).is_dir():
            raise InputError(f"{path}: no such folder; set {DATA} to the one that holds {self.folder}")
        return path


def prepare(source: Source, root: Path, *, preset: str) -> None:
    """Make logs, samples and the floors' file under `root` where they are missing; another preset changes none of them.

    Raises:
      InputError: what is there is of other logs or another configuration, or is missing and the source is not at hand.
    """
    preset_named(source.presets, preset)
    made = [root / "samples" / name / manifest.NAME for name in source.compositions]
    try:
        path = source.data()
    except InputError:
        if not all(file.is_file() for file in (*made, root / FLOORS)):
            raise
        return  # nothing is missing, so the source is not needed
    source.make(path, root, Stages(root, root, workers=0))
    written = (root / FLOORS).stat().st_mtime_ns if (root / FLOORS).is_file() else 0
    if written < max(file.stat().st_mtime_ns for file in made):
        write_floors(source, root)


def runs(source: Source, root: Path, *, preset: str) -> list[Run]:
    """Plan a preset's runs on the samples under `root`, each with its predicted cost."""
    chosen = preset_named(source.presets, preset)
    columns = {c: load(root / "samples" / c, "train", history_len=HISTORY_LEN) for c in source.compositions}
    samples = {c: manifest.read(root / "samples" / c, kind="samples")["fingerprint"] for c in source.compositions}
    num_examples = {c: of.num_examples for c, of in columns.items()}
    found = points(chosen, samples, num_examples, table_learning_rate=source.table_learning_rate)
    return [plan(study, config, columns[config.data.composition]) for study, config in found]


def points(
    preset: Preset, samples: Mapping[str, str], num_examples: Mapping[str, int], *, table_learning_rate: float
) -> list[tuple[str, Config]]:
    """List a preset's configurations with their labels.

    `samples` gives each composition's fingerprint, the base first, `num_examples` how many candidates it holds.
    """

    def config(size: str, composition: str, fraction: float, seed: int) -> Config:
        data = DataConfig(samples=samples[composition], composition=composition, fraction=fraction, history_len=HISTORY_LEN)
        made = base(size, data=data, num_full_requests=1)
        return override(made, {"train.seed": seed, "train.table_learning_rate": table_learning_rate})

    found = []
    for seed in preset.seeds:
        for composition in samples:
            for fraction in preset.fractions:
                found += [("grid", config(size, composition, fraction, seed)) for size in preset.sizes]
            whole = [config(size, composition, preset.fractions[-1], seed) for size in preset.sizes]
            found += [("ablation", with_isolation(one, i)) for one in whole for i in preset.isolations]
            share = round(num_examples[next(iter(samples))] / num_examples[composition], 4)
            if preset.equal_volumes and share < 1:
                found += [("volume", config(size, composition, share, seed)) for size in preset.sizes]
    return found


def floors(source: Source, test: Columns) -> dict[str, dict[str, np.ndarray]]:
    """Return MRR and NDCG of each test list under the source's rules, on the lists the models are measured on."""
    place = np.arange(len(test.item_id)) - np.repeat(test.candidate_offsets[:-1], np.diff(test.candidate_offsets))
    nothing = np.full(len(place), np.nan, np.float32)
    found = {}
    for rule, score in source.rules(test, place).items():
        arrays = evaluate_scores(Scores(exposed=score.astype(np.float32), full=nothing), test).arrays
        found[rule] = {"mrr": arrays["exposed/mrr"], "ndcg": arrays["exposed/ndcg"]}
    return found


def write_floors(source: Source, root: Path) -> dict[str, dict[str, np.ndarray]]:
    """Write the floors of the test part under `root`, list by list, and return them."""
    test = load(root / "samples" / source.compositions[0], "test", history_len=HISTORY_LEN)
    found = floors(source, test)
    flat = {f"{rule}/{metric}": values for rule, by_metric in found.items() for metric, values in by_metric.items()}
    aside = root / f".{os.getpid()}.{FLOORS}"
    np.savez_compressed(aside, allow_pickle=False, **flat)
    aside.replace(root / FLOORS)
    return found


def study(source: Source, *, path: Path, preset: str, out: Path, work: Path, workers: int) -> Path:
    """Run the study on a folder of real logs and write its report to `out`; return the page's path."""
    preset_named(source.presets, preset)
    stages = Stages(work, out, workers=workers)
    with stages("logs"):
        logs, samples = source.make(path, work, stages)
    with stages("samples"):
        per_request = write_floors(source, work)
        planned = runs(source, work, preset=preset)
    strongest = next(iter(per_request))

    def facts(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "preset": preset,
            "source": source.name,
            "domains": samples[source.compositions[0]]["domains"],
            "stationary": False,
            "logs": {"fingerprint": logs["fingerprint"], "counts": logs["counts"], "quality": logs["quality"]},
            "volumes": volumes(samples),
            "real": {
                "num_requests": len(per_request[strongest]["mrr"]),
                "floor": {rule: {k: float(v.mean()) for k, v in found.items()} for rule, found in per_request.items()},
                "paired": paired(source, records, planned, work / "sweep", per_request[strongest]["mrr"]),
            },
        }

    return finish(planned, work, out, stages, facts)


def paired(
    source: Source, records: Sequence[Mapping[str, Any]], planned: Sequence[Run], sweep: Path, floor: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return each composition's MRR less a floor's at the largest model with both modules on all data, over the same lists.

    The mean is over seeds and lists; the 90 % interval resamples lists, since they are what is few here.
    """
    done = {record["fingerprint"] for record in records}
    grid = [run for run in planned if run.label.startswith("grid/")]
    largest = max(grid, key=lambda run: run.cost).config["size"]
    rng = np.random.default_rng(0)
    found = {}
    for composition in source.compositions:
        wanted = (largest, composition, 1.0)
        of = [
            run
            for run in grid
            if run.fingerprint in done
            and (run.config["size"], run.config["data"]["composition"], run.config["data"]["fraction"]) == wanted
        ]
        if not of:
            continue
        each = [np.load(run_folder(sweep, run.fingerprint) / "work" / "eval.npz")["exposed/mrr"] for run in of]
        difference = np.mean(each, axis=0) - floor
        draws = difference[rng.integers(0, len(difference), (DRAWS, len(difference)))].mean(axis=1)
        low, high = np.quantile(draws, [0.05, 0.95])
        found[composition] = {
            "value": float(difference.mean()),
            "low": float(low),
            "high": float(high),
            "num_requests": len(difference),
            "num_seeds": len(of),
        }
    return found
