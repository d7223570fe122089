"""The zoo's sweep on either experiment: which runs it plans, and the table of their records beside the floors."""

import importlib.util
from pathlib import Path

import pytest

from experiments import next_item, rankers
from sweeps.rankers import grid, interval, table
from unisc.models import zoo


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("tiny_samples", Path(__file__).parents[1] / "data" / "tiny_samples.py")
    assert spec is not None and spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    rows = tiny.random_requests(20, seed=1)
    return tiny.write_samples(tmp_path_factory.mktemp("table") / "samples", train=rows, test=rows)


@pytest.mark.parametrize("experiment", [rankers, next_item])
def test_every_ranker_and_seed_is_a_run_of_the_experiment(samples, experiment):
    planned = grid(samples, models=list(zoo.RANKERS), sizes=["xs"], seeds=[0, 1], fraction=0.5, experiment=experiment)
    assert {run.experiment for run in planned} == {experiment.__name__}
    assert len({run.fingerprint for run in planned}) == 2 * len(zoo.RANKERS)
    assert {run.config["data"]["fraction"] for run in planned} == {0.5}
    assert [run.cost for run in planned] == sorted((run.cost for run in planned), reverse=True)


def record(recall, **floors):
    names = ("recall@20", "ndcg@20", "mrr@20")
    metrics = {f"eval/{name}": recall for name in names}
    metrics |= {f"eval/{floor}/{name}": value for floor, value in floors.items() for name in names}
    return {"metrics": metrics, "counts": {"num_params_dense": 1234}}


def test_floors_stand_below_the_rankers():
    floors = {"popularity": 0.01, "retrieval": 0.125}
    found = {"din s": [record(0.2, **floors), record(0.4, **floors)], "dlrm s": [record(0.3, **floors)]}
    header, din, dlrm, *below = table(found, next_item).splitlines()
    assert header.split() == ["ranker", "seeds", "parameters", "recall@20", "ndcg@20", "mrr@20"]
    assert din.split()[:4] == ["din", "s", "2", "1,234"] and "0.3000 [-0.3314, 0.9314]" in din
    assert "0.3000 (one seed)" in dlrm
    assert [line.split() for line in below] == [["popularity", *["0.0100"] * 3], ["retrieval", *["0.1250"] * 3]]


def test_the_interval_is_students_over_seeds():
    assert interval([0.1, 0.2, 0.3]) == "0.2000 [0.0314, 0.3686]", "0.2 -+ 2.92 x 0.1 / sqrt(3)"
