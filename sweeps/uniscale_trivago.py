"""The UniScale line on real request logs: trivago sessions, shown hotel lists with prices and one click-out each.

What these logs can say: whether other actions of a session ("browse"), attributed to the lists that were shown, help a ranker
of click-outs, and whether HHSFT beats rules that need no model. What they cannot: candidates that were not shown and lists
behind browse events are not in them, so `unexposed` equals `exposed` and `searchified` equals `attributed`, and there is no
oracle. Every train list is a search, so isolation has no foreign domain to keep apart: its ablation is a control, in which a
difference would be one of structure. MRR and NDCG stand beside three floors, computed on the same lists.
"""

from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from data_gen.public import trivago
from sweeps import real_logs
from sweeps.real_logs import Preset, Source
from sweeps.stages import Stages, make_samples
from unisc.data import manifest
from unisc.data.columns import Columns
from unisc.errors import InputError

COMPOSITIONS = ("exposed", "attributed")
"""The two that differ on these logs; `attributed` is the entire-space one."""

TABLE_LEARNING_RATE = 0.03
"""Most hotels are seen once or twice: rows learn slowly, or a pass is enough to remember them."""

PRESETS = MappingProxyType(
    {
        "smoke": Preset(sizes=("s",), fractions=(1.0,), seeds=(0, 1)),
        "laptop": Preset(
            sizes=("xs", "s", "m", "xl"), fractions=(0.25, 0.5, 1.0), seeds=(0, 1, 2), isolations=("none", "dref", "dapga")
        ),
    }
)


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


def make(path: Path, root: Path, stages: Stages) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Make logs and samples under `root`, or find them; return the logs' manifest and the samples' by composition."""
    logs = make_logs(path, root / "logs", stages)
    return logs, make_samples(root / "logs", root / "samples", COMPOSITIONS, stages)


def rules(test: Columns, shown: np.ndarray) -> dict[str, np.ndarray]:
    """Score the test candidates by rules, the strongest first; `shown` is their place in the list."""
    names = [f.name for f in test.spec.numeric]
    touched = test.candidate_numeric[:, names.index("reciprocal_touch_rank")]
    return {
        "last_touched_first": touched - 1e-6 * shown,
        "shown_order": -shown,
        "cheapest_first": -test.candidate_numeric[:, names.index("log_price_over_mean")] - 1e-6 * shown,
    }


SOURCE = Source(
    name="trivago",
    folder="trivago_rs19_100k",
    compositions=COMPOSITIONS,
    presets=PRESETS,
    make=make,
    rules=rules,
    table_learning_rate=TABLE_LEARNING_RATE,
)

prepare, runs = partial(real_logs.prepare, SOURCE), partial(real_logs.runs, SOURCE)
