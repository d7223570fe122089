"""DIN: its equations against NumPy, lists against flat candidates, empty slots, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.data.features import FeatureSpec, Field, Table
from unisc.models import din
from unisc.models.din import DIN, DINConfig
from unisc.models.inputs import shared_fields
from unisc.objectives.ranking import bce

BARE = {"domains": ("search",), "tasks": ("click",), "without": ("query", "domain"), "no_history": True}
CONFIG = DINConfig(embed_dim=4, hidden_dims=(8, 6), attention_dim=5)


def build(config, spec, seed=0, **options):
    """Return parameters and a jitted score."""
    graphdef, params = nnx.split(DIN(config, spec, rngs=nnx.Rngs(seed), **options), nnx.Param)
    return params, jax.jit(lambda params, rows, batch: nnx.merge(graphdef, params)(rows, batch))


def random_values(rng, params):
    """Give every parameter, biases too, a random value, so that a test sees each of them."""
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)


def without_pairs(make_spec):
    """Make a spec whose history shares no table with the candidate."""
    spec = make_spec()
    tables = (*spec.tables, Table(name="other", num_rows=9))
    fields = tuple(
        Field(name=f.name, group=f.group, level=f.level, table="other") if f.level == "history" else f for f in spec.fields
    )
    return FeatureSpec(
        tables=tables, fields=fields, numeric=spec.numeric, domains=spec.domains, tasks=spec.tasks, history_len=spec.history_len
    )


def by_hand(spec, params, rows, batch):
    """Score one candidate after another from the equations; kernels times 32 / fan-in are the paper's matrices."""
    rows, p = np.asarray(rows, np.float64), jax.tree.map(lambda p: np.asarray(p, np.float64), nnx.to_pure_dict(params))
    batch = jax.tree.map(np.asarray, batch)

    def linear(x, layer):
        return x @ layer["kernel"] * 32 / x.size + layer["bias"]

    def leaky(x):
        return np.where(x > 0, x, 0.1 * x)

    pairs = [
        (c, h)
        for c, mine in enumerate(spec.at("candidate"))
        for h, theirs in enumerate(spec.at("history"))
        if mine.table == theirs.table
    ]
    scores = []
    for b, r in enumerate(batch.request_index):
        own = rows[batch.candidate_ids[b]]
        request = np.concatenate([rows[batch.request_ids[r]].ravel(), batch.request_numeric[r]])
        candidate = np.concatenate([own.ravel(), batch.candidate_numeric[b]])
        if spec.at("history"):
            pooled = np.zeros(len(spec.at("history")) * rows.shape[1])
            for s in range(spec.history_len):
                if batch.history_mask[r, s]:
                    entry = rows[batch.history_ids[r, s]]
                    difference = [own[c] - entry[h] for c, h in pairs]
                    product = [own[c] * entry[h] for c, h in pairs]
                    seen = np.concatenate([own.ravel(), entry.ravel(), *difference, *product])
                    weight = linear(leaky(linear(seen, p["unit"]["up"])), p["unit"]["down"])
                    pooled += weight * entry.ravel()
            candidate = np.concatenate([candidate, pooled])
        fan_in, first = request.size + candidate.size, p["first"]
        y = first["bias"].copy()
        for part, kernel in ((request, "request"), (candidate, "candidate")):
            if part.size:
                y += part @ first[kernel] * 32 / fan_in
        x = leaky(y)
        for i in range(len(p.get("hidden", ()))):
            x = leaky(linear(x, p["hidden"][i]))
        scores.append(linear(x, p["head"]))
    return np.stack(scores)


@pytest.mark.parametrize("list_len", [0, 10])
def test_it_computes_the_papers_equations(make_spec, make_batch, make_rows, list_len):
    for spec in (make_spec(), make_spec(**BARE), without_pairs(make_spec)):
        batch = make_batch(spec, num_candidates=12, num_requests=4, list_len=list_len)
        batch = batch._replace(history_mask=batch.history_mask.at[1].set(False))
        params, score = build(CONFIG, spec)
        params = random_values(np.random.default_rng(1), params)
        expected = by_hand(spec, params, make_rows(batch), batch)
        np.testing.assert_allclose(
            score(params, make_rows(batch), batch), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


def test_lists_change_neither_scores_nor_gradients(make_spec, make_batch, make_rows):
    spec = make_spec()
    listed = make_batch(spec, list_len=14)
    flat = listed._replace(lists=listed.lists[:, :0])
    params, score = build(CONFIG, spec)

    def loss(params, rows, batch):
        return bce(score(params, rows, batch), batch.labels, batch.weights)

    one, other = (jax.grad(loss, argnums=(0, 1))(params, make_rows(flat), b) for b in (flat, listed))
    np.testing.assert_allclose(
        score(params, make_rows(flat), flat), score(params, make_rows(flat), listed), rtol=1e-5, atol=1e-6
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), one, other)


def test_weights_are_not_normalised(make_spec, make_batch, make_rows):
    """An entry seen twice counts twice; a softmax would leave the sum as it was."""
    spec = make_spec(history_len=1)
    twice = make_spec(history_len=2)
    batch = make_batch(spec)
    batch = batch._replace(history_mask=jnp.ones_like(batch.history_mask))
    doubled = batch._replace(
        history_ids=jnp.tile(batch.history_ids, (1, 2, 1)), history_mask=jnp.tile(batch.history_mask, (1, 2))
    )
    once = DIN(CONFIG, spec, rngs=nnx.Rngs(0)).unit(make_rows(batch), batch)
    assert np.any(once)
    both = DIN(CONFIG, twice, rngs=nnx.Rngs(0)).unit(make_rows(batch), doubled)
    np.testing.assert_allclose(both, 2 * once, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("list_len", [0, 14])
def test_an_empty_slot_costs_as_much_as_a_candidates_history(make_spec, make_batch, make_rows, num_matmul_flops, list_len):
    for spec in (make_spec(), make_spec(**BARE), without_pairs(make_spec)):
        batch, model = make_batch(spec, list_len=list_len), DIN(CONFIG, spec, rngs=nnx.Rngs(0))
        traced = num_matmul_flops(model.__call__, make_rows(batch), batch)
        counted = din.flops_per_example(CONFIG, spec).forward(num_candidates=24, num_requests=6)
        assert traced == counted + max(6 * list_len - 24, 0) * din.pair_flops(CONFIG, spec)


def test_an_empty_history_sums_to_zero(make_spec, make_batch, make_rows):
    for spec in (make_spec(), make_spec(history_len=0)):
        batch = make_batch(spec)
        batch = batch._replace(history_mask=jnp.zeros_like(batch.history_mask))
        model = DIN(CONFIG, spec, rngs=nnx.Rngs(0))
        np.testing.assert_array_equal(model.unit(make_rows(batch), batch), np.zeros((24, 4 * 4)))
        assert np.all(np.isfinite(model(make_rows(batch), batch)))


@pytest.mark.parametrize("list_len", [0, 14])
def test_it_learns_whether_the_candidate_is_in_the_history(make_spec, make_batch, make_rows, list_len):
    """The label is 1 where an entry of the own history has the candidate's id, which no feature alone tells."""
    spec = make_spec(tasks=("click",))
    batch = make_batch(spec, num_candidates=48, num_requests=6, list_len=list_len and 20)
    item = shared_fields(spec)
    histories = np.asarray(batch.history_ids)[np.asarray(batch.request_index)]
    chosen = np.random.default_rng(3).random(48) < 0.5
    ids = np.where(chosen, histories[:, 0, item.history[0]], 49)
    batch = batch._replace(
        candidate_ids=batch.candidate_ids.at[:, item.candidate[0]].set(jnp.asarray(ids, jnp.int32)),
        history_mask=jnp.ones_like(batch.history_mask).at[0].set(False),
    )
    labels = jnp.asarray(chosen & (np.asarray(batch.request_index) != 0), jnp.float32)[:, None]
    params, score = build(DINConfig(embed_dim=4, hidden_dims=(16, 8), attention_dim=8), spec, bias_init=(-1.0,))
    rows = make_rows(batch)
    np.testing.assert_allclose(np.mean(score(params, rows, batch)), -1.0, atol=0.3)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: bce(score(p, rows, batch), labels, batch.weights))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss, grads

    state, losses = optimizer.init(params), []
    for _ in range(60):
        params, state, loss, grads = step(params, state)
        losses.append(float(loss))
        assert all(np.all(np.isfinite(g)) and np.any(g) for g in jax.tree.leaves(grads))
    assert losses[-1] < 0.3 * losses[0]
