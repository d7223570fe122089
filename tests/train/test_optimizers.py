"""Each optimiser against plain NumPy over several steps; Muon's orthogonality; which parameters get which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.errors import InputError
from unisc.models.hhsft import HHSFT, HHSFTConfig
from unisc.nn.linear import BASE_FAN_IN
from unisc.train.optimizers import (
    DENSE_OPTIMIZERS,
    MUON_COEFFICIENTS,
    dense_optimizer,
    is_decayed,
    is_hidden_kernel,
)

SHAPES = {
    "hidden": {"kernel": (6, 9), "bias": (9,)},
    "typed": {"kernel": (3, 8, 5), "bias": (3, 1, 5)},
    "heads": {"kernel": (5, 4)},
}
FAR = 1e9  # a norm that clips nothing


def draw(rng, shapes=SHAPES):
    return jax.tree.map(lambda s: rng.normal(size=s), shapes, is_leaf=lambda s: isinstance(s, tuple))


def steps(name, count=6, clip_norm=FAR, **options):
    """Return the updates of some steps, and the gradients they came from."""
    rng = np.random.default_rng(0)
    optimizer = dense_optimizer(name, clip_norm=clip_norm, **options)
    grads = [draw(rng) for _ in range(count)]
    state = optimizer.init(jax.tree.map(lambda x: jnp.zeros(x.shape), grads[0]))
    out, update = [], jax.jit(optimizer.update)
    for g in grads:
        found, state = update(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), g), state)
        out.append(found)
    return out, grads


def reference_adam(grads, b1=0.9, b2=0.99, eps=1e-8):
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        yield m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def reference_adagrad(grads):
    total = 0.0
    for g in grads:
        total = total + g**2
        yield g / np.sqrt(total)


def reference_rmsprop(grads, decay=0.9):
    v = 0.0
    for t, g in enumerate(grads, 1):
        v = decay * v + (1 - decay) * g**2
        yield g / (np.sqrt(v / (1 - decay**t)) + 1e-8)


def reference_rmsprop_v2(grads, decay=0.8):
    v = 0.0
    for g in grads:
        v = decay * v + g**2
        yield g / np.sqrt(v)


def reference_muon(grads, beta=0.95):
    """Work on the singular values: the iteration leaves the singular vectors alone."""
    m = 0.0
    for t, g in enumerate(grads, 1):
        m = beta * m + (1 - beta) * g
        ahead = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        u, s, vt = np.linalg.svd(ahead, full_matrices=False)
        s = s / np.sqrt(np.sum(s**2, axis=-1, keepdims=True))
        for a, b, c in MUON_COEFFICIENTS:
            s = a * s + b * s**3 + c * s**5
        yield (u * s[..., None, :]) @ vt * np.sqrt(g.shape[-2] * g.shape[-1]) / BASE_FAN_IN


@pytest.mark.parametrize(
    ("name", "reference", "options"),
    [
        ("adam", reference_adam, {}),
        ("adagrad", reference_adagrad, {}),
        ("rmsprop", reference_rmsprop, {"rmsprop_decay": 0.9}),
        ("rmsprop_v2", reference_rmsprop_v2, {"rmsprop_v2_decay": 0.8}),
    ],
)
def test_updates_are_those_of_the_textbook(name, reference, options):
    got, grads = steps(name, **options)
    for group, leaves in SHAPES.items():
        for leaf in leaves:
            for found, wanted in zip(got, reference([g[group][leaf] for g in grads]), strict=True):
                np.testing.assert_allclose(found[group][leaf], wanted, rtol=2e-5, atol=1e-7)


def test_muon_updates_hidden_kernels_by_their_momentum_made_orthogonal_and_the_rest_by_adam():
    got, grads = steps("muon")
    for group, leaves in SHAPES.items():
        for leaf in leaves:
            reference = reference_muon if leaf == "kernel" and group != "heads" else reference_adam
            for found, wanted in zip(got, reference([g[group][leaf] for g in grads]), strict=True):
                np.testing.assert_allclose(found[group][leaf], wanted, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("shape", [(4, 4), (32, 8), (8, 32), (5, 16, 24), (2, 3, 12, 6), (64, 64)])
def test_muons_update_is_near_orthogonal_in_each_type(shape):
    optimizer = dense_optimizer("muon", clip_norm=1.0)
    rng = np.random.default_rng(1)
    params = {"block": {"kernel": jnp.zeros(shape)}}
    state = optimizer.init(params)
    u, _, vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    for _ in range(3):
        # Types whose gradients differ by orders of magnitude, and in each a condition number of up to 30.
        singular = np.exp(rng.uniform(np.log(1 / 30), 0, size=(*shape[:-2], 1, min(shape[-2:]))))
        gradient = np.exp(3 * rng.normal(size=(*shape[:-2], 1, 1))) * (u * singular) @ vt
        grads = {"block": {"kernel": jnp.asarray(gradient, jnp.float32)}}
        updates, state = optimizer.update(grads, state)
        scale = np.sqrt(shape[-2] * shape[-1]) / BASE_FAN_IN
        singular = np.linalg.svd(np.asarray(updates["block"]["kernel"]) / scale, compute_uv=False)
        assert singular.min() >= 0.7 and singular.max() <= 1.3, (shape, singular.min(), singular.max())


@pytest.mark.parametrize("name", DENSE_OPTIMIZERS)
def test_updates_do_not_depend_on_the_gradients_scale(name):
    """Gradients shrink as kernels widen; a rate that serves a ladder must not see it."""
    rng = np.random.default_rng(2)
    grads = [draw(rng) for _ in range(3)]
    results = []
    for scale in (1.0, 1e-3):
        optimizer = dense_optimizer(name, clip_norm=FAR)
        state = optimizer.init(jax.tree.map(lambda x: jnp.zeros(x.shape), grads[0]))
        for g in grads:
            updates, state = optimizer.update(jax.tree.map(lambda x, s=scale: jnp.asarray(s * x, jnp.float32), g), state)
        results.append(updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), *results)


@pytest.mark.parametrize("name", DENSE_OPTIMIZERS)
def test_gradients_beyond_the_norm_are_clipped_first(name):
    rng, optimizer = np.random.default_rng(0), dense_optimizer(name, clip_norm=1.0)
    large, small = (jax.tree.map(lambda x, s=s: jnp.asarray(s * x, jnp.float32), draw(rng)) for s in (1e6, 0.01))
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(large)))
    results = []
    for first in (large, jax.tree.map(lambda g: g / norm, large)):
        state = optimizer.init(first)
        for grads in (first, small):  # how large the first one was shows in the second update
            updates, state = optimizer.update(grads, state)
        results.append(updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *results)


def test_a_kernel_without_a_gradient_stays():
    for name in DENSE_OPTIMIZERS:
        optimizer = dense_optimizer(name, clip_norm=1.0)
        params = {"block": {"kernel": jnp.ones((6, 6))}}
        updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params))
        assert (updates["block"]["kernel"] == 0).all(), name


def test_a_models_kernels_are_told_from_its_biases_heads_and_gates(hhsft):
    params = nnx.to_pure_dict(nnx.state(hhsft, nnx.Param))
    names = {}
    jax.tree_util.tree_map_with_path(
        lambda path, x: names.setdefault(".".join(str(p.key) for p in path), (is_hidden_kernel(path, x), is_decayed(x))), params
    )
    muon = {name for name, (hidden, _) in names.items() if hidden}
    assert {"gfa.qkv.kernel", "hfa.0.qkv.kernel", "tokenizers.groups.1.up.candidate", "fusion.experts.down.kernel"} <= muon
    assert not any(name.startswith("heads.") or name.endswith(".bias") for name in muon)
    assert "fusion.gate.down.kernel" not in muon  # two outputs
    assert not any(decayed for name, (_, decayed) in names.items() if name.endswith("bias"))
    assert all(decayed for name, (_, decayed) in names.items() if name.endswith("kernel"))
    optimizer = dense_optimizer("muon", clip_norm=1.0)
    optimizer.update(params, optimizer.init(params))


def test_an_unknown_name_is_one_clear_error():
    with pytest.raises(InputError, match="optimizer 'sgd': unknown; give one of adam, muon, adagrad, rmsprop, rmsprop_v2"):
        dense_optimizer("sgd", clip_norm=1.0)


@pytest.fixture(scope="module")
def hhsft(train_columns):
    return HHSFT(HHSFTConfig(embed_dim=4, hfa_dim=8, gfa_dim=16), train_columns.spec, rngs=nnx.Rngs(0))
