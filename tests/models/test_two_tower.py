"""Two towers: unit vectors, what they depend on, gradient caching, and counts by the tree and the trace."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.errors import InputError
from unisc.models.text_encoder import TextConfig
from unisc.models.two_tower import Items, TwoTower, TwoTowerConfig, Users, flops_per_example, num_params
from unisc.nn.recompute import encode_in_chunks
from unisc.objectives.contrastive import info_nce

S, T, P = 5, 4, 3
TEXT = TextConfig(vocab_size=30, dim=6, ffn_hidden=10, max_len=T, num_heads=2)
ALL = TwoTowerConfig(
    embed_dim=8,
    user_features=("id", "history", "query"),
    item_features=("id", "text", "image"),
    hidden_dims=(12,),
    text=TEXT,
    image_dim=P,
)
IDS = TwoTowerConfig(embed_dim=8, user_features=("id", "history"), item_features=("id",))
KINDS = {
    "ids": IDS,
    "all": ALL,
    "separate": dataclasses.replace(ALL, shared_text=False, learned_temperature=True, learned_bias=True),
    "transformers": dataclasses.replace(ALL, history_layers=2, text=dataclasses.replace(TEXT, num_layers=1)),
    "causal": dataclasses.replace(
        ALL, text=dataclasses.replace(TEXT, num_layers=2, causal=True), user_features=("query",), hidden_dims=(4, 5)
    ),
    "no text": dataclasses.replace(IDS, item_features=("image",), image_dim=P, user_features=("history",), history_layers=1),
}


def inputs(config, rows=6, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def tokens():
        mask = np.arange(T) < rng.integers(1, T + 1, (rows, 1))
        return jnp.asarray(rng.integers(8, 30, (rows, T)), jnp.int32), jnp.asarray(mask)

    items = Items(normal(rows, 8), *tokens(), normal(rows, P))
    mask = jnp.asarray(np.arange(S) < rng.integers(0, S + 1, (rows, 1)))
    return items, Users(normal(rows, 8), normal(rows, S, 8), mask, *tokens())


def build(config, seed=0):
    return TwoTower(config, rngs=nnx.Rngs(seed))


def products(jaxpr):
    """Count the FLOPs of the matrix products of a trace, through whatever it calls."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            contracted = [eqn.invars[0].aval.shape[a] for a in eqn.params["dimension_numbers"][0][0]]
            total += 2 * int(np.prod(eqn.outvars[0].aval.shape)) * int(np.prod(contracted))
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            total += products(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_and_work_are_counted_exactly(kind):
    config = KINDS[kind]
    model, (items, users) = build(config), inputs(config)
    counted = num_params(config, num_users=7, num_items=5)
    rows = 5 * 8 * ("id" in config.item_features) + 7 * 8 * ("id" in config.user_features)
    assert counted.dense + counted.embedding - rows == sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    flops = flops_per_example(config, history_len=S)
    assert products(jax.make_jaxpr(model.item)(items).jaxpr) == 6 * flops.candidate
    assert products(jax.make_jaxpr(model.user)(users).jaxpr) == 6 * flops.request
    measured = jax.jit(model.user).lower(users).cost_analysis()["flops"]
    assert measured >= 6 * flops.request
    assert kind != "transformers" or measured < 1.5 * 6 * flops.request, "elementwise work is the rest"


@pytest.mark.parametrize("kind", ["all", "transformers"])
def test_vectors_have_length_one_and_padding_says_nothing(kind):
    config = KINDS[kind]
    model, (items, users) = build(config), inputs(config)
    found = jax.jit(lambda i, u: (model.item(i), model.user(u)))
    whole = found(items, users)
    for vectors in whole:
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    other = jnp.full_like(items.tokens, 9)
    items = items._replace(tokens=jnp.where(items.token_mask, items.tokens, other))
    users = users._replace(
        history=jnp.where(users.history_mask[..., None], users.history, 7.0),
        query=jnp.where(users.query_mask, users.query, other),
    )
    for a, b in zip(found(items, users), whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_user_of_whom_nothing_is_known_is_zero_and_has_a_finite_slope():
    config = dataclasses.replace(IDS, user_features=("history",))
    model, (_, users) = build(config), inputs(config)
    empty = users._replace(history_mask=jnp.zeros_like(users.history_mask))
    assert not np.asarray(model.user(empty)).any()
    slope = jax.grad(lambda h: jnp.sum(model.user(empty._replace(history=h)) ** 2))(users.history)
    assert np.isfinite(slope).all()


def test_the_order_of_a_history_matters_to_the_transformer_alone():
    for kind, moves in (("all", False), ("transformers", True)):
        model, (_, users) = build(KINDS[kind]), inputs(KINDS[kind])
        users = users._replace(history_mask=jnp.ones_like(users.history_mask))
        turned = users._replace(history=users.history[:, ::-1])
        read = jax.jit(model.user)
        assert np.allclose(read(users), read(turned), atol=1e-6) != moves


@pytest.mark.parametrize("shared", [True, False])
def test_text_encoders_are_one_or_two(shared):
    model = build(dataclasses.replace(ALL, shared_text=shared))
    assert (model.item_text is model.query_text) == shared
    items, users = inputs(ALL)
    slope = nnx.jit(nnx.grad(lambda m: jnp.sum(m.item(items) * 0.3 + m.item(items) ** 2 * m.user(users))))(model)
    assert len(jax.tree.leaves(slope)) == len(jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("kind", ["all", "transformers"])
def test_a_batch_encoded_in_chunks_has_the_gradient_of_the_whole(kind):
    config = KINDS[kind]
    model, (items, users) = build(config), inputs(config)
    graphdef, state = nnx.split(model)

    @jax.jit
    def slopes(state, items, users):
        def loss(num_chunks):
            def of(state):
                model = nnx.merge(graphdef, state)
                i = encode_in_chunks(model.item, items, num_chunks)
                u = encode_in_chunks(model.user, users, num_chunks)
                return jnp.mean(info_nce(u, i, jnp.arange(6), scale=5.0))

            return of

        return [jax.value_and_grad(loss(n))(state) for n in (1, 3)]

    whole, chunked = slopes(state, items, users)
    for a, b in zip(jax.tree.leaves(chunked), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert np.abs(a).max() > 0


def test_chunks_hold_less_memory_and_must_divide():
    kernels = jnp.ones((4, 64, 64)) * 0.1

    def encode(x):
        for kernel in kernels:
            x = jnp.tanh(x @ kernel)
        return x

    def held(num_chunks):
        step = jax.jit(jax.grad(lambda x: jnp.sum(encode_in_chunks(encode, x, num_chunks)[:, :2] ** 2)))
        return step.lower(jax.ShapeDtypeStruct((4096, 64), jnp.float32)).compile().memory_analysis().temp_size_in_bytes

    assert held(16) < 0.75 * held(1)
    with pytest.raises(InputError, match="num_chunks 3: 16 rows"):
        encode_in_chunks(lambda x: x, jnp.zeros((16, 2)), 3)


DEVICES = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from unisc.mesh import make_mesh, sharding
from unisc.nn.recompute import encode_in_chunks
from unisc.objectives.contrastive import info_nce
rng = np.random.default_rng(0)
given = [rng.normal(size=s).astype(np.float32) for s in ((16, 6), (16, 6), (6, 4))]
def loss(kernel, users, items):
    u, i = (encode_in_chunks(lambda x: jnp.tanh(x @ kernel), x, 2) for x in (users, items))
    return jnp.mean(info_nce(u, i, jnp.arange(16), scale=3.0))
mesh = make_mesh()
rows, everywhere = sharding(mesh, "batch"), sharding(mesh)
step = jax.jit(jax.value_and_grad(loss, (0, 1, 2)), in_shardings=(everywhere, rows, rows), out_shardings=everywhere)
value, slopes = step(given[2], given[0], given[1])
json.dump([jax.device_count(), float(value), *(np.asarray(s).tolist() for s in slopes)], open(sys.argv[1], "w"))
"""


def test_negatives_of_eight_devices_are_those_of_one(tmp_path):
    found = []
    for devices in (1, 8):
        out = tmp_path / f"{devices}.json"
        environ = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", DEVICES, str(out)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(out.read_text()))
    one, eight = found
    assert (one[0], eight[0]) == (1, 8)
    for a, b in zip(one[1:], eight[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_features": ("likes",)}, "user_features: unknown 'likes'"),
        ({"item_features": ()}, "item_features: empty"),
        ({"text": None}, "text: goes with text among item_features"),
        ({"image_dim": 0}, "image_dim 0: goes with image"),
        ({"widths": (4, 9)}, r"widths \(4, 9\): vectors have 8 entries"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"user_features": ("id",), "text": TEXT, "history_layers": 1}, "history_layers 1: goes with history"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(ALL, **changes)
