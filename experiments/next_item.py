"""The next item of a session, or the held-out items of a user, out of the whole catalogue: a funnel's second stage.

Question:  does a ranker order the candidates of item-to-item retrieval better than retrieval does itself, and is the funnel
           better than rules over all items (popularity, or what followed the last item)?
Command:   `python -m data_gen.public convert sessions_retailrocket FOLDER --out LISTS`,
           `python -m data_gen.public retrieve LISTS --out SAMPLES`, then
           `unisc train experiments/next_item.py --samples SAMPLES --model hstu --size s --out DIR`.
Cost:      a minute for the samples, then one to two minutes of one core a ranker of size s.
Expected:  a good deal above both rules, since retrieval already is; above retrieval's own order by what the ranker learns of
           single items and of repeats in a session. Metrics are bounded by retrieval's ceiling: what it missed is a miss.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from experiments import rankers
from experiments.rankers import Config
from unisc import metrics
from unisc.config import Runtime, override
from unisc.data import manifest
from unisc.data.columns import Columns
from unisc.errors import InputError
from unisc.train.evaluate import CLICK, score

VERSION = 1
"""Raised by hand whenever the same configuration would give other numbers."""

TOP = 20
METRICS = tuple(f"eval/{name}@{TOP}" for name in ("recall", "ndcg", "mrr"))
"""The metrics a comparison shows; with one target a request, recall is what session papers call P@20 or HR@20."""
FLOORS = ("popularity", "followers", "retrieval")
"""What the same requests give without a model: two rules over all items, and the order in which retrieval proposes."""
LIST_LEN, TEST_LIST_LEN = 20, 100
"""Where lists of the train and the test split are cut: as long as `retrieve` makes them by default, so not at all."""


def default(samples: Path, *, model: str = "hhsft", size: str = "s", seed: int = 0) -> Config:
    """Return the configuration of a ranker by name and size on samples that `retrieve` made.

    Where an architecture allows it, the context of a list is computed once for all its candidates: there are many.
    """
    config = rankers.default(samples, model=model, size=size, seed=seed)
    lengths = (LIST_LEN, TEST_LIST_LEN) if model in rankers.LISTWISE else (0, 0)
    changes: dict[str, Any] = {"train.purchase_weight": 0.0, "train.list_len": lengths[0]}
    changes |= {"evaluate.list_len": lengths[1], "evaluate.num_full_requests": 0}
    if hasattr(config.model, "context"):
        changes["model.context"] = "shared"
    return override(config, changes)


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Train one ranker on the samples in `runtime.data_dir` and rank all candidates of the test requests."""
    began = time.perf_counter()
    samples = Path(runtime.data_dir)
    targets = read_targets(samples)
    train_columns, test_columns = rankers.read(config.data, samples)
    trained = rankers.fit(config, train_columns, runtime)

    # The evaluation. A list that holds no target is a miss in whatever order, so it need not be scored.
    lists = Lists.of(test_columns, targets)
    decided = dataclasses.replace(test_columns, exposed=lists.holds_target[lists.group])
    logits = score(trained.model, trained.state, decided, config.evaluate, row_map=trained.row_map).exposed
    found = lists.metrics(np.nan_to_num(logits, nan=0.0))
    by_retrieval = lists.metrics(-lists.slot.astype(np.float64))
    np.savez_compressed(Path(runtime.work_dir) / "eval.npz", allow_pickle=False, **found)
    means = {f"eval/{name}@{TOP}": float(each.mean()) for name, each in found.items()}
    means |= {f"eval/retrieval/{name}@{TOP}": float(each.mean()) for name, each in by_retrieval.items()}
    means["eval/retrieval/ceiling"] = lists.ceiling
    for rule, reached in manifest.read(samples, kind="samples")["quality"]["floors"].items():
        means |= {f"eval/{rule}/{name}": value for name, value in reached.items()}
    return rankers.record(config, trained, means, began=began)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lists:
    """Retrieval's lists: each candidate's request, slot from 0 and label, and how many targets each of all requests had."""

    offsets: Int[np.ndarray, " Q1"]
    group: Int[np.ndarray, " N"]
    slot: Int[np.ndarray, " N"]
    target: Bool[np.ndarray, " N"]
    num_targets: Int[np.ndarray, " G"]

    @classmethod
    def of(cls, columns: Columns, targets: Mapping[int, int]) -> "Lists":
        """Take the lists of a test split; a request without a list missed its targets.

        Raises:
          InputError: a list whose targets are not known.
        """
        if missing := sorted(set(columns.request_id.tolist()) - targets.keys()):
            raise InputError(f"targets: request {missing[0]} is not among them; make the samples again")
        known, lengths = np.array(sorted(targets)), np.diff(columns.candidate_offsets)
        return cls(
            offsets=columns.candidate_offsets,
            group=np.repeat(np.searchsorted(known, columns.request_id), lengths),
            slot=np.arange(len(columns.item_id)) - np.repeat(columns.candidate_offsets[:-1], lengths),
            target=columns.labels[:, CLICK] > 0,
            num_targets=np.array([targets[i] for i in known.tolist()]),
        )

    @property
    def holds_target(self) -> Bool[np.ndarray, " G"]:
        """Which requests have a target in their list."""
        return np.bincount(self.group, weights=self.target, minlength=len(self.num_targets)) > 0

    @property
    def ceiling(self) -> float:
        """Mean share of a request's targets that are in its list: the recall of the best order at any cut."""
        return float(np.mean(np.bincount(self.group[self.target], minlength=len(self.num_targets)) / self.num_targets))

    def metrics(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Return each request's metrics (see `metrics.found_at`) when its candidates are ranked by these scores."""
        rank = metrics.ranks(self.target.astype(np.float64), scores, self.offsets)
        return metrics.found_at(TOP, rank[self.target], self.group[self.target], self.num_targets)


def read_targets(samples: Path) -> dict[int, int]:
    """Return how many targets each test request had, found or not.

    Raises:
      InputError: samples without that table: they were not made by retrieval.
    """
    file = samples / "targets" / "part-00000.parquet"
    if not file.is_file():
        raise InputError(f"{samples}: has no targets; give samples that `python -m data_gen.public retrieve` made")
    table = pq.read_table(file)
    return {row["request_id"]: len(row["item_ids"]) for row in table.to_pylist()}
