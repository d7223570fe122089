"""One learning rate for all widths: how far steps move activations, and where the best rate lies; and its rule for batches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.data.features import Batch, FeatureSpec, Field, NumericField, Table
from unisc.errors import InputError
from unisc.models.dlrm import DLRM, DLRMConfig
from unisc.models.hhsft import HHSFT, HHSFTConfig
from unisc.nn.linear import Linear, TypedLinear
from unisc.nn.mlp import JointLinear
from unisc.objectives.ranking import ranking_loss
from unisc.train.optimizers import dense_optimizer
from unisc.train.transfer import scale_memory, scale_rate, scale_weight_decay

EMBED_DIM, NUM_IDS, HISTORY = 8, 60, 4
NAMES = {"request": ("user", "query", "domain"), "candidate": ("item", "brand", "price"), "history": ("h_item", "h_brand")}
GROUPS = {"user": "user", "query": "query", "domain": "domain", "h_item": "sequence", "h_brand": "sequence"}
SPEC = FeatureSpec(
    tables=tuple(Table(name=n.removeprefix("h_"), num_rows=NUM_IDS) for n in (*NAMES["request"], *NAMES["candidate"])),
    fields=tuple(
        Field(name=n, group=GROUPS.get(n, "item"), level=level, table=n.removeprefix("h_"))
        for level, names in NAMES.items()
        for n in names
    ),
    numeric=tuple(NumericField(name=f"x{i}", group="item", level="candidate") for i in range(4)),
    domains=("a", "b"),
    tasks=("click", "purchase"),
    history_len=HISTORY,
)
ROWS = np.random.default_rng(0).normal(size=(NUM_IDS, EMBED_DIM)).astype(np.float32) * 0.5


def make_model(kind, width, seed):
    rngs = nnx.Rngs(seed)
    if kind == "dlrm":
        return DLRM(DLRMConfig(embed_dim=EMBED_DIM, hidden_dims=(width, width, width)), SPEC, rngs=rngs)
    return HHSFT(HHSFTConfig(embed_dim=EMBED_DIM, hfa_dim=width // 2, gfa_dim=width), SPEC, rngs=rngs)


def without_multipliers(model):
    """Make each map the same function with a plain kernel: what its multiplier was is in the kernel."""
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "multiplier"):
            for name in ("kernel", "request", "candidate"):
                if getattr(module, name, None) is not None:
                    kernel = getattr(module, name)
                    kernel[...] = kernel[...] * module.multiplier
            module.multiplier = 1.0
    return model


def draw(rng, size):
    """Draw requests of one candidate each, labelled by a nonlinear teacher of their features."""
    ids = {level: rng.integers(0, NUM_IDS, (size, len(names))) for level, names in NAMES.items()}
    history = rng.integers(0, NUM_IDS, (size, HISTORY, len(NAMES["history"])))
    numeric = rng.normal(size=(size, 4))
    teacher = np.random.default_rng(1)
    seen = [
        ROWS[ids["request"]].reshape(size, -1),
        ROWS[ids["candidate"]].reshape(size, -1),
        numeric,
        ROWS[history].mean((1, 2)),
    ]
    seen = np.concatenate(seen, axis=1)
    hidden = np.tanh(seen @ teacher.normal(size=(seen.shape[1], 16)) / 2)
    logits = hidden @ teacher.normal(size=(16, 2)) * 0.7
    return Batch(
        unique_rows=np.arange(NUM_IDS, dtype=np.int32),
        request_ids=ids["request"].astype(np.int32),
        candidate_ids=ids["candidate"].astype(np.int32),
        history_ids=history.astype(np.int32),
        history_mask=np.ones((size, HISTORY), bool),
        request_numeric=np.zeros((size, 0), np.float32),
        candidate_numeric=numeric.astype(np.float32),
        request_index=np.arange(size, dtype=np.int32),
        lists=np.zeros((size, 0), np.int32),
        domain=rng.integers(0, 2, size).astype(np.int32),
        labels=(rng.random((size, 2)) < 1 / (1 + np.exp(-logits))).astype(np.float32),
        weights=np.ones((size, 2), np.float32),
    )


def stacked(kind, width, seeds, change):
    """Return a model's structure and the parameters of several seeds, stacked."""
    models = [change(make_model(kind, width, seed)) for seed in seeds]
    params = [nnx.to_pure_dict(nnx.state(model, nnx.Param)) for model in models]
    return nnx.graphdef(models[0]), jax.tree.map(lambda *xs: jnp.stack(xs), *params)


def loss_of(graphdef, params, batch):
    batch = jax.tree.map(jnp.asarray, batch)
    logits = nnx.merge(graphdef, nnx.State(params))(jnp.asarray(ROWS), batch)
    return ranking_loss(logits, batch.labels, batch.weights, task_weights=jnp.ones(2)).mean


WIDTHS = (16, 32, 64, 128)


@pytest.fixture
def recorded(monkeypatch):
    """Collect what every linear map puts out while a model runs."""
    outputs = []

    def record(cls, name):
        method = getattr(cls, name)

        def wrapped(self, *args):
            outputs.append(method(self, *args))
            return outputs[-1]

        monkeypatch.setattr(cls, name, wrapped)

    for cls, name in (
        (Linear, "__call__"),
        (TypedLinear, "__call__"),
        (TypedLinear, "shared_input"),
        (JointLinear, "__call__"),
    ):
        record(cls, name)
    return outputs


def slopes(recorded, kind, optimizer_name, change=lambda model: model, widths=WIDTHS, num_steps=4, rate=0.02):
    """Return, for each map, the exponent of width in how far some steps move its output, and the number of its outputs."""
    batch, optimizer, moved = draw(np.random.default_rng(2), 48), dense_optimizer(optimizer_name, clip_norm=1.0), []
    for width in widths:
        graphdef, params = stacked(kind, width, (0, 1, 2), change)

        def loss(params, graphdef=graphdef):
            recorded.clear()
            value = loss_of(graphdef, params, batch)
            return value, tuple(recorded)

        @jax.jit
        @jax.vmap
        def changes(params, loss=loss):
            def step(carry, _):
                params, state = carry
                grads, outputs = jax.grad(loss, has_aux=True)(params)
                updates, state = optimizer.update(grads, state)
                return (jax.tree.map(lambda p, u: p - rate * u, params, updates), state), outputs

            _, outputs = jax.lax.scan(step, (params, optimizer.init(params)), length=num_steps + 1)
            return [jnp.mean(jnp.abs(x[-1] - x[0])) for x in outputs]

        moved.append(np.mean(np.asarray(changes(params)), axis=1))
    assert np.min(moved) > 1e-4, "every map's output moves"
    num_outputs = np.array([x.shape[-1] for x in recorded])
    return np.polyfit(np.log2(widths), np.log2(np.asarray(moved)), 1)[0], num_outputs


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [("dlrm", "adam"), ("dlrm", "muon"), ("hhsft", "adam"), pytest.param("hhsft", "muon", marks=pytest.mark.slow)],
)
def test_steps_move_every_activation_alike_at_every_width(recorded, kind, optimizer):
    exponents, num_outputs = slopes(recorded, kind, optimizer)
    print(kind, optimizer, np.round(exponents, 2))
    assert np.abs(exponents[num_outputs > 2]).max() < 0.25, np.round(exponents, 2)
    # Logits and gates start with deviation 1/sqrt(fan_in), not 1/fan_in, so what moves below them shows as the root of width.
    assert np.abs(exponents).max() < 0.5, np.round(exponents, 2)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_without_the_multipliers_wider_layers_move_further(recorded, optimizer):
    exponents, num_outputs = slopes(recorded, "dlrm", optimizer, without_multipliers)
    print("dlrm without multipliers", optimizer, np.round(exponents, 2))
    assert exponents[num_outputs > 2].max() > 0.3 and exponents.max() > 0.7, np.round(exponents, 2)


def sweep(kind, width, rates, *, batch_size, num_steps, seeds=(0, 1, 2), change=lambda model: model, name="adam"):
    """Return the held-out loss (rates,) after training at each constant rate, averaged over seeds; one program for all."""
    graphdef, params = stacked(kind, width, seeds, change)
    rng = np.random.default_rng(3)
    drawn = draw(rng, batch_size * num_steps)
    batches = jax.tree.map(lambda x: x.reshape(num_steps, batch_size, *x.shape[1:]), drawn._replace(unique_rows=drawn.domain))
    batches = batches._replace(request_index=np.tile(np.arange(batch_size, dtype=np.int32), (num_steps, 1)))
    held_out, optimizer = draw(rng, 8192), dense_optimizer(name, clip_norm=1.0)

    def run(params, rate):
        def step(carry, batch):
            params, state, count = carry
            grads = jax.grad(lambda p: loss_of(graphdef, p, batch))(params)
            updates, state = optimizer.update(grads, state)
            factor = jnp.minimum(1.0, (count + 1) / (0.1 * num_steps)) * (1 - count / num_steps)
            return (jax.tree.map(lambda p, u: p - rate * factor * u, params, updates), state, count + 1), None

        (params, _, _), _ = jax.lax.scan(step, (params, optimizer.init(params), 0), batches)
        return loss_of(graphdef, params, held_out)

    losses = jax.jit(jax.vmap(jax.vmap(run, (0, None)), (None, 0)))(params, jnp.asarray(rates, jnp.float32))
    return np.asarray(losses).mean(axis=1)


def table(title, rates, rows):
    print(f"\n{title}\n{'':>12}" + "".join(f"{rate:>9.4f}" for rate in rates))
    for name, losses in rows.items():
        print(f"{name!s:>12}" + "".join(f"{x:8.4f}{'*' if i == np.argmin(losses) else ' '}" for i, x in enumerate(losses)))


RATES = 2.0 ** np.arange(-10, -2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "widths"),
    [("dlrm", "adam", (32, 64, 128)), ("dlrm", "muon", (32, 64, 128)), ("hhsft", "adam", (16, 32, 64))],
)
def test_the_best_rate_moves_by_at_most_a_factor_of_two_from_width_to_width(kind, name, widths):
    found = {w: sweep(kind, w, RATES, batch_size=128, num_steps=250, name=name) for w in widths}
    table(f"{kind}, {name}: held-out loss by width and rate", RATES, found)
    best = [int(np.argmin(found[w])) for w in widths]
    assert all(0 < b < len(RATES) - 1 for b in best), "the grid holds the best rate"
    assert np.abs(np.diff(best)).max() <= 1, best


@pytest.mark.slow
def test_the_best_rate_grows_as_the_root_of_the_batch():
    """Between batches that are small, where the rule is meant to hold: from 64 to 1024 the best rate here stays."""
    base, batches, num_examples = 4, (4, 16, 64), 32_000
    found = {b: sweep("dlrm", 32, RATES, batch_size=b, num_steps=num_examples // b) for b in batches}
    table("dlrm, adam, width 32, 32,000 examples: held-out loss by batch and rate", RATES, found)
    best = RATES[np.argmin(found[base])]
    for batch in batches[1:]:
        predicted = scale_rate(best, batch=batch, base_batch=base)
        assert abs(math.log2(RATES[np.argmin(found[batch])] / predicted)) <= 1


def test_rules_of_the_batch():
    assert scale_rate(0.01, batch=4096, base_batch=1024) == pytest.approx(0.02)
    assert scale_memory(0.99, batch=2048, base_batch=1024) == pytest.approx(0.98)
    assert scale_memory(0.9, batch=20480, base_batch=1024) == 0.0
    decay = scale_weight_decay(0.1, batch=4096, base_batch=1024)
    assert scale_rate(0.01, batch=4096, base_batch=1024) * decay == pytest.approx(4 * 0.01 * 0.1)
    with pytest.raises(InputError, match="base_batch 0: give at least 1 candidate"):
        scale_rate(0.01, batch=1, base_batch=0)
