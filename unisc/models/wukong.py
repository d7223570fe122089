"""Wukong: stacked factorisation machines over all embeddings (arXiv 2403.02545, section 3).

    FMB(X) = reshape(MLP(LN(flatten(X (X^T Y)))))       n_F embeddings from the products of all pairs (k a row)
    LCB(X) = W_L X                                      n_L linear combinations
    X'     = LN(concat(FMB(X), LCB(X)) + X)             X mapped to n_F + n_L rows where it has another number

X has one embedding of width d a field, so that l layers reach products of up to 2^l of them; the last X goes flat into an MLP.
X (X^T Y) equals (X X^T) Y and costs n k d instead of n^2 d. The knobs are l, n_F, n_L, k and the MLPs' widths; d is that of the
tables. A history field enters as its mean, and the numerics of a request, and of a candidate, as one embedding each by an MLP.

Of the choices that the paper mentions, Y is a plain learned matrix here (not itself a function of the input); FMB's MLP has one
hidden layer; LN has no gain or shift; leaky ReLU is the activation of all our models. Y, W_L and the map of the residual are
columns of one kernel, since all three combine the rows of X; on the first layer they act on a request's rows once a request.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unisc.data.features import Batch, FeatureSpec
from unisc.dims import Logits, Rows
from unisc.models.checks import check_fields
from unisc.models.counts import FlopCount, ParamCount, mlp_flops, mlp_params
from unisc.models.inputs import flat_widths
from unisc.nn.embedding import concat_fields, lookup, masked_mean, to_candidates
from unisc.nn.linear import BASE_FAN_IN, RELU_GAIN, Linear, kernel_init, start_bias
from unisc.nn.mlp import MLP, activate
from unisc.nn.norm import layer_norm
from unisc.nn.recompute import recompute

HEAD_GAIN = 0.1  # logits start near their bias


@dataclass(frozen=True, kw_only=True, slots=True)
class WukongConfig:
    """The paper's knobs: l is `num_layers`, n_F `num_fmb`, n_L `num_lcb`, k `rank`; MLP widths in FMB and after the stack."""

    embed_dim: int
    hidden_dims: tuple[int, ...]
    num_layers: int
    num_fmb: int
    num_lcb: int
    rank: int
    fmb_dim: int

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_rows(self) -> int:
        """Rows of X after a layer."""
        return self.num_fmb + self.num_lcb


class WukongLayer(nnx.Module):
    """One interaction layer: FMB and LCB side by side, then the residual and LN."""

    def __init__(self, config: WukongConfig, num_in: int, *, rngs: nnx.Rngs):
        self.config, self.multiplier = config, BASE_FAN_IN / num_in
        self.mix = kernel_init(rngs, (num_in, mix_width(config, num_in)), fan_in=num_in)
        self.fmb = MLP(num_in * config.rank, config.fmb_dim, config.num_fmb * config.embed_dim, rngs=rngs)

    def combined(self, x: Float[Array, "K N D"], start: int = 0) -> Float[Array, "K J D"]:
        """Return Y^T X, W_L X and the mapped residual, one below the other; of `x` being the rows of X from `start` on."""
        return jnp.einsum("bnd,nj->bjd", x, self.mix[start : start + x.shape[1]]) * self.multiplier

    def __call__(self, x: Float[Array, "B N D"], combined: Float[Array, "B J D"]) -> Float[Array, "B M D"]:
        """Return the layer's output for X and its combinations."""
        compressed, linear, residual = jnp.split(combined, (self.config.rank, self.config.rank + self.config.num_lcb), axis=1)
        products = jnp.einsum("bnd,bkd->bnk", x, compressed)
        crossed = self.fmb(layer_norm(products.reshape(x.shape[0], -1))).reshape(x.shape[0], self.config.num_fmb, -1)
        return layer_norm(jnp.concatenate([crossed, linear], axis=1) + (residual if residual.shape[1] else x))


class Wukong(nnx.Module):
    """The ranker: `model(rows, batch)` gives one logit a candidate and task; `bias_init` as in HHSFT."""

    def __init__(self, config: WukongConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        self.config, self.spec, dim = config, spec, config.embed_dim
        num_in = (sum(num_embeddings(config, spec)), *[config.num_rows] * (config.num_layers - 1))
        levels = (len(spec.numeric_at("request")), len(spec.numeric_at("candidate")))
        self.request_numeric, self.candidate_numeric = (MLP(n, dim, dim, rngs=rngs) if n else None for n in levels)
        self.layers = nnx.List([WukongLayer(config, n, rngs=rngs) for n in num_in])
        widths = (config.num_rows * dim, *config.hidden_dims)
        self.hidden = nnx.List(
            [Linear(a, b, gain=RELU_GAIN if i else 1.0, rngs=rngs) for i, (a, b) in enumerate(itertools.pairwise(widths))]
        )
        self.head = Linear(widths[-1], len(spec.tasks), gain=RELU_GAIN * HEAD_GAIN, rngs=rngs)
        if bias_init:
            start_bias(self.head.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate; `rows` are the embeddings of `batch.unique_rows`."""
        request, candidate = self.embeddings(rows, batch)
        first, index = self.layers[0], batch.request_index
        combined = to_candidates(first.combined(request), index) + first.combined(candidate, start=request.shape[1])
        x = first(jnp.concatenate([to_candidates(request, index), candidate], axis=1), combined)
        for layer in self.layers[1:]:
            x = recompute(lambda one, x: one(x, one.combined(x)), layer, x)
        x = concat_fields(x)
        for layer in self.hidden:
            x = activate(layer(x))
        return self.head(x)

    def embeddings(self, rows: Rows, batch: Batch) -> tuple[Float[Array, "R Nr D"], Float[Array, "B Nc D"]]:
        """Return a request's rows of the first X (fields, history means, numerics) and a candidate's (fields, numerics)."""
        request, candidate = [lookup(rows, batch.request_ids)], [lookup(rows, batch.candidate_ids)]
        if self.spec.at("history"):
            history = lookup(rows, batch.history_ids)
            means = masked_mean(concat_fields(history), batch.history_mask)
            request.append(means.reshape(-1, *history.shape[2:]))
        if self.request_numeric is not None:
            request.append(self.request_numeric(batch.request_numeric)[:, None])
        if self.candidate_numeric is not None:
            candidate.append(self.candidate_numeric(batch.candidate_numeric)[:, None])
        return jnp.concatenate(request, axis=1), jnp.concatenate(candidate, axis=1)


def mix_width(config: WukongConfig, num_in: int) -> int:
    """Return how many combinations of its input's rows a layer takes: for Y, for W_L, for the residual if that needs a map."""
    return config.rank + config.num_lcb + (config.num_rows if num_in != config.num_rows else 0)


def num_embeddings(config: WukongConfig, spec: FeatureSpec) -> tuple[int, int]:
    """Return how many rows of the first X are known once a request, and how many once a candidate.

    Raises:
      InputError: there is no feature at all.
    """
    flat_widths(spec, config.embed_dim)
    request = len(spec.at("request")) + len(spec.at("history")) + bool(spec.numeric_at("request"))
    return request, len(spec.at("candidate")) + bool(spec.numeric_at("candidate"))


def num_params(config: WukongConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form; every dense one is active."""
    dim, dense, num_in = config.embed_dim, 0, sum(num_embeddings(config, spec))
    for numeric in (spec.numeric_at("request"), spec.numeric_at("candidate")):
        dense += mlp_params(len(numeric), dim, dim) if numeric else 0
    for _ in range(config.num_layers):
        dense += num_in * mix_width(config, num_in) + mlp_params(num_in * config.rank, config.fmb_dim, config.num_fmb * dim)
        num_in = config.num_rows
    widths = (num_in * dim, *config.hidden_dims, len(spec.tasks))
    dense += sum((a + 1) * b for a, b in itertools.pairwise(widths))
    return ParamCount(embedding=spec.num_rows * dim, dense=dense, active=dense)


def flops_per_example(config: WukongConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs a candidate and a request in closed form."""
    dim, (in_request, in_candidate) = config.embed_dim, num_embeddings(config, spec)
    num_in = in_request + in_candidate
    request = 2 * dim * (spec.history_len * len(spec.at("history")) + in_request * mix_width(config, num_in))
    candidate, rows_mixed = 0, in_candidate
    if spec.numeric_at("request"):
        request += mlp_flops(len(spec.numeric_at("request")), dim, dim)
    if spec.numeric_at("candidate"):
        candidate += mlp_flops(len(spec.numeric_at("candidate")), dim, dim)
    for _ in range(config.num_layers):
        candidate += 2 * dim * (rows_mixed * mix_width(config, num_in) + num_in * config.rank)
        candidate += mlp_flops(num_in * config.rank, config.fmb_dim, config.num_fmb * dim)
        num_in = rows_mixed = config.num_rows
    widths = (num_in * dim, *config.hidden_dims, len(spec.tasks))
    candidate += sum(2 * a * b for a, b in itertools.pairwise(widths))
    return FlopCount(candidate=candidate, candidate_active=candidate, request=request)


RUNGS = {"xxs": 2, "xs": 4, "s": 7, "m": 10, "l": 12, "xl": 17, "xxl": 24}
"""n_F, n_L and k at each size; the MLPs' widths follow from it, as the paper scales all of them together."""


def ladder(*, embed_dim: int, num_layers: int = 2, rungs: Mapping[str, int] = RUNGS) -> dict[str, WukongConfig]:
    """Return the sizes by name, smallest first, of about HHSFT's dense parameters."""
    return {
        name: WukongConfig(
            embed_dim=embed_dim,
            hidden_dims=(8 * rows, 4 * rows),
            num_layers=num_layers,
            num_fmb=rows,
            num_lcb=rows,
            rank=rows,
            fmb_dim=8 * rows,
        )
        for name, rows in rungs.items()
    }
