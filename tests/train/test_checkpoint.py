"""A run that is killed without warning and started again ends in the very bits of one never interrupted."""

import dataclasses
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from unisc.errors import InputError
from unisc.train.loop import Runtime, train

HERE = Path(__file__).parent

CHILD = """
    import importlib.util, json, os, signal, sys
    from flax import nnx
    from pathlib import Path
    from unisc.data.columns import load
    from unisc.train.loop import Runtime, TrainConfig, train

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
