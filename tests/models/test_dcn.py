"""DCN-V2: its equations against NumPy, its kinds against one another, a published size, and that it learns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.data.features import FeatureSpec, Field, Table
from unisc.errors import InputError
from unisc.models import dcn
from unisc.models.dcn import DCN, KINDS, STRUCTURES, DCNConfig
from unisc.objectives.ranking import bce

BARE = {"domains": ("search",), "tasks": ("click",), "without": ("query", "domain"), "no_history": True}
VARIANTS = list(itertools.product(KINDS, STRUCTURES))


def config_of(kind, structure, **options):
    return DCNConfig(
        **{"embed_dim": 4, "hidden_dims": (8, 6), "kind": kind, "structure": structure, "rank": 3, "num_experts": 2, **options}
    )


def build(config, spec, seed=0, **options):
    """Return parameters and a jitted score."""
    graphdef, params = nnx.split(DCN(config, spec, rngs=nnx.Rngs(seed), **options), nnx.Param)
    return params, jax.jit(lambda params, rows, batch: nnx.merge(graphdef, params)(rows, batch))


def random_values(rng, params):
    """Give every parameter, biases too, a random value, so that a test sees each of them."""
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)


def by_hand(config, spec, params, rows, batch):
    """Score one candidate after another, straight from the equations; kernels times 32 / fan-in are the paper's matrices."""
    rows, params = np.asarray(rows, np.float64), jax.tree.map(lambda p: np.asarray(p, np.float64), nnx.to_pure_dict(params))
    scores = []
    for b, r in enumerate(np.asarray(batch.request_index)):
        request = [rows[i] for i in np.asarray(batch.request_ids)[r]] + [np.asarray(batch.request_numeric)[r]]
        real = np.asarray(batch.history_mask)[r]
        for field in range(len(spec.at("history"))):
            entries = rows[np.asarray(batch.history_ids)[r, :, field]][real]
            request.append(entries.mean(axis=0) if real.any() else np.zeros(rows.shape[1]))
        candidate = [rows[i] for i in np.asarray(batch.candidate_ids)[b]] + [np.asarray(batch.candidate_numeric)[b]]
        x0 = x = np.concatenate([np.asarray(v, np.float64) for v in request + candidate])
        for i in range(config.num_cross_layers):
            p = params["crosses"][i]
            if config.kind == "full":
                y = x @ p["weight"]["kernel"] * 32 / x.size + p["weight"]["bias"]
            elif config.kind == "low_rank":
                y = (x @ p["down"]["kernel"] * 32 / x.size) @ p["up"]["kernel"] * 32 / config.rank + p["up"]["bias"]
            else:
                logits = x @ p["gate"]["kernel"] * 32 / x.size
                gates = np.exp(logits) / np.exp(logits).sum()
                y = np.zeros_like(x)
                for k in range(config.num_experts):
                    v = p["down"]["kernel"][:, k * config.rank : (k + 1) * config.rank] * 32 / x.size
                    h = np.tanh(np.tanh(x @ v) @ p["middle"][k] * 32 / config.rank)
                    y += gates[k] * (h @ p["up"][k] * 32 / config.rank + p["bias"])
            x = x0 * y + x
        h = x if config.structure == "stacked" else x0
        for i in range(len(config.hidden_dims)):
            p = params["hidden"][i]
            h = h @ p["kernel"] * 32 / h.size + p["bias"]
            h = np.where(h > 0, h, 0.1 * h)
        h = h if config.structure == "stacked" else np.concatenate([x, h])
        scores.append(h @ params["head"]["kernel"] * 32 / h.size + params["head"]["bias"])
    return np.stack(scores)


@pytest.mark.parametrize(("kind", "structure"), VARIANTS)
def test_it_computes_the_papers_equations(make_spec, make_batch, make_rows, kind, structure):
    for spec in (make_spec(), make_spec(**BARE)):
        batch = make_batch(spec, num_candidates=12, num_requests=4)
        batch = batch._replace(history_mask=batch.history_mask.at[1].set(False))
        config = config_of(kind, structure)
        params, score = build(config, spec)
        params = random_values(np.random.default_rng(1), params)
        expected = by_hand(config, spec, params, make_rows(batch), batch)
        np.testing.assert_allclose(
            score(params, make_rows(batch), batch), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )


def test_low_rank_with_the_product_as_its_weight_equals_full(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch = make_batch(spec)
    low, low_score = build(config_of("low_rank", "stacked"), spec)
    full, full_score = build(config_of("full", "stacked"), spec)
    dim = full["crosses"][0]["weight"]["kernel"].shape[0]
    for i in range(2):
        down, up = low["crosses"][i]["down"]["kernel"][...], low["crosses"][i]["up"]["kernel"][...]
        full["crosses"][i]["weight"]["kernel"][...] = (down @ up) * jnp.float32(32 / 3)
        assert down.shape == (dim, 3)
    full["hidden"], full["head"] = low["hidden"], low["head"]
    np.testing.assert_allclose(
        full_score(full, make_rows(batch), batch), low_score(low, make_rows(batch), batch), rtol=1e-4, atol=1e-5
    )


def test_each_cross_layer_raises_the_degree_by_one(make_spec, make_batch, make_rows):
    """Without biases, x_L(s x_0) is a polynomial of degree L + 1 in s: differences of order L + 2 vanish, L + 1 do not."""
    spec = make_spec()
    batch = make_batch(spec, num_candidates=6, num_requests=3)
    rows = make_rows(batch)
    for layers in (1, 2, 3):
        model = DCN(config_of("full", "stacked", num_cross_layers=layers), spec, rngs=nnx.Rngs(0))
        joint = model.inputs(rows, batch)

        def crossed(scale, model=model, joint=joint):
            x0 = x = joint.whole() * scale
            for cross in model.crosses:
                x = x0 * cross(x) + x
            return np.asarray(x, np.float64)

        values = np.stack([crossed(jnp.float32(s)) for s in np.linspace(-1, 1, layers + 3)])
        scale = np.abs(values).max()
        assert np.abs(np.diff(values, layers + 1, axis=0)).max() > 1e-3 * scale
        assert np.abs(np.diff(values, layers + 2, axis=0)).max() < 1e-5 * scale * 2**layers


def test_the_mlperf_model_has_its_stated_shapes():
    """26 tables and the bottom MLP's output, 128 wide each: crosses 27 * 128 = 3456 wide of rank 512, then the top MLP."""
    spec = FeatureSpec(
        tables=(Table(name="t", num_rows=1),),
        fields=tuple(Field(name=f"c{i}", group="item", level="candidate", table="t") for i in range(27)),
        numeric=(),
        domains=("all",),
        tasks=("click",),
        history_len=0,
    )
    crosses = 3 * (3456 * 512 + 512 * 3456 + 3456)
    top = (3456 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 512 + 512) + (512 * 256 + 256) + (256 + 1)
    assert dcn.num_params(dcn.PUBLISHED["mlperf"], spec).dense == crosses + top == 15_873_153


@pytest.mark.parametrize(("kind", "structure"), VARIANTS)
def test_it_learns_and_starts_at_its_bias(make_spec, make_batch, make_rows, kind, structure):
    spec = make_spec()
    batch = make_batch(spec)
    batch = batch._replace(history_mask=batch.history_mask.at[0].set(False))
    config = config_of(kind, structure, hidden_dims=(16, 8))
    params, score = build(config, spec, bias_init=(-1.0, -3.0))
    rows = make_rows(batch)
    np.testing.assert_allclose(np.mean(score(params, rows, batch), axis=0), [-1.0, -3.0], atol=0.3)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: bce(score(p, rows, batch), batch.labels, batch.weights))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss, grads

    state, losses = optimizer.init(params), []
    for _ in range(60):
        params, state, loss, grads = step(params, state)
        losses.append(float(loss))
        assert all(np.all(np.isfinite(g)) and np.any(g) for g in jax.tree.leaves(grads))
    assert losses[-1] < 0.3 * losses[0]


def test_data_without_a_feature_is_named():
    spec = FeatureSpec(tables=(), fields=(), numeric=(), domains=("all",), tasks=("click",), history_len=0)
    with pytest.raises(InputError, match="features: none in the data"):
        DCN(config_of("full", "stacked"), spec, rngs=nnx.Rngs(0))
