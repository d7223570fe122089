"""The reference ranker: its equations, its counts, and what each context may see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.data.features import Field
from unisc.errors import InputError
from unisc.models import hhsft, transformer
from unisc.models.ladder import hhsft_ladder
from unisc.models.transformer import Transformer, TransformerConfig
from unisc.objectives.ranking import bce

CONTEXTS = ("joint", "shared")
CONFIG = TransformerConfig(embed_dim=4, dim=8, num_layers=2, num_heads=2, ffn_hidden=12)


@functools.cache
def build(spec, context="joint", seed=0):
    """Return (dense parameters, jitted score) of a small model."""
    config = TransformerConfig(embed_dim=4, dim=8, num_layers=2, num_heads=2, ffn_hidden=12, context=context)
    graphdef, params = nnx.split(Transformer(config, spec, rngs=nnx.Rngs(seed)), nnx.Param)
    score = jax.jit(lambda dense, rows, batch: nnx.merge(graphdef, nnx.State(dense))(rows, batch))
    return nnx.to_pure_dict(params), score


@pytest.fixture
def full(make_spec, make_batch):
    """A batch whose lists are full: 6 requests of 4 candidates."""
    batch = make_batch(make_spec(), list_len=14)
    return batch._replace(
        request_index=jnp.asarray(np.repeat(np.arange(6), 4), jnp.int32),
        lists=jnp.arange(24, dtype=jnp.int32).reshape(6, 4),
    )


def norm(x):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def by_hand(dense, rows, batch, b, context):
    """Score one candidate, one token and one head at a time."""
    dense, rows = jax.tree.map(np.asarray, dense), np.asarray(rows)
    width, (dim, hidden), heads = rows.shape[1], (8, 12), 2
    r = int(batch.request_index[b])

    def features(part, ids, numbers):
        tokens = []
        if "fields" in part:
            kernel, bias = part["fields"]["kernel"] * (32 / width), part["fields"]["bias"]
            tokens += [rows[int(i)] @ kernel[m] + bias[m, 0] for m, i in enumerate(ids)]
        return tokens + [float(x) * part["slope"][p] + part["offset"][p] for p, x in enumerate(numbers)]

    x = features(dense.get("request", {}), batch.request_ids[r], batch.request_numeric[r])
    seen = [True] * len(x)
    if "history" in dense:
        for s in range(batch.history_mask.shape[1]):
            entry = np.concatenate([rows[int(i)] for i in batch.history_ids[r, s]])
            x.append(entry @ dense["history"]["kernel"] * (32 / entry.size) + dense["history"]["bias"])
            seen.append(bool(batch.history_mask[r, s]))
    own = features(dense["candidate"], batch.candidate_ids[b], batch.candidate_numeric[b])
    num_context, x, seen = len(x), np.array(x + own), np.array(seen + [True] * len(own))
    is_own = np.arange(len(x)) >= num_context
    for layer in range(2):
        w = dense["blocks"][layer]
        q, k, v = np.split(norm(x) @ w["qkv"]["kernel"] * (32 / dim), 3, axis=-1)
        attended = np.zeros_like(x)
        for t in range(len(x)):
            keys = seen & (is_own[t] | ~is_own) if context == "shared" else seen
            if not keys.any():
                continue
            for n in range(heads):
                part = slice(n * dim // heads, (n + 1) * dim // heads)
                scores = np.exp(k[keys, part] @ q[t, part] * np.sqrt(8.0) / (dim // heads))
                attended[t, part] = scores / scores.sum() @ v[keys, part]
        x = x + attended @ w["out"]["kernel"] * (32 / dim)
        gate, up = np.split(norm(x) @ w["up"]["kernel"] * (32 / dim), 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w["down"]["kernel"] * (32 / hidden)
    pooled = norm(x)[seen if context == "joint" else is_own].mean(0)
    return pooled @ dense["head"]["kernel"] * (32 / dim) + dense["head"]["bias"]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("parts", [{}, {"without": ("user", "query", "domain")}, {"no_history": True}])
def test_it_computes_its_equations(make_spec, make_batch, make_rows, context, parts):
    spec = make_spec(**parts)
    batch = make_batch(spec, list_len=14)
    dense, score = build(spec, context)
    scores = score(dense, make_rows(batch), batch)
    assert scores.shape == (24, 2) and scores.dtype == jnp.float32
    for b in (0, 7, 23):
        np.testing.assert_allclose(scores[b], by_hand(dense, make_rows(batch), batch, b, context), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_score_depends_on_the_own_request_and_candidate_only(make_spec, make_batch, make_rows, context):
    spec = make_spec()
    batch = make_batch(spec, list_len=14)
    dense, score = build(spec, context)
    before = score(dense, make_rows(batch), batch)
    changed = batch._replace(
        candidate_ids=batch.candidate_ids.at[5].set(3), candidate_numeric=batch.candidate_numeric.at[5].multiply(-2.0)
    )
    after = score(dense, make_rows(batch), changed)
    np.testing.assert_allclose(np.delete(after, 5, 0), np.delete(before, 5, 0), rtol=1e-5, atol=1e-6)
    assert np.abs(after[5] - before[5]).max() > 1e-4
    mine = np.asarray(batch.request_index) == 2
    changed = batch._replace(request_ids=batch.request_ids.at[2].set(0), history_ids=batch.history_ids.at[2].set(1))
    after = score(dense, make_rows(batch), changed)
    np.testing.assert_allclose(after[~mine], before[~mine], rtol=1e-5, atol=1e-6)
    assert np.abs(after[mine] - before[mine]).max(axis=-1).min() > 1e-5


@pytest.mark.parametrize("context", CONTEXTS)
def test_order_of_history_and_masked_entries_do_not_matter(make_spec, make_batch, make_rows, context):
    spec = make_spec()
    batch = make_batch(spec, list_len=14)
    dense, score = build(spec, context)
    order = np.random.default_rng(0).permutation(spec.history_len)
    turned = batch._replace(history_ids=batch.history_ids[:, order], history_mask=batch.history_mask[:, order])
    junk = batch._replace(history_ids=jnp.where(batch.history_mask[..., None], batch.history_ids, 7))
    before = score(dense, make_rows(batch), batch)
    np.testing.assert_allclose(score(dense, make_rows(batch), turned), before, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(score(dense, make_rows(batch), junk), before)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("without", [(), ("user", "query", "domain")])
def test_an_empty_history_gives_finite_scores_and_gradients(make_spec, make_batch, make_rows, context, without):
    spec = make_spec(without=without)
    batch = make_batch(spec, list_len=14)
    batch = batch._replace(history_mask=jnp.zeros_like(batch.history_mask))
    dense, score = build(spec, context)

    def loss(dense, rows):
        return bce(score(dense, rows, batch), batch.labels, batch.weights)

    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(dense, make_rows(batch))
    assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    assert not np.any(grads[0].get("history", {"kernel": 0.0})["kernel"])


def test_padding_candidates_do_not_change_other_scores(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch = make_batch(spec, list_len=14)
    dense, score = build(spec, "shared")
    padded = batch._replace(
        candidate_ids=batch.candidate_ids.at[-4:].set(0),
        candidate_numeric=batch.candidate_numeric.at[-4:].set(1e6),
        request_index=batch.request_index.at[-4:].set(0),
        lists=jnp.where(batch.lists >= 20, 24, batch.lists),
    )
    before, after = (score(dense, make_rows(batch), b) for b in (batch, padded))
    np.testing.assert_allclose(before[:-4], after[:-4], rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(after))


def test_no_gradient_crosses_candidates_and_both_contexts_have_the_same_parameters(make_spec, full, make_rows):
    spec = make_spec()
    params, scores = {}, {}
    for context in CONTEXTS:
        params[context], score = build(spec, context)

        @jax.jit
        def slope(x, b, score=score, params=params[context]):
            return jax.grad(lambda x: jnp.sum(score(params, make_rows(full), full._replace(candidate_numeric=x))[b]))(x)

        for b in (0, 6, 23):
            across = np.abs(slope(full.candidate_numeric, b)).max(axis=1)
            assert across[b] > 0 and not np.any(np.delete(across, b))
        scores[context] = score(params["joint"], make_rows(full), full)
    assert jax.tree.all(jax.tree.map(np.array_equal, params["joint"], params["shared"]))
    assert np.abs(scores["joint"] - scores["shared"]).max() > 1e-4


@pytest.mark.parametrize("context", CONTEXTS)
def test_parameters_are_counted_exactly(make_spec, replaced, context):
    full = make_spec()
    bare = make_spec(domains=("search",), tasks=("click",), without=("user", "query", "domain"), no_history=True)
    for spec in (full, bare):
        for config in (*transformer.ladder(embed_dim=8, context=context).values(), transformer.reference(64)):
            model = nnx.eval_shape(lambda c=config, s=spec: Transformer(c, s, rngs=nnx.Rngs(0)))
            count = transformer.num_params(config, spec)
            assert count.dense == count.active == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
            assert count.embedding == spec.num_rows * config.embed_dim


def test_parameters_of_the_reference_ranker(make_spec):
    """Its four blocks: 4 d^2 + 3 d F each."""
    spec = make_spec()
    for dim, hidden in ((64, 192), (128, 384), (256, 704)):
        config = transformer.reference(dim)
        deeper = TransformerConfig(embed_dim=32, dim=dim, num_layers=8, num_heads=4, ffn_hidden=hidden)
        blocks = transformer.num_params(deeper, spec).dense - transformer.num_params(config, spec).dense
        assert blocks == 4 * (4 * dim**2 + 3 * dim * hidden)
    with pytest.raises(InputError, match="dim: no reference ranker of width 100; give one of 64, 128, 256"):
        transformer.reference(100)


@pytest.mark.parametrize("context", CONTEXTS)
def test_flops_equal_the_matrix_products_of_the_trace(make_spec, make_batch, full, make_rows, num_matmul_flops, context):
    bare = make_spec(domains=("search",), tasks=("click",), without=("user", "query", "domain"), no_history=True)
    config = transformer.ladder(embed_dim=8, context=context)["s"]
    for spec, batch in ((make_spec(), full), (bare, make_batch(bare)._replace(lists=full.lists))):
        batch = batch._replace(request_index=full.request_index)
        model = Transformer(config, spec, rngs=nnx.Rngs(0))
        traced = num_matmul_flops(jax.make_jaxpr(model.__call__)(make_rows(batch, 8), batch).jaxpr)
        assert traced == transformer.flops_per_example(config, spec).forward(num_candidates=24, num_requests=6)


@pytest.mark.parametrize("context", CONTEXTS)
def test_flops_agree_with_xla(make_spec, full, make_rows, context):
    """XLA also counts elementwise work: exponentials and gates are a few percent at this size."""
    spec, config = make_spec(), transformer.reference(128, embed_dim=8, context=context)
    graphdef, params = nnx.split(Transformer(config, spec, rngs=nnx.Rngs(0)))
    lowered = jax.jit(lambda p, rows: nnx.merge(graphdef, p)(rows, full)).lower(params, make_rows(full, 8))
    measured = lowered.compile().cost_analysis()["flops"]
    counted = transformer.flops_per_example(config, spec).forward(num_candidates=24, num_requests=6)
    assert 1.0 <= measured / counted < 1.03


def test_the_ladder_lies_close_to_that_of_hhsft(make_spec):
    spec = make_spec()
    ours = [transformer.num_params(c, spec).dense for c in transformer.ladder(embed_dim=8).values()]
    theirs = [hhsft.num_params(c, spec).dense for c in hhsft_ladder(embed_dim=8).values()]
    assert list(transformer.ladder(embed_dim=8)) == list(hhsft_ladder(embed_dim=8))
    assert all(0.9 < a / b < 1.15 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("context", CONTEXTS)
def test_one_rate_moves_every_size_alike(make_spec, make_batch, make_rows, context):
    """Over the first steps of a sign descent (Adam without its averages)."""
    spec = make_spec()
    batch = make_batch(spec, list_len=14)
    rows, moved = make_rows(batch, 8), {}
    for name in ("xs", "xl"):
        config = transformer.ladder(embed_dim=8, context=context)[name]
        graphdef, params = nnx.split(Transformer(config, spec, rngs=nnx.Rngs(0)))

        @jax.jit
        def step(params, graphdef=graphdef):
            def loss(params):
                scores = nnx.merge(graphdef, params)(rows, batch)
                return bce(scores, batch.labels, batch.weights), scores

            grads, scores = jax.grad(loss, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - 0.003 * jnp.sign(g), params, grads), scores

        trail = []
        for _ in range(9):
            params, scores = step(params)
            trail.append(scores)
        moved[name] = float(jnp.sqrt(jnp.mean((trail[-1] - trail[0]) ** 2)))
    assert max(moved.values()) / min(moved.values()) < 2.5, moved


@pytest.mark.parametrize("context", CONTEXTS)
def test_it_learns_which_candidates_match_the_history(make_spec, make_batch, make_rows, context):
    """The label says whether the candidate's item stands in the history: context and candidate must meet."""
    spec = make_spec(tasks=("click",))
    batch = make_batch(spec, num_candidates=64, num_requests=16, list_len=14, num_unique=8)
    items, mask = np.asarray(batch.history_ids[..., 0]), np.asarray(batch.history_mask)
    index, own = np.asarray(batch.request_index), np.asarray(batch.candidate_ids[:, 0])
    hit = np.any((items[index] == own[:, None]) & mask[index], axis=-1)
    batch = batch._replace(labels=jnp.asarray(hit[:, None], jnp.float32))
    dense, score = build(spec, context)
    params, optimizer = (dense, make_rows(batch)), optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: bce(score(*p, batch), batch.labels, batch.weights))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(60):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert losses[-1] < 0.1


def test_logits_start_near_the_given_bias(make_spec, make_batch, make_rows):
    batch = make_batch(make_spec())
    model = Transformer(CONFIG, make_spec(), rngs=nnx.Rngs(0), bias_init=(-2.0, -4.0))
    np.testing.assert_allclose(np.mean(model(make_rows(batch), batch), axis=0), [-2.0, -4.0], atol=0.2)


def test_shared_without_lists_and_a_ranker_without_candidate_features_are_named(make_spec, make_batch, make_rows, replaced):
    spec = make_spec()
    batch = make_batch(spec)
    dense, score = build(spec, "shared")
    with pytest.raises(InputError, match="list_len 0"):
        score(dense, make_rows(batch), batch)
    blind = replaced(spec, fields=(Field(name="user", group="user", level="request", table="user"),), numeric=())
    with pytest.raises(InputError, match="candidate features 0"):
        Transformer(CONFIG, blind, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_heads": 3}, "dim: 8 does not divide into num_heads=3"),
        ({"num_layers": 0}, "num_layers: 0 is not a whole number of at least 1"),
        ({"ffn_hidden": True}, "ffn_hidden: True is not a whole number"),
        ({"context": "both"}, "context: unknown 'both'; give one of joint, shared"),
    ],
)
def test_a_wrong_configuration_is_named_in_one_line(replaced, wrong, message):
    with pytest.raises(InputError) as caught:
        replaced(CONFIG, **wrong)
    assert message in str(caught.value) and "\n" not in str(caught.value)
