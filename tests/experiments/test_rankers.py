"""`unisc train` takes any ranker from samples to a record, and names a mistake in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import rankers
from unisc.config import Runtime, override
from unisc.data.schema import SAMPLES

ROOT = Path(__file__).parents[2]
CODE = "from unisc.cli import main; main()"


@pytest.fixture(scope="module")
def samples(tiny, tmp_path_factory):
    train, test = tiny.random_requests(200, seed=1), tiny.random_requests(80, seed=2, first_id=1000)
    return tiny.write_samples(tmp_path_factory.mktemp("rankers") / "exposed", train=train, test=test)


def unisc(*arguments):
    command = [sys.executable, "-c", CODE, "train", *map(str, arguments)]
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("model", "devices"), [("dlrm", 1), ("transformer", 2)])
def test_a_ranker_is_trained_scored_and_recorded(samples, tmp_path, model, devices):
    options = ["--set", "train.batch_candidates=64", "--set", "train.list_len=8", "--set", "evaluate.list_len=8"]
    options += ["--set", f"train.remat={'true' if model == 'transformer' else 'false'}"]
    done = unisc("experiments/rankers.py", "--samples", samples, "--out", tmp_path / "out", "--model", model, "--size", "xs",
                 "--devices", devices, *options)  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["config"]["train"]["remat"] == (model == "transformer")
    assert record["devices"] == record["config"]["train"]["num_parts"] == devices
    assert 0 < record["metrics"]["eval/exposed/auc_roc"] < 1
    assert record["counts"]["num_params_dense"] > 0 and record["counts"]["num_examples"] > 0
    assert 0 < record["counts"]["forward_bytes"] < record["counts"]["train_flops"]
    assert "eval/exposed/auc_roc" in done.stdout
    assert (tmp_path / "out" / "metrics.jsonl").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiments/rankers.py", "--model", "none"], "model 'none': unknown; give one of dcn"),
        (["experiments/rankers.py", "--set", "train.rate=1"], "train.rate"),
        (["experiments/rankers.py", "--set", "nonsense"], "--set nonsense: not understood"),
        (["experiments/nothing.py"], "experiments/nothing.py: no such experiment"),
        (["os.py"], "'os': not an allowed experiment module"),
        (["experiments/rankers.py", "--devices", "0"], "--devices 0: must be at least 1"),
        (["experiments/rankers.py", "--devices", "3"], "num_parts 3: give a divisor of batch_candidates 512"),
        (["experiments/rankers.py", "--devices", "3", "--set", "train.num_parts=4"], "num_parts 4: 3 devices cannot share"),
        (["experiments/rankers.py", "--model", "transformer", "--set", "model.num_heads=5"], "not divide into num_heads=5"),
        (["experiments/rankers.py", "--set", "evaluate.list_len=0"], "evaluate.list_len 0, train.list_len 16: set both"),
        (["experiments/rankers.py", "--set", "data.history_len=-1"], "history_len -1: give at least 0"),
        (["experiments/rankers.py", "--model", "hstu", "--set", "train.hash_rows=9"], "hash_rows 9: hashes table history_age"),
    ],
)
def test_a_mistake_is_one_line(samples, tmp_path, arguments, message):
    done = unisc(
        *arguments, "--samples", samples, "--out", tmp_path / "out", *(() if "--devices" in arguments else ("--devices", "1"))
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("domain", "ads", "/train: domain 'ads' of request 5 is not one of the manifest's ['search', 'rec', 'shop']"),
        ("item_id", [99, 0], "/train: item_id 99 of request 5 is not in its table of 50"),
        ("click_weight", [1.0, float("nan")], "/train: click_weight nan of request 5 is negative or not a number"),
        ("touches", None, "/train/part-00000.parquet: column touches is missing"),
    ],
)
def test_a_fault_of_the_samples_is_one_line(tiny, tmp_path, column, value, message):
    row = tiny.request(request_id=5, item_id=[0, 1])
    at = SAMPLES.get_field_index(column)
    schema = SAMPLES.remove(at) if value is None else SAMPLES
    directory = tiny.write_samples(tmp_path / "s", train=[row | {column: value}], test=[row], num_shards=1, schema=schema)
    done = unisc("experiments/rankers.py", "--samples", directory, "--out", tmp_path / "out", "--devices", "1")
    assert done.returncode == 2
    assert done.stderr.startswith(f"unisc: {directory}{message}") and done.stderr.count("\n") == 1, done.stderr


def test_a_run_that_diverges_is_one_line(samples, tmp_path):
    done = unisc("experiments/rankers.py", "--samples", samples, "--out", tmp_path / "out", "--model", "dlrm", "--size", "xxs",
                 "--devices", "1", "--set", "train.learning_rate=1e38", "--set", "train.warmup_frac=0")  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{tmp_path / 'out'}: loss is nan at step 2: lower learning_rate" in done.stderr


def test_rankers_trained_as_one_program_leave_the_records_they_leave_alone(samples, tmp_path):
    config = override(rankers.default(samples, model="dlrm", size="xs"), {"train.batch_candidates": 64})
    configs = [config, override(config, {"train.seed": 1, "train.learning_rate": 5e-4})]

    def runtimes(way):
        return [Runtime(data_dir=str(samples), work_dir=str(tmp_path / way / str(i))) for i in range(2)]

    together = rankers.run_packed(configs, runtimes("packed"))
    for i, (packed, runtime) in enumerate(zip(together, runtimes("alone"), strict=True)):
        assert not isinstance(packed, Exception)
        alone = rankers.run(configs[i], runtime)
        assert packed["counts"] == alone["counts"] and packed["timing"].keys() == alone["timing"].keys()
        assert packed["metrics"] == pytest.approx(alone["metrics"], rel=0.01, abs=0.01)
        for way in ("packed", "alone"):
            assert (tmp_path / way / str(i) / "eval.npz").is_file() and (tmp_path / way / str(i) / "metrics.jsonl").is_file()
