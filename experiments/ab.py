"""`unisc ab`: two rankers in charge of the shop's pages, compared online and offline; see `experiments.online`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from analysis.online import agreement, clusters, compare
from data_gen.marketplace.online import METRICS, OWN, SEGMENTS
from experiments import online
from unisc.train.trained import model_file


def ab(
    control: str,
    treatment: str,
    logs: Path,
    settings: online.Settings,
    *,
    workers: int,
    looks: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run a test; return `settings`, both rankers, `online` (see `analysis.online.compare`) and `offline` (see `agreement`).

    Raises:
      InputError: as `online.open_shop`, `online.check_rankers` and `online.check_different`.
    """
    shop = online.open_shop(logs)
    online.check_rankers(shop, (control, treatment))
    online.check_different(control, treatment)
    outcome = online.simulate(shop, (control, treatment), settings, workers=workers, progress=progress)
    data = clusters(outcome.user_id, outcome.requests, outcome.sums, seed=settings.seed)
    found = compare(data, SEGMENTS, METRICS, seed=settings.seed, looks=looks)
    records, arrays = [], []
    for ranker in (control, treatment):
        if ranker not in OWN:
            records.append(online.read_record(Path(ranker)).get("metrics", {}))
            file = model_file(Path(ranker)).with_name("eval.npz")
            if file.is_file():
                with np.load(file, allow_pickle=False) as of:
                    arrays.append(dict(of))
    return {
        "control": control,
        "treatment": treatment,
        "logs": shop.fingerprint,
        "settings": dataclasses.asdict(settings),
        "online": found,
        "offline": agreement(found, records[0], records[1], arrays) if len(records) == 2 else [],
    }
