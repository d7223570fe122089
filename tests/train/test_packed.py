"""Runs trained as one program end where each ends alone, and fail, save and resume each on its own."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from unisc.errors import InputError
from unisc.models import zoo
from unisc.train.checkpoint import without_keys
from unisc.train.loop import Runtime
from unisc.train.packed import PackedRun, train_packed
from unisc.train.progress import DivergedError
from unisc.train.ranking import TrainResult, batch_shape, begin, train

HERE = Path(__file__).parent
COUNTED = ("num_steps", "num_requests", "num_examples", "num_positives")
LOGGED = ("train/loss", "train/log_loss", "train/grad_norm", "train/learning_rate", "perf/num_examples")


def leaves(result):
    found = jax.tree_util.tree_leaves_with_path(without_keys(result.state))
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in found}


def assert_same_run(one, other, *, rtol=0.0, atol=0.0):
    assert isinstance(one, TrainResult), one
    assert one.num_steps == other.num_steps
    assert [getattr(one.counts, name) for name in COUNTED] == [getattr(other.counts, name) for name in COUNTED]
    a, b = leaves(one), leaves(other)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_allclose(a[name], b[name], err_msg=name, rtol=rtol, atol=atol)


def logged(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def varied(config):
    """Settings that runs of one pack may differ in; rates low enough that rounding is not blown up."""
    base = dataclasses.replace(config, batch_candidates=64, learning_rate=1e-3, table_learning_rate=0.02)
    return [
        base,
        dataclasses.replace(base, seed=1, learning_rate=5e-4, weight_decay=0.1, num_epochs=1),
        dataclasses.replace(base, seed=2, table_learning_rate=0.01, purchase_weight=0.0, decay="linear", warmup_frac=0.3),
    ]


@pytest.mark.parametrize(
    ("name", "size", "table_optimizer"), [("dlrm", "xxs", "adagrad"), ("dlrm", "xxs", "adam"), ("hhsft", "m", "adagrad")]
)
def test_packed_runs_end_where_each_ends_alone(train_columns, varied, tmp_path, name, size, table_optimizer):
    configs = [dataclasses.replace(c, table_optimizer=table_optimizer) for c in varied]
    shares = [train_columns.first(40), train_columns.first(120), train_columns.first(20)]
    shape = batch_shape(train_columns, configs[0])

    def build(seed):
        return zoo.build(zoo.config_of(name, size, embed_dim=4), train_columns.spec, rngs=nnx.Rngs(seed))

    def runtime(way, i):
        return Runtime(directory=tmp_path / way / str(i), log_every_steps=2)

    runs = [
        PackedRun(model=build(c.seed), columns=share, config=c, runtime=runtime("packed", i))
        for i, (c, share) in enumerate(zip(configs, shares, strict=True))
    ]
    together = train_packed(runs, embed_dim=4, shape=shape)
    assert len({r.num_steps for r in together}) == 3
    for i, (run, packed) in enumerate(zip(runs, together, strict=True)):
        alone = train(run.model, run.columns, run.config, embed_dim=4, shape=shape, runtime=runtime("alone", i))
        if name == "dlrm":
            assert_same_run(packed, alone, rtol=1e-3, atol=5e-5)
        # Adam makes a step of any rounding in a gradient of about 0, so HHSFT is held to how far its parameters moved.
        start = without_keys(begin(run.model, run.columns, run.config, embed_dim=4, shape=shape)[2])
        for own, other, first in zip(leaves(packed).values(), leaves(alone).values(), jax.tree.leaves(start), strict=True):
            own, other, first = (np.asarray(x, np.float64) for x in (own, other, first))
            assert np.linalg.norm(own - other) <= 0.03 * np.linalg.norm(other - first) + 1e-6
        assert packed.loss == pytest.approx(alone.loss, rel=1e-4)
        a, b = logged(tmp_path / "packed" / str(i)), logged(tmp_path / "alone" / str(i))
        assert [line["step"] for line in a] == [line["step"] for line in b]
        for key in LOGGED:
            np.testing.assert_allclose([line[key] for line in a], [line[key] for line in b], rtol=1e-3)


def test_a_run_that_diverges_has_its_error_as_result_and_the_others_go_on(make_model, train_columns, varied):
    wild = dataclasses.replace(varied[0], learning_rate=1e38, warmup_frac=0.0)
    part = train_columns.first(60)
    runs = [PackedRun(model=make_model(c.seed), columns=part, config=c) for c in (varied[0], wild, varied[2])]
    first, failed, last = train_packed(runs, embed_dim=4)
    assert isinstance(failed, DivergedError) and "lower learning_rate" in str(failed)
    for run, packed in ((runs[0], first), (runs[2], last)):
        assert_same_run(packed, train(run.model, part, run.config, embed_dim=4), rtol=1e-3, atol=1e-5)


def test_a_feature_that_is_no_number_is_named_and_the_last_good_checkpoint_stays(make_model, train_columns, varied, tmp_path):
    numeric = np.array(train_columns.candidate_numeric)
    numeric[-1, 1] = np.nan
    name = train_columns.spec.numeric_at("candidate")[1].name
    spoiled = dataclasses.replace(train_columns, candidate_numeric=numeric)
    runs = [
        PackedRun(
            model=make_model(),
            columns=columns,
            config=varied[0],
            runtime=Runtime(directory=tmp_path / str(i), checkpoint_every_steps=4),
        )
        for i, columns in enumerate((train_columns, spoiled))
    ]
    good, bad = train_packed(runs, embed_dim=4)
    assert isinstance(good, TrainResult) and isinstance(bad, InputError)
    assert f"feature {name}: not a number in the batch of step" in str(bad)
    saved = [int(path.name) for path in (tmp_path / "1" / "checkpoint").glob("[0-9]*")]
    assert len(saved) == 1 and saved[0] < int(str(bad).split("step ")[1].split(";")[0])


CHILD = """
    import importlib.util, json, os, signal, sys
    from flax import nnx
    from pathlib import Path
    from unisc.data.columns import load
    from unisc.train.loop import Runtime
    from unisc.train.ranking import TrainConfig
    from unisc.train.packed import PackedRun, train_packed

    spec = importlib.util.spec_from_file_location("tiny_model", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    columns = load(Path(sys.argv[2]), "train", history_len=3)

    def die(counts, num_steps):
        if counts.num_steps > 16:
            os.kill(os.getpid(), signal.SIGKILL)

    runs = [
        PackedRun(
            model=module.TinyModel(columns.spec, 4, 8, rngs=nnx.Rngs(0), dropout=0.1),
            columns=columns,
            config=TrainConfig(**config),
            runtime=Runtime(directory=Path(sys.argv[3]) / str(i), checkpoint_every_steps=7, on_step=die),
        )
        for i, config in enumerate(json.loads(sys.argv[4]))
    ]
    train_packed(runs, embed_dim=4)
"""


def test_a_killed_pack_resumes_to_the_same_bits_and_its_runs_go_on_alone_too(
    make_model, samples, train_columns, varied, tmp_path
):
    configs = varied[:2]
    plain = json.dumps([dataclasses.asdict(config) for config in configs])
    command = [sys.executable, "-c", textwrap.dedent(CHILD), HERE / "tiny_model.py", samples, tmp_path / "run", plain]
    child = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()

    def runs(root, every, on_step=None):
        return [
            PackedRun(
                model=make_model(dropout=0.1),
                columns=train_columns,
                config=config,
                runtime=Runtime(directory=root / str(i), checkpoint_every_steps=every, on_step=on_step),
            )
            for i, config in enumerate(configs)
        ]

    (tmp_path / "copy").mkdir()
    subprocess.run(["cp", "-r", tmp_path / "run" / "1", tmp_path / "copy" / "1"], check=True)
    steps = []
    resumed = train_packed(runs(tmp_path / "run", 7, lambda counts, _: steps.append(counts.num_steps)), embed_dim=4)
    whole = train_packed(runs(tmp_path / "whole", 0), embed_dim=4)
    assert steps[0] == 20, "the call after the last checkpoint, which held step 16"
    for a, b in zip(resumed, whole, strict=True):
        assert_same_run(a, b)
        assert a.loss == b.loss

    second = runs(tmp_path / "copy", 7)[1]
    alone = train(second.model, second.columns, second.config, embed_dim=4, runtime=second.runtime)
    assert_same_run(alone, whole[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_norm": 2.0}, "packed run 1: its clip_norm 2.0 is not the first run's 1.0; train it apart"),
        ({"table_optimizer": "adam"}, "packed run 1: its table_optimizer 'adam'"),
        ({"batch_candidates": 32}, "packed run 1: its batch shape"),
    ],
)
def test_runs_that_one_program_cannot_hold_are_named(make_model, train_columns, config, change, message):
    runs = [
        PackedRun(model=make_model(), columns=train_columns, config=c) for c in (config, dataclasses.replace(config, **change))
    ]
    with pytest.raises(InputError, match=message):
        train_packed(runs, embed_dim=4)


def test_models_of_two_sizes_and_one_directory_for_two_are_refused(make_model, train_columns, config, tmp_path):
    first = PackedRun(model=make_model(), columns=train_columns, config=config, runtime=Runtime(directory=tmp_path))
    with pytest.raises(InputError, match=r"packed run 1: a(nother model| model of another size)"):
        train_packed([first, dataclasses.replace(first, model=make_model(hidden_dim=6), runtime=Runtime())], embed_dim=4)
    with pytest.raises(InputError, match="the directory of several packed runs"):
        train_packed([first, first], embed_dim=4)
    with pytest.raises(InputError, match="packed runs: none given"):
        train_packed([], embed_dim=4)


DEVICES = """
    import importlib.util, json, sys
    import jax, numpy as np
    from flax import nnx
    from pathlib import Path
    from unisc.data.columns import load
    from unisc.train.ranking import TrainConfig
    from unisc.train.packed import PackedRun, train_packed

    spec = importlib.util.spec_from_file_location("tiny_model", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    columns = load(Path(sys.argv[2]), "train", history_len=3).first(60)
    configs = [TrainConfig(**config) for config in json.loads(sys.argv[4])]
    runs = [PackedRun(model=module.TinyModel(columns.spec, 4, 8, rngs=nnx.Rngs(0)), columns=columns, config=c) for c in configs]
    found = train_packed(runs, embed_dim=4)
    assert jax.device_count() == 4
    np.savez(sys.argv[3], *[np.asarray(x) for result in found for x in jax.tree.leaves(result.state)])
"""


def test_runs_shared_out_among_devices_end_alike(make_model, samples, train_columns, varied, tmp_path):
    """Six runs on four devices: three devices have two each."""
    configs = [dataclasses.replace(config, seed=seed, num_parts=2) for seed in (0, 1) for config in varied]
    plain = json.dumps([dataclasses.asdict(config) for config in configs])
    command = [sys.executable, "-c", textwrap.dedent(DEVICES), HERE / "tiny_model.py", samples, tmp_path / "out.npz", plain]
    environ = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([str(word) for word in command], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    part = train_columns.first(60)
    here = train_packed([PackedRun(model=make_model(), columns=part, config=config) for config in configs], embed_dim=4)
    there = np.load(tmp_path / "out.npz")
    for i, x in enumerate(x for result in here for x in jax.tree.leaves(result.state)):
        np.testing.assert_allclose(x, there[f"arr_{i}"], rtol=1e-3, atol=1e-5)
