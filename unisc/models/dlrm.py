"""DLRM-MLP: the baseline UniScale measures against (arXiv 1906.00091 with concatenation, UniScale table 1).

Every embedding of a candidate and its request, its numerics and its mean-pooled history go side by side into one MLP; the
domain is a feature like any other. `interaction="dot"` adds the inner products of all pairs of fields.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx

from unisc.data.features import Batch, FeatureSpec
from unisc.dims import Logits, Rows
from unisc.models.checks import check_fields
from unisc.models.counts import FlopCount, ParamCount
from unisc.nn.embedding import concat_fields, lookup, masked_mean, to_candidates
from unisc.nn.interaction import num_pairs, pairwise_dots
from unisc.nn.linear import RELU_GAIN, Linear, start_bias
from unisc.nn.mlp import JointLinear, activate

Interaction = Literal["none", "dot"]

HEAD_GAIN = 0.1  # logits start near their bias


@dataclass(frozen=True, kw_only=True, slots=True)
class DLRMConfig:
    """Hidden widths of the MLP, from the features up, and the explicit interaction."""

    embed_dim: int
    hidden_dims: tuple[int, ...]
    interaction: Interaction = "none"

    def __post_init__(self) -> None:
        check_fields(self)


class DLRM(nnx.Module):
    """The baseline ranker: `model(rows, batch)` gives one logit a candidate and task; `bias_init` as in HHSFT."""

    def __init__(self, config: DLRMConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        self.config, self.spec = config, spec
        self.first = JointLinear(*input_widths(config, spec), config.hidden_dims[0], rngs=rngs)
        self.hidden = nnx.List(
            [Linear(dim_in, dim_out, gain=RELU_GAIN, rngs=rngs) for dim_in, dim_out in itertools.pairwise(config.hidden_dims)]
        )
        self.head = Linear(config.hidden_dims[-1], len(spec.tasks), gain=RELU_GAIN * HEAD_GAIN, rngs=rngs)
        if bias_init:
            start_bias(self.head.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate; `rows` are the embeddings of `batch.unique_rows`."""
        request = lookup(rows, batch.request_ids)
        candidate = lookup(rows, batch.candidate_ids)
        history = lookup(rows, batch.history_ids)
        if self.spec.at("history"):
            pooled = masked_mean(concat_fields(history), batch.history_mask)
            request = jnp.concatenate([request, pooled.reshape(-1, *history.shape[2:])], axis=1)
        by_candidate = [concat_fields(candidate), batch.candidate_numeric]
        if self.config.interaction == "dot":
            fields = jnp.concatenate([to_candidates(request, batch.request_index), candidate], axis=1)
            by_candidate.append(pairwise_dots(fields))
        by_request = jnp.concatenate([concat_fields(request), batch.request_numeric], axis=-1)
        x = activate(self.first(by_request, jnp.concatenate(by_candidate, axis=-1), batch.request_index))
        for layer in self.hidden:
            x = activate(layer(x))
        return self.head(x)


def input_widths(config: DLRMConfig, spec: FeatureSpec) -> tuple[int, int]:
    """Return the widths of what the MLP sees of a request (pooled history included) and of a candidate."""
    num_request = len(spec.at("request")) + len(spec.at("history"))
    num_candidate = len(spec.at("candidate"))
    pairs = num_pairs(num_request + num_candidate) if config.interaction == "dot" else 0
    return (
        num_request * config.embed_dim + len(spec.numeric_at("request")),
        num_candidate * config.embed_dim + len(spec.numeric_at("candidate")) + pairs,
    )


def num_params(config: DLRMConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form; every dense one is active."""
    widths = (sum(input_widths(config, spec)), *config.hidden_dims, len(spec.tasks))
    dense = sum((dim_in + 1) * dim_out for dim_in, dim_out in itertools.pairwise(widths))
    return ParamCount(embedding=spec.num_rows * config.embed_dim, dense=dense, active=dense)


def flops_per_example(config: DLRMConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs a candidate and a request in closed form."""
    in_request, in_candidate = input_widths(config, spec)
    num_history = len(spec.at("history"))
    widths = (*config.hidden_dims, len(spec.tasks))
    candidate = 2 * in_candidate * widths[0] + sum(2 * a * b for a, b in itertools.pairwise(widths))
    if config.interaction == "dot":
        num_fields = len(spec.at("request")) + num_history + len(spec.at("candidate"))
        candidate += 2 * num_fields * num_fields * config.embed_dim
    request = 2 * in_request * widths[0] + 2 * spec.history_len * num_history * config.embed_dim
    return FlopCount(candidate=candidate, candidate_active=candidate, request=request)
