"""Ranking retrieved candidates, measured over the whole catalogue: what retrieval missed is a miss."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen.public import sessions
from data_gen.public.adapter import convert
from data_gen.public.retrieved import RetrieveConfig, retrieve
from experiments import next_item
from experiments.next_item import TOP, Lists
from unisc.config import Runtime, override
from unisc.data.columns import load
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "sessions_next_item"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Sessions that walk on by small steps through 60 items, and ten test cases, some of which nothing can find."""
    folder, rng = tmp_path_factory.mktemp("next"), np.random.default_rng(0)
    train = [(rng.integers(60) + rng.integers(0, 3, rng.integers(2, 8)).cumsum()).tolist() for _ in range(150)]
    ids = pa.list_(pa.int64())
    test = {"prefix": pa.array([row[:-1] for row in train[:20]], ids), "target": [row[-1] for row in train[:15]] + [0] * 5}
    pq.write_table(pa.table({"items": pa.array(train, ids)}), folder / sessions.TRAIN.format("tmall"))
    pq.write_table(pa.table(test), folder / sessions.TEST.format("tmall"))
    convert(sessions.ADAPTERS["sessions_tmall"], folder, folder / "made")
    retrieve(folder / "made", folder / "samples", RetrieveConfig(candidates=30, train_candidates=8, train_requests=300))
    return folder / "samples"


def test_metrics_are_those_of_a_ranking_of_all_items(samples):
    columns = load(samples, "test", history_len=5)
    targets = {row["request_id"]: row["item_ids"] for row in pq.read_table(samples / "targets").to_pylist()}
    lists = Lists.of(columns, next_item.read_targets(samples))
    scores = np.random.default_rng(1).normal(size=len(columns.item_id))
    found = lists.metrics(scores)
    missed = 0
    for r, request in enumerate(columns.request_id.tolist()):
        every = np.full(1000, -np.inf)  # an item that is no candidate comes after all that are
        rows = slice(*columns.candidate_offsets[r : r + 2])
        every[columns.item_id[rows]] = scores[rows]
        (target,) = targets[request]
        rank = 1 + int((every > every[target]).sum()) if np.isfinite(every[target]) else 10**9
        missed += rank == 10**9
        assert found["recall"][request] == found["hr"][request] == (rank <= TOP)
        assert found["mrr"][request] == pytest.approx(1 / rank if rank <= TOP else 0)
        assert found["ndcg"][request] == pytest.approx(1 / np.log2(rank + 1) if rank <= TOP else 0)
    assert 0 < missed < len(targets)
    assert lists.ceiling == pytest.approx(1 - missed / len(targets))
    assert lists.holds_target.sum() == len(targets) - missed


def test_a_request_without_a_list_missed_its_targets(samples):
    columns = load(samples, "test", history_len=5).first(5)
    lists = Lists.of(columns, next_item.read_targets(samples))
    found = lists.metrics(-lists.slot.astype(float))
    assert len(found["recall"]) == 20
    kept = np.isin(np.arange(20), columns.request_id)
    assert found["recall"][~kept].sum() == 0 < found["recall"][kept].sum()


def test_a_list_whose_targets_are_not_known_is_named(samples):
    with pytest.raises(InputError, match="targets: request 0 is not among them; make the samples again"):
        Lists.of(load(samples, "test", history_len=5), {1: 1})


@pytest.mark.parametrize("model", ["dlrm", "hstu"])
def test_a_run_reports_the_model_beside_the_floors(samples, tmp_path, model):
    config = next_item.default(samples, model=model, size="xxs")
    assert getattr(config.model, "context", "shared") == "shared"
    sections = next_item.run(config, Runtime(data_dir=str(samples), work_dir=str(tmp_path)))
    metrics = sections["metrics"]
    for prefix in ("", "retrieval/", "popularity/", "followers/"):
        assert 0 <= metrics[f"eval/{prefix}mrr@{TOP}"] <= metrics[f"eval/{prefix}hr@{TOP}"] <= 1
    assert metrics[f"eval/recall@{TOP}"] <= metrics["eval/retrieval/ceiling"] < 1
    with np.load(tmp_path / "eval.npz") as arrays:
        assert arrays["recall"].mean() == pytest.approx(metrics[f"eval/recall@{TOP}"])


def test_lists_that_cannot_be_won_need_no_score(samples, tmp_path, monkeypatch):
    """Scoring all lists gives the very metrics that scoring those with a target does."""
    config = next_item.default(samples, model="dlrm", size="xxs")
    runs = []
    for everything in (False, True):
        if everything:
            every = property(lambda self: np.ones(len(self.num_targets), bool))
            monkeypatch.setattr(Lists, "holds_target", every)
        runs.append(next_item.run(config, Runtime(data_dir=str(samples), work_dir=str(tmp_path)))["metrics"])
    assert runs[0] == runs[1]


def test_samples_without_targets_and_other_samples_are_one_line(samples, tmp_path):
    config = next_item.default(samples, model="dlrm", size="xxs")
    runtime = Runtime(data_dir=str(samples), work_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"has no targets; give samples that `python -m data_gen.public retrieve` made"):
        next_item.run(config, dataclasses.replace(runtime, data_dir=str(tmp_path)))
    with pytest.raises(InputError, match="but this run is of 0; give those samples"):
        next_item.run(override(config, {"data.samples": "0"}), runtime)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no session benchmarks there; set UNISC_REAL_DATA to its parent")
def test_a_small_ranker_beats_the_rules_on_real_sessions(tmp_path):
    convert(sessions.ADAPTERS["sessions_retailrocket"], REAL, tmp_path / "lists")
    lists = RetrieveConfig(candidates=60, train_candidates=15, train_requests=5_000, test_requests=2_000)
    made = retrieve(tmp_path / "lists", tmp_path / "samples", lists)
    found = made["quality"]
    # In training lists the session at hand counts for nothing; with it, retrieval would find nearly every target.
    assert found["train targets retrieved"] == pytest.approx(found["test targets retrieved"], abs=0.1)
    assert found["floors"]["followers"]["recall@20"] == pytest.approx(0.349, abs=0.03)
    config = next_item.default(tmp_path / "samples", model="dlrm", size="s")
    metrics = next_item.run(config, Runtime(data_dir=str(tmp_path / "samples"), work_dir=str(tmp_path)))["metrics"]
    for name in next_item.METRICS:
        assert metrics[name] > 1.1 * metrics[name.replace("eval/", "eval/followers/")]
        assert metrics[name] > 0.95 * metrics[name.replace("eval/", "eval/retrieval/")]
