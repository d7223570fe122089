"""The comparison of contexts pairs runs by seed and takes differences in one direction."""

import importlib.util
from pathlib import Path

import pytest

from experiments.rankers import METRICS
from sweeps import contexts
from sweeps.rankers import interval


def record(value):
    return {"metrics": dict.fromkeys(METRICS, value)}


def test_differences_are_of_like_seeds_and_shared_less_joint():
    seeds = {0: 0.5, 1: 0.6, 2: 0.7}
    records = {("hhsft", "joint", s): record(v) for s, v in seeds.items()}
    records |= {("hhsft", "shared", s): record(v - 0.01) for s, v in seeds.items()}
    del records["hhsft", "joint", 2]
    joint, shared, less = contexts.table(records).splitlines()[1:]
    assert joint.split()[1] == "2" and "0.5500" in joint and "0.5400" in shared
    assert less.count("-0.0100 [-0.0100, -0.0100]") == len(METRICS), "the seeds' own spread is not in it"


def test_the_interval_is_students():
    assert interval([0.1, 0.3], signed=True) == "+0.2000 [-0.4314, +0.8314]"  # 6.3138 x .1


def test_pairs_differ_in_the_context_alone(tmp_path):
    root = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location("tiny_samples", root / "data" / "tiny_samples.py")
    assert spec is not None and spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    train, test = tiny.random_requests(20, seed=1), tiny.random_requests(10, seed=2, first_id=1000)
    samples = tiny.write_samples(tmp_path / "exposed", train=train, test=test)
    planned = contexts.pairs(samples, models=contexts.MODELS, size="xxs", seeds=[3, 4])
    assert len({run.fingerprint for run in planned.values()}) == len(planned) == 12
    for model in contexts.MODELS:
        joint, shared = (planned[model, context, 4].config for context in ("joint", "shared"))
        assert joint["model"].pop("context") == "joint" and shared["model"].pop("context") == "shared"
        assert joint == shared and joint["train"]["seed"] == 4


@pytest.mark.parametrize("seeds", [["0"], ["1", "1"]])
def test_one_seed_gives_no_interval(tmp_path, capsys, monkeypatch, seeds):
    monkeypatch.setattr("sys.argv", ["contexts", str(tmp_path), "--out", str(tmp_path / "out"), "--seeds", *seeds])
    with pytest.raises(Exception, match="an interval needs two different seeds"):
        contexts.main()
