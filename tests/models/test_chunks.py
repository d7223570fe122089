"""The mixers' tokeniser: every feature in one place, the request's part once a request, any features at all."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from unisc.models.chunks import ChunkTokens, layout, tokens_flops, tokens_params

MISSING = (
    {},
    {"without": ("query",), "no_history": True},
    {"without": ("user", "query", "domain", "item", "sequence")},
    {"without": ("user", "query", "domain"), "no_history": True},
)


def build(spec, num_tokens=5, dim=6, global_token=False):
    return ChunkTokens(spec, embed_dim=4, num_tokens=num_tokens, dim=dim, global_token=global_token, rngs=nnx.Rngs(0))


def num_dense(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_chunks_are_projections_of_neighbouring_features(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch, tokens = make_batch(spec), build(spec, global_token=True)
    rows = make_rows(batch)
    request, candidate = (np.asarray(x) for x in tokens.features(rows, batch))
    out, cut = np.asarray(tokens(rows, batch)), tokens.layout
    joined = np.concatenate([request[np.asarray(batch.request_index)], candidate], axis=-1)
    kernel = np.concatenate([tokens.whole.request[...], tokens.whole.candidate[...]]) * tokens.whole.multiplier
    np.testing.assert_allclose(out[0], joined @ kernel, rtol=1e-4, atol=1e-5)
    t = 1
    for x, layer, num, width in (
        (request[np.asarray(batch.request_index)], tokens.request, cut.num_request, cut.request_width),
        (candidate, tokens.candidate, cut.num_candidate, cut.candidate_width),
    ):
        for n in range(num):
            part = x[:, n * width : (n + 1) * width]
            kernel = np.asarray(layer.kernel[...][n, : part.shape[1]]) * layer.multiplier
            np.testing.assert_allclose(out[t], part @ kernel, rtol=1e-4, atol=1e-5)
            t += 1
    assert t == len(out) == 5


def test_features_hold_every_field_number_and_the_pooled_history(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch, tokens = make_batch(spec), build(spec)
    rows = np.asarray(make_rows(batch))
    request, candidate = (np.asarray(x) for x in tokens.features(make_rows(batch), batch))
    for column in range(len(spec.at("request"))):
        own = rows[np.asarray(batch.request_ids)[:, column]]
        assert any(np.array_equal(request[:, i : i + 4], own) for i in range(request.shape[1] - 3))
    for column in range(len(spec.at("candidate"))):
        own = rows[np.asarray(batch.candidate_ids)[:, column]]
        assert any(np.array_equal(candidate[:, i : i + 4], own) for i in range(candidate.shape[1] - 3))
    for numbers, features in ((batch.request_numeric, request), (batch.candidate_numeric, candidate)):
        for column in np.asarray(numbers).T:
            assert any(np.array_equal(column, feature) for feature in features.T)
    mask = np.asarray(batch.history_mask)[..., None]
    history = rows[np.asarray(batch.history_ids)].reshape(*mask.shape[:2], -1)
    mean = (history * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
    np.testing.assert_allclose(request[:, -mean.shape[1] :], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_tokens", [2, 3, 8, 300])
@pytest.mark.parametrize("missing", MISSING)
def test_the_cut_is_even_and_covers_all_features(make_spec, missing, num_tokens):
    spec = make_spec(**missing)
    cut = layout(spec, 4, num_tokens)
    assert cut.num_request + cut.num_candidate == num_tokens
    assert (cut.num_request > 0) == (cut.in_request > 0) and cut.num_candidate > 0
    assert cut.num_request * cut.request_width >= cut.in_request
    assert cut.num_candidate * cut.candidate_width >= cut.in_candidate
    widest = max(cut.request_width, cut.candidate_width)
    # Even all features in one run would need chunks this wide; each level adds less than a chunk to that.
    assert widest <= -(-(cut.in_request + cut.in_candidate) // max(num_tokens - 1, 1)) or num_tokens == 2


@pytest.mark.parametrize("global_token", [False, True])
@pytest.mark.parametrize("missing", MISSING)
def test_counts_are_exact(make_spec, make_batch, make_rows, num_matmul_flops, missing, global_token):
    spec = make_spec(**missing)
    batch, sizes = make_batch(spec), {"embed_dim": 4, "num_tokens": 5, "dim": 6, "global_token": global_token}
    tokens = build(spec, global_token=global_token)
    assert num_dense(tokens) == tokens_params(spec, **sizes)
    traced = num_matmul_flops(tokens.__call__, make_rows(batch), batch)
    request, candidate = tokens_flops(spec, **sizes)
    assert traced == 24 * candidate + 6 * request


def test_a_level_without_features_leaves_its_chunks_to_the_other(make_spec, make_batch, make_rows):
    full = make_spec(no_history=True)
    lone = dataclasses.replace(full, fields=full.at("request"), numeric=full.numeric_at("request"))
    none = dataclasses.replace(full, fields=(), numeric=())
    for spec, num_request in ((lone, 4), (none, 0)):
        batch = make_batch(spec)
        tokens = build(spec, num_tokens=4)
        out = tokens(make_rows(batch), batch)
        assert tokens.layout.num_request == num_request and out.shape == (4, 24, 6) and np.all(np.isfinite(out))


def test_a_history_that_shares_no_field_enters_as_its_mean(make_spec, make_batch, make_rows):
    full = make_spec()
    fields = tuple(f for f in full.fields if f.level != "history" or f.name in ("h_kind", "h_age"))
    spec = dataclasses.replace(full, fields=fields)
    batch, tokens = make_batch(spec), build(spec)
    assert tokens.history is None
    before = tokens(make_rows(batch), batch)
    after = tokens(make_rows(batch), batch._replace(history_ids=batch.history_ids[::-1]))
    assert np.any(before != after)
