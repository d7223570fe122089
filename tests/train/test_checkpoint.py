"""A run that is killed without warning and started again ends in the very bits of one never interrupted."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from unisc.errors import InputError, Stopped
from unisc.train.loop import Runtime
from unisc.train.ranking import train

HERE = Path(__file__).parent

CHILD = """
    import importlib.util, json, os, signal, sys
    from flax import nnx
    from pathlib import Path
    from unisc.data.columns import load
    from unisc.train.loop import Runtime
    from unisc.train.ranking import TrainConfig, train

    spec = importlib.util.spec_from_file_location("tiny_model", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    columns = load(Path(sys.argv[2]), "train", history_len=3)

    def die(counts, num_steps):
        if counts.num_steps == 17:
            os.kill(os.getpid(), signal.SIGKILL)

    model = module.TinyModel(columns.spec, 4, 8, rngs=nnx.Rngs(0), dropout=0.1)
    config = TrainConfig(**json.loads(sys.argv[4]))
    runtime = Runtime(directory=Path(sys.argv[3]), checkpoint_every_steps=5, on_step=die)
    train(model, columns, config, embed_dim=4, runtime=runtime)
"""


def test_a_killed_run_resumes_to_the_same_bits(make_model, samples, train_columns, config, tmp_path):
    config = dataclasses.replace(config, table_optimizer="adam")
    arguments = [HERE / "tiny_model.py", samples, tmp_path / "run", json.dumps(dataclasses.asdict(config))]
    code = textwrap.dedent(CHILD)
    child = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()

    steps = []
    runtime = Runtime(
        directory=tmp_path / "run", checkpoint_every_steps=5, on_step=lambda counts, _: steps.append(counts.num_steps)
    )
    resumed = train(make_model(dropout=0.1), train_columns, config, embed_dim=4, runtime=runtime)
    whole = train(make_model(dropout=0.1), train_columns, config, embed_dim=4)

    assert steps[0] == 16  # the step after the last checkpoint
    for a, b in zip(jax.tree.leaves(resumed.state), jax.tree.leaves(whole.state), strict=True):
        if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    for name in ("num_steps", "num_requests", "num_examples", "num_positives"):
        assert getattr(resumed.counts, name) == getattr(whole.counts, name)
    assert resumed.loss == whole.loss


def test_a_finished_run_started_again_trains_no_further(make_model, train_columns, config, tmp_path):
    steps = []
    runtime = Runtime(directory=tmp_path, checkpoint_every_steps=1, on_step=lambda counts, _: steps.append(counts.num_steps))
    config = dataclasses.replace(config, num_epochs=1)
    part = train_columns.first(60)
    first = train(make_model(), part, config, embed_dim=4, runtime=runtime)
    done = len(steps)
    second = train(make_model(), part, config, embed_dim=4, runtime=runtime)
    assert len(steps) == done
    np.testing.assert_array_equal(first.state.table, second.state.table)


def test_the_checkpoint_of_another_run_is_refused(make_model, train_columns, config, tmp_path):
    runtime = Runtime(directory=tmp_path, checkpoint_every_steps=4)
    part = train_columns.first(60)
    train(make_model(), part, config, embed_dim=4, runtime=runtime)
    with pytest.raises(InputError, match="another run"):
        train(make_model(), part, dataclasses.replace(config, learning_rate=0.02), embed_dim=4, runtime=runtime)


FINISH = """
    import importlib.util, json, os, random, signal, sys, threading, time
    import jax, numpy as np
    from flax import nnx
    from pathlib import Path
    from unisc.data.columns import load
    from unisc.train.loop import Runtime
    from unisc.train.ranking import TrainConfig, train

    spec = importlib.util.spec_from_file_location("tiny_model", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    columns = load(Path(sys.argv[2]), "train", history_len=3)
    folder, config, secs = Path(sys.argv[3]), TrainConfig(**json.loads(sys.argv[4])), float(sys.argv[5])
    started = []

    def on_step(counts, num_steps):
        if secs and not started:  # anywhere from the first step on, also while a checkpoint is being written
            started.append(threading.Timer(secs, os.kill, (os.getpid(), signal.SIGKILL)))
            started[0].start()
        time.sleep(0.005)

    model = module.TinyModel(columns.spec, 4, 8, rngs=nnx.Rngs(0), dropout=0.1)
    runtime = Runtime(directory=folder, checkpoint_every_steps=4, log_every_steps=1, on_step=on_step)
    done = train(model, columns, config, embed_dim=4, runtime=runtime)
    for timer in started:
        timer.cancel()
    leaves = [x if not jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else jax.random.key_data(x)
              for x in jax.tree.leaves(done.state)]
    np.savez(folder / "state.npz", *[np.asarray(x) for x in leaves])
    counts = {name: getattr(done.counts, name) for name in ("num_steps", "num_requests", "num_examples", "num_positives")}
    (folder / "counts.json").write_text(json.dumps({**counts, "loss": done.loss}))
"""


def test_a_run_killed_at_random_moments_ends_in_the_same_bits(samples, config, tmp_path):
    kills_wanted = int(os.environ.get("UNISC_TORTURE_KILLS", "2"))
    rng, code = random.Random(0), textwrap.dedent(FINISH)
    config = json.dumps(dataclasses.asdict(dataclasses.replace(config, table_optimizer="adam", num_epochs=4)))

    def start(folder: Path, secs: float) -> int:
        arguments = [HERE / "tiny_model.py", samples, folder, config, secs]
        child = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, check=False)
        assert child.returncode in (0, -signal.SIGKILL), child.stderr.decode()
        return child.returncode

    def left(folder: Path) -> tuple[list[bytes], str, list[dict]]:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        metrics = [{k: v for k, v in line.items() if k not in ("perf/train_secs", "perf/gflops_per_sec")} for line in lines]
        with np.load(folder / "state.npz") as state:
            return [state[name].tobytes() for name in state.files], (folder / "counts.json").read_text(), metrics

    began = time.monotonic()
    start(tmp_path / "whole", 0.0)
    whole, secs = left(tmp_path / "whole"), min(time.monotonic() - began, 1.0)
    kills = equal = rounds = 0
    while kills < kills_wanted:
        folder, rounds, before = tmp_path / f"run{rounds}", rounds + 1, kills
        while start(folder, rng.uniform(0.02, secs) if kills < kills_wanted else 0.0):
            kills += 1
        equal += (kills - before) * (left(folder) == whole)
    assert equal == kills == kills_wanted
    if out := os.environ.get("UNISC_TORTURE_OUT"):
        Path(out).write_text(json.dumps({"kills": kills, "bit_equal_resumes": equal}))


def test_a_run_told_to_stop_saves_and_goes_on_to_the_same_bits(make_model, train_columns, config, tmp_path):
    steps = []
    seen = {"directory": tmp_path, "checkpoint_every_steps": 1000, "on_step": lambda counts, _: steps.append(counts.num_steps)}
    with pytest.raises(Stopped, match="after step 6 of"):
        train(make_model(), train_columns, config, embed_dim=4, runtime=Runtime(**seen, should_stop=lambda: len(steps) == 5))
    stopped = len(steps)
    resumed = train(make_model(), train_columns, config, embed_dim=4, runtime=Runtime(**seen))
    whole = train(make_model(), train_columns, config, embed_dim=4)
    assert steps[stopped] == 7
    np.testing.assert_array_equal(resumed.state.table, whole.state.table)
    assert resumed.loss == whole.loss


def test_the_log_keeps_the_line_of_the_step_that_was_saved(make_model, train_columns, config, tmp_path):
    class Gone(Exception):
        pass

    def leave(counts, num_steps):
        if counts.num_steps == 8:  # the last checkpoint's
            raise Gone

    runtime = Runtime(directory=tmp_path, log_every_steps=2, checkpoint_every_steps=4, on_step=leave)
    with pytest.raises(Gone):
        train(make_model(), train_columns, config, embed_dim=4, runtime=runtime)
    whole = train(make_model(), train_columns, config, embed_dim=4, runtime=dataclasses.replace(runtime, on_step=None))
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(2, whole.num_steps + 1, 2), *([whole.num_steps] if whole.num_steps % 2 else [])]
