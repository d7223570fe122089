"""DIN: a history summed by how much each entry matters to the candidate (arXiv 1706.06978, section 4.3, figure 2).

    v = sum_i w_i e_i,   w_i = MLP([e_t, e_i, e_t - e_i, e_t * e_i])

The weights are not normalised (the paper drops the softmax so that the length of v tells how strong an interest is); v, the
request and the candidate go side by side into an MLP. In the paper an entry and a candidate have the same fields. Here e_t is
all of the candidate's embeddings and e_i all of an entry's, while the difference and the product are of those pairs of fields
that share a table; where every field has its pair, this is the paper's unit. Leaky ReLU, as in all our models, stands for
PReLU and Dice (section 5.3). Mini-batch aware regularisation (section 5.2) is a matter of training and not of this file.

The first layer of the MLP is linear, so its parts in e_t, in e_i and in the difference are computed once a candidate or once an
entry. Only the product is formed for each pair of the two: as a matrix product of a request's candidates, each scaled by the
kernel, with its history. In batches with lists all candidates of a request share one such product, else each has its own.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from unisc.data.features import Batch, FeatureSpec
from unisc.dims import Logits, Rows
from unisc.models.checks import check_fields
from unisc.models.counts import FlopCount, ParamCount
from unisc.models.inputs import columns, flat_inputs, flat_widths, shared_fields
from unisc.nn.embedding import concat_fields, lookup, to_candidates
from unisc.nn.linear import RELU_GAIN, Linear, start_bias
from unisc.nn.lists import from_lists, to_lists
from unisc.nn.mlp import JointLinear, activate

HEAD_GAIN = 0.1  # logits start near their bias


@dataclass(frozen=True, kw_only=True, slots=True)
class DINConfig:
    """Hidden width of the activation unit, and those of the MLP; the defaults are the paper's figure 2."""

    embed_dim: int
    hidden_dims: tuple[int, ...] = (200, 80)
    attention_dim: int = 36

    def __post_init__(self) -> None:
        check_fields(self)


class ActivationUnit(nnx.Module):
    """The weighted sum of a history for each candidate."""

    def __init__(self, config: DINConfig, spec: FeatureSpec, *, rngs: nnx.Rngs):
        self.pairs, self.widths = shared_fields(spec), unit_widths(config, spec)
        self.up = Linear(sum(self.widths), config.attention_dim, rngs=rngs)
        self.down = Linear(config.attention_dim, 1, gain=RELU_GAIN, rngs=rngs)

    def __call__(self, rows: Rows, batch: Batch) -> Float[Array, "B V"]:
        """Return the sum for each candidate, as wide as an entry; zero where the history is empty."""
        target = concat_fields(lookup(rows, batch.candidate_ids))
        target_pair = concat_fields(lookup(rows, columns(batch.candidate_ids, self.pairs.candidate)))
        history = lookup(rows, batch.history_ids)
        entry_pair = concat_fields(history[:, :, np.array(self.pairs.history, np.int32)])
        entry, mask, index = concat_fields(history), batch.history_mask, batch.request_index
        on_target, on_entry, difference, product = self.kernels()
        by_target = jnp.einsum("bd,df->bf", target, on_target) + jnp.einsum("bp,pf->bf", target_pair, difference)
        by_entry = jnp.einsum("rsd,df->rfs", entry, on_entry) - jnp.einsum("rsp,pf->rfs", entry_pair, difference)
        if batch.lists.shape[1]:
            by_target, target_pair = (to_lists(x, batch.lists, index) for x in (by_target, target_pair))
            return from_lists(self.pool(by_target, target_pair, by_entry, entry_pair, product, entry, mask), batch.lists, index)
        by_entry, entry_pair, entry, mask = (to_candidates(x, index) for x in (by_entry, entry_pair, entry, mask))
        return self.pool(by_target[:, None], target_pair[:, None], by_entry, entry_pair, product, entry, mask)[:, 0]

    def kernels(self) -> tuple[Float[Array, "_ F"], ...]:
        """Return the first layer's kernel of each part of its input."""
        target, entry, pair = self.widths[:3]
        kernel = self.up.kernel[...] * self.up.multiplier
        bounds = (0, target, target + entry, target + entry + pair, target + entry + 2 * pair)
        return tuple(kernel[a:b] for a, b in itertools.pairwise(bounds))

    def pool(
        self,
        by_target: Float[Array, "R C F"],
        target_pair: Float[Array, "R C P"],
        by_entry: Float[Array, "R F S"],
        entry_pair: Float[Array, "R S P"],
        product: Float[Array, "P F"],
        entry: Float[Array, "R S V"],
        mask: Bool[Array, "R S"],
    ) -> Float[Array, "R C V"]:
        """Sum the entries of each row for each of its candidates."""
        assert self.up.bias is not None and self.down.bias is not None
        by_target = (by_target + self.up.bias[...])[..., None]
        scaled = target_pair[:, :, None] * product.T
        hidden = activate(jnp.einsum("rcfp,rsp->rcfs", scaled, entry_pair) + by_target + by_entry[:, None])
        weights = jnp.einsum("rcfs,f->rcs", hidden, self.down.kernel[...][:, 0]) * self.down.multiplier + self.down.bias[...]
        weights = jnp.where(mask[:, None], weights, 0.0)
        return jnp.einsum("rcs,rsv->rcv", weights, entry)


class DIN(nnx.Module):
    """The ranker: `model(rows, batch)` gives one logit a candidate and task; `bias_init` as in HHSFT."""

    def __init__(self, config: DINConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        self.config, self.spec = config, spec
        self.unit = ActivationUnit(config, spec, rngs=rngs) if spec.at("history") else None
        self.first = JointLinear(*input_widths(config, spec), config.hidden_dims[0], rngs=rngs)
        self.hidden = nnx.List([Linear(a, b, gain=RELU_GAIN, rngs=rngs) for a, b in itertools.pairwise(config.hidden_dims)])
        self.head = Linear(config.hidden_dims[-1], len(spec.tasks), gain=RELU_GAIN * HEAD_GAIN, rngs=rngs)
        if bias_init:
            start_bias(self.head.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate; `rows` are the embeddings of `batch.unique_rows`."""
        request, candidate = flat_inputs(rows, batch)
        if self.unit is not None:
            candidate = jnp.concatenate([candidate, self.unit(rows, batch)], axis=-1)
        x = activate(self.first(request, candidate, batch.request_index))
        for layer in self.hidden:
            x = activate(layer(x))
        return self.head(x)


def unit_widths(config: DINConfig, spec: FeatureSpec) -> tuple[int, int, int, int]:
    """Return the widths of e_t, e_i, their difference and their product."""
    pair = config.embed_dim * len(shared_fields(spec).candidate)
    return config.embed_dim * len(spec.at("candidate")), config.embed_dim * len(spec.at("history")), pair, pair


def input_widths(config: DINConfig, spec: FeatureSpec) -> tuple[int, int]:
    """Return the widths of what the MLP sees of a request and of a candidate (its history's sum included)."""
    request, candidate = flat_widths(spec, config.embed_dim)
    return request, candidate + config.embed_dim * len(spec.at("history"))


def num_params(config: DINConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form; every dense one is active."""
    widths = (sum(input_widths(config, spec)), *config.hidden_dims, len(spec.tasks))
    dense = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    if spec.at("history"):
        dense += (sum(unit_widths(config, spec)) + 2) * config.attention_dim + 1
    return ParamCount(embedding=spec.num_rows * config.embed_dim, dense=dense, active=dense)


def pair_flops(config: DINConfig, spec: FeatureSpec) -> int:
    """Count what a candidate costs with its history, pair by pair; in batches with lists an empty slot costs it, too."""
    _, entry, pair, _ = unit_widths(config, spec)
    return 2 * spec.history_len * (pair * config.attention_dim + config.attention_dim + entry) if entry else 0


def flops_per_example(config: DINConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs a candidate and a request in closed form."""
    in_request, in_candidate = input_widths(config, spec)
    widths = (*config.hidden_dims, len(spec.tasks))
    candidate = 2 * in_candidate * widths[0] + sum(2 * a * b for a, b in itertools.pairwise(widths))
    request = 2 * in_request * widths[0]
    target, entry, pair, _ = unit_widths(config, spec)
    if entry:
        candidate += 2 * (target + pair) * config.attention_dim + pair_flops(config, spec)
        request += 2 * spec.history_len * (entry + pair) * config.attention_dim
    return FlopCount(candidate=candidate, candidate_active=candidate, request=request)


RUNGS = {"xxs": 12, "xs": 36, "s": 96, "m": 176, "l": 264, "xl": 440, "xxl": 720}
"""First hidden width at each size; each further layer halves it. The activation unit has the paper's share (36 of 200)."""


def ladder(*, embed_dim: int, rungs: Mapping[str, int] = RUNGS) -> dict[str, DINConfig]:
    """Return the sizes by name, smallest first, of about HHSFT's dense parameters."""
    return {
        name: DINConfig(embed_dim=embed_dim, hidden_dims=(width, width // 2, width // 4), attention_dim=9 * width // 50)
        for name, width in rungs.items()
    }
