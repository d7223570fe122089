"""The UniScale ablation on RetailRocket: what a visitor puts into the cart is the target, purchases and views are foreign.

Every action is a request (see `data_gen.public.actions`): given what a visitor did before, on which item does he act now? The
ranker is measured on carts. `attributed` adds to the carts' lists what the visitor bought or viewed within a day; `searchified`
adds to the carts, with their own labels, the requests that ended in a purchase or a view, as domains of their own: here
isolation can pay.

The target was chosen by rules alone, before any model (`python -m data_gen.public actions LOGS --target purchase`): which item
is bought is known from the cart (its items, the latest first, have MRR .958 on test lists), and without the items touched
before (`--touched 0`) the list holds what is bought in 0.5 % of the test purchases. A cart leaves more to a model: the item
touched last has MRR .865, on the 58 % of test carts whose item is in the list.

What these logs cannot say: no list was recorded, so each is a proposal (last touched items, then item-to-item retrieval), an
"exposed" candidate was seen by nobody, and there is no `unexposed`. The subset has one row a pair and kind with one time: an
item bought is never bought again, a view is almost never of an item touched before, and a view that is stamped after its cart
(3,268 of the 10,860 pairs with both) is taken as it stands. So what tells a cart (the item was just viewed) tells against a
view by construction, more than in a log of all events. Visitors and items have no features. There is no oracle.
"""

from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from data_gen.public import actions, adapter, retailrocket
from data_gen.public.actions import COMPOSITIONS, ActionsConfig
from sweeps import real_logs
from sweeps.real_logs import Preset, Source
from sweeps.stages import Stages
from unisc.config import to_plain
from unisc.data import manifest
from unisc.data.columns import Columns
from unisc.errors import InputError

TABLE_LEARNING_RATE = 0.03
"""As on trivago: most items are met once or twice."""

CONFIG = ActionsConfig(target="cart")

PRESETS = MappingProxyType(
    {
        "smoke": Preset(sizes=("xs", "s"), fractions=(1.0,), seeds=(0, 1), isolations=("none",)),
        "laptop": Preset(
            sizes=("xs", "s", "m", "xl"),
            fractions=(0.25, 0.5, 1.0),
            seeds=(0, 1, 2),
            isolations=("none", "dref", "dapga"),
            equal_volumes=True,
        ),
    }
)


def make(path: Path, root: Path, stages: Stages) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Convert the events in `path` and make the samples under `root`, or find them; return the manifests.

    Raises:
      InputError: what is there was made of other events or another configuration.
    """
    events, samples = root / "logs", root / "samples"
    if not events.exists():
        stages.say(f"reading {path}")
        adapter.convert(retailrocket.ADAPTER, path, events)
    logs = manifest.read(events, kind="events")
    if missing := [name for name in COMPOSITIONS if not (samples / name).exists()]:
        stages.say(f"building {', '.join(missing)}")
        actions.build(events, samples, CONFIG, missing)
    made = {name: manifest.read(samples / name, kind="samples") for name in COMPOSITIONS}
    for name, m in made.items():
        source = {"source": logs["config"]["source"], "fingerprint": logs["fingerprint"]}
        wanted = {**to_plain(CONFIG), "version": actions.VERSION, "made_from": source, "composition": name}
        if m["config"] != wanted:
            raise InputError(
                f"{samples / name}: samples of other events or another version; remove {root} or give another folder"
            )
    return logs, made


def rules(test: Columns, place: np.ndarray) -> dict[str, np.ndarray]:
    """Score the test candidates by rules, the strongest first; `place` is their place in the list."""
    names = [f.name for f in test.spec.numeric]
    retrieved, popularity = (test.candidate_numeric[:, names.index(name)] for name in ("score_over_best", "log_count"))
    return {
        "last_touched_first": -place,
        "retrieval_first": retrieved - 1e-6 * place,
        "popular_first": popularity - 1e-6 * place,
    }


SOURCE = Source(
    name="retailrocket",
    folder="retailrocket_multibehavior",
    compositions=COMPOSITIONS,
    presets=PRESETS,
    make=make,
    rules=rules,
    table_learning_rate=TABLE_LEARNING_RATE,
)

prepare, runs = partial(real_logs.prepare, SOURCE), partial(real_logs.runs, SOURCE)
