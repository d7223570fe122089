"""Parts of a batch may be shared out among devices or worked through by one: the numbers are the same to rounding."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unisc.data.pack import BatchShape
from unisc.data.pipeline import PackedRequests
from unisc.errors import InputError
from unisc.train.ranking import train
from unisc.train.step import parts_of

CODE = """
import json, sys
from pathlib import Path
import numpy as np, jax
from flax import nnx
sys.path.insert(0, sys.argv[1])
from tiny_model import TinyModel
from unisc.data.columns import load
from unisc.models.rankmixer import RankMixer, RankMixerConfig
from unisc.train.ranking import TrainConfig, train
columns = load(Path(sys.argv[2]), "train", history_len=3)
config = TrainConfig(**json.loads(sys.argv[3]))
if sys.argv[5] == "tiny":
    model = TinyModel(columns.spec, 4, 8, rngs=nnx.Rngs(0))
else:
    routed = RankMixerConfig(embed_dim=4, num_tokens=4, dim=8, ffn_dim=16, num_layers=1, num_experts=4)
    model = RankMixer(routed, columns.spec, rngs=nnx.Rngs(0))
result = train(model, columns, config, embed_dim=4)
arrays = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(result.state))}
np.savez(sys.argv[4], devices=jax.device_count(), loss=result.loss, examples=result.counts.num_examples, **arrays)
"""


def run(samples, config, devices, out, model="tiny"):
    environ = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    arguments = [str(Path(__file__).parent), str(samples), json.dumps(dataclasses.asdict(config)), str(out), model]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return np.load(out)


@pytest.mark.parametrize(("optimizer", "model"), [("adagrad", "tiny"), ("adam", "tiny"), ("adagrad", "routed experts")])
def test_eight_devices_train_as_one(samples, config, tmp_path, optimizer, model):
    config = dataclasses.replace(config, batch_candidates=64, num_parts=8, table_optimizer=optimizer)
    if model != "tiny":  # gates at their edge and a strength that moves by a sign enlarge what rounding differs by
        config = dataclasses.replace(config, learning_rate=1e-4, num_epochs=1)
    one, eight = (run(samples, config, n, tmp_path / f"{n}.npz", model) for n in (1, 8))
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert one["examples"] == eight["examples"]
    np.testing.assert_allclose(one["loss"], eight["loss"], rtol=1e-5)
    for name in set(one.files) - {"devices", "loss", "examples"}:
        np.testing.assert_allclose(one[name], eight[name], rtol=2e-4, atol=2e-5)


def test_parts_hold_whole_requests_and_together_the_batch(train_columns):
    shape = BatchShape.of(train_columns.spec, candidates=64, mean_list_len=4, list_len=3, parts=4)
    source = PackedRequests(train_columns, shape, seed=0)
    seen = 0
    for index in range(len(source)):
        parts = parts_of(source[index], 4)
        for p in range(4):
            request_index, weights = parts.request_index[p], parts.weights[p, :, 0]
            real = np.flatnonzero(weights)
            seen += len(real)
            assert request_index.min() >= 0 and request_index.max() < shape.part_requests
            assert np.array_equal(real, np.arange(len(real))), "neighbours from the part's start"
            held = parts.lists[p][parts.lists[p] < shape.part_candidates]
            assert np.array_equal(held, real), "lists name the part's own candidates, in order"
            assert np.array_equal(np.nonzero(parts.lists[p] < shape.part_candidates)[0], request_index[real])
    assert seen == train_columns.num_examples


def test_one_part_or_four_learn_from_the_same_examples(make_model, train_columns, config):
    one = train(make_model(), train_columns, dataclasses.replace(config, batch_candidates=64), embed_dim=4)
    four = train(make_model(), train_columns, dataclasses.replace(config, batch_candidates=64, num_parts=4), embed_dim=4)
    assert one.counts.num_examples == four.counts.num_examples
    assert one.counts.num_requests == four.counts.num_requests
    assert four.loss == pytest.approx(one.loss, rel=0.3), "other batches, like learning"


@pytest.mark.parametrize(("changes", "message"), [({"num_parts": 7}, "num_parts 7: give a divisor of batch_candidates 64")])
def test_parts_that_do_not_divide(make_model, train_columns, config, changes, message):
    with pytest.raises(InputError, match=message):
        train(make_model(), train_columns, dataclasses.replace(config, batch_candidates=64, **changes), embed_dim=4)


def test_devices_that_do_not_fit_the_parts_are_one_line(samples, config, tmp_path):
    config = dataclasses.replace(config, batch_candidates=64, num_parts=4)
    with pytest.raises(AssertionError, match="num_parts 4: 3 devices cannot share them out; give a multiple of 3, or 1"):
        run(samples, config, 3, tmp_path / "out.npz")
