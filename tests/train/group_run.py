"""One process of a run that several train together, started by the tests: `python group_run.py JSON`.

Leaves in `out` the last state, whole, what was counted, and the metrics of scoring the test split.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

given = json.loads(sys.argv[1])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={given['devices']}"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

from unisc.cluster import find_cluster  # noqa: E402
from unisc.data.columns import load  # noqa: E402
from unisc.distributed import is_first, join, leave_at_once  # noqa: E402
from unisc.models.transformer import Transformer, TransformerConfig  # noqa: E402
from unisc.train.checkpoint import without_keys  # noqa: E402
from unisc.train.evaluate import EvalConfig, evaluate  # noqa: E402
from unisc.train.loop import Runtime  # noqa: E402
from unisc.train.ranking import TrainConfig, train  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from tiny_model import TinyModel  # noqa: E402


def main():
    samples, out = Path(given["samples"]), Path(given["out"])
    columns, test = (load(samples, split, history_len=3) for split in ("train", "test"))
    config = TrainConfig(**given["config"])
    spec = config.row_map(columns.spec).spec
    if given["model"] == "tiny":
        model = TinyModel(spec, 4, 8, rngs=nnx.Rngs(given.get("model_seed", 0)), dropout=given.get("dropout", 0.0))
    else:
        sizes = TransformerConfig(embed_dim=4, dim=16, num_layers=2, num_heads=2, ffn_hidden=32)
        model = Transformer(sizes, spec, rngs=nnx.Rngs(0))

    def on_step(counts, num_steps):
        if counts.num_steps == given.get("die_at") and jax.process_index() in given["dying"]:
            os.kill(os.getpid(), signal.SIGKILL)

    def should_stop():
        return given.get("stop_after") is not None and next(asked) >= given["stop_after"]

    asked = itertools.count(1)
    runtime = Runtime(directory=out, log_every_steps=1, checkpoint_every_steps=5, on_step=on_step, should_stop=should_stop)
    result = train(model, columns, config, embed_dim=4, runtime=runtime)
    found = evaluate(result.model, result.state, test, EvalConfig(batch_candidates=64), row_map=result.row_map)
    arrays = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(without_keys(result.state)))}
    summary = {"metrics": found.metrics, "loss": result.loss, "counts": [result.counts.num_steps, result.counts.num_examples]}
    (out / f"summary-{jax.process_index()}.json").write_text(json.dumps(summary))
    if is_first():
        np.savez(out / "state.npz", **arrays)


with leave_at_once():
    cluster = find_cluster(given.get("coordinator"), given.get("processes"), given.get("process_id"), environ={})
    if cluster is not None:
        join(cluster, join_secs=given.get("join_secs", 120))
    main()
