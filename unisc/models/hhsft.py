"""HHSFT: the heterogeneous hierarchical sample fusion transformer of UniScale (arXiv 2603.24226, figure 3).

    features -> five typed tokens -> HFA -> GFA -> z -> DREF -> e -> DAPGA -> one head a domain

HFA keeps projections per token type and attends over all tokens; GFA forms composite tokens from all of them at once. DREF
routes a sample to a shared expert and its own domain's; DAPGA lets it look at the other domains' views without training them.
The figure draws no residual paths; HFA, the FFN of GFA and DREF have them here, since without them
short runs learned less in our trials.

`context` says what the tokens that are known once a request (user, query, domain) may see; the parameters are the same:

* "joint": every token, as the figure draws, in one row a candidate.
* "shared": each other alone, so that HFA runs on them once a request, while the tokens of item and sequence see them and each
  other. GFA's map is then a sum of a part computed once a request and one computed once a candidate, and target attention reads
  the history by whole lists: batches need a `list_len`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from unisc.data.features import GROUPS, Batch, FeatureSpec, Group
from unisc.dims import Logits, RequestIndex, Rows, Tokens
from unisc.errors import InputError
from unisc.models.checks import check_fields, check_multiples
from unisc.models.counts import FlopCount, ParamCount, mlp_flops, mlp_params
from unisc.models.inputs import GroupInputs, group_inputs, group_widths, shared_fields
from unisc.models.tokens import TokenGroups, Tokenizers, token_groups, token_widths
from unisc.nn.attention import attention, score_scale
from unisc.nn.embedding import to_candidates
from unisc.nn.linear import Linear, TypedLinear, start_bias
from unisc.nn.mlp import MLP, Experts, JointMLP, TypedMLP
from unisc.nn.norm import rms_norm
from unisc.nn.recompute import recompute
from unisc.nn.slots import Context

Isolation = Literal["none", "dref", "dapga", "both"]
ISOLATIONS: tuple[Isolation, ...] = ("none", "dref", "dapga", "both")

HEAD_GAIN = 0.1  # logits start near their bias


@dataclass(frozen=True, kw_only=True, slots=True)
class HHSFTConfig:
    """Widths and depth of an HHSFT, and which of its two domain modules it has.

    `isolation` "none" keeps one shared expert and one shared head; "dref" and "dapga" keep one module and the heads of the
    domains. In all three the shared expert is widened until dense parameters match those of "both" (see `shared_hidden`), so
    that the ablation compares structures of one size.
    """

    embed_dim: int
    hfa_dim: int
    gfa_dim: int
    isolation: Isolation = "both"
    num_heads: int = 2
    num_hfa_layers: int = 1
    num_gfa_sets: int = 4
    num_gfa_heads: int = 2
    token_multiplier: int = 4
    ffn_multiplier: int = 2
    expert_multiplier: int = 2
    context: Context = "joint"

    def __post_init__(self) -> None:
        check_fields(self)
        check_multiples(self, hfa_dim="num_heads", gfa_dim="num_gfa_heads")

    @property
    def has_dref(self) -> bool:
        """Whether each domain has its own first expert."""
        return self.isolation in ("dref", "both")

    @property
    def has_dapga(self) -> bool:
        """Whether each domain has its own second-stage view."""
        return self.isolation in ("dapga", "both")

    @property
    def token_hidden(self) -> int:
        """Hidden width of a tokeniser."""
        return self.token_multiplier * self.hfa_dim

    @property
    def expert_hidden(self) -> int:
        """Hidden width of a domain's private expert."""
        return self.expert_multiplier * self.gfa_dim


class HFA(nnx.Module):
    """Heterogeneous feature attention: a pre-norm transformer block whose every parameter is per token type."""

    def __init__(self, config: HHSFTConfig, *, rngs: nnx.Rngs):
        num_types, dim = len(GROUPS), config.hfa_dim
        self.num_heads = config.num_heads
        residual_gain = config.num_hfa_layers**-0.5
        self.qkv = TypedLinear(num_types, dim, 3 * dim, bias=False, rngs=rngs)
        self.out = TypedLinear(num_types, dim, dim, bias=False, gain=residual_gain, rngs=rngs)
        self.ffn = TypedMLP(num_types, dim, config.ffn_multiplier * dim, gain=residual_gain, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        num_types, batch, dim = x.shape
        qkv = self.qkv(rms_norm(x)).reshape(num_types, batch, 3, self.num_heads, dim // self.num_heads)
        q, k, v = jnp.moveaxis(qkv, 2, 0).swapaxes(1, 2)
        attended = attention(q, k, v).reshape(batch, num_types, dim).swapaxes(0, 1)
        x = x + self.out(attended)
        return x + self.ffn(rms_norm(x))

    def shared(
        self, context: Float[Array, "t R D"], own: Float[Array, "s B D"], groups: TokenGroups, request_index: RequestIndex
    ) -> tuple[Float[Array, "t R D"], Float[Array, "s B D"]]:
        """Let the context's tokens see each other, and the candidate's see the context's and each other."""
        q, k, v = self._of_types(own, groups.own)
        if context.shape[0]:
            context_q, context_k, context_v = self._of_types(context, groups.context)
            # Three short tokens: a copy a candidate moves less than queries to lists and sums back would.
            k = jnp.concatenate([to_candidates(context_k, request_index), k], axis=1)
            v = jnp.concatenate([to_candidates(context_v, request_index), v], axis=1)
            context = self._finish(context, attention(context_q, context_k, context_v), groups.context)
        return context, self._finish(own, attention(q, k, v), groups.own) if own.shape[0] else own

    def _of_types(self, x: Float[Array, "t K D"], types: tuple[int, ...]) -> list[Float[Array, "K t N H"]]:
        """Return queries, keys and values of some types' tokens."""
        qkv = self.qkv.of_types(rms_norm(x), types)
        return [y.reshape(*x.shape[:2], self.num_heads, -1).swapaxes(0, 1) for y in jnp.split(qkv, 3, axis=-1)]

    def _finish(
        self, x: Float[Array, "t K D"], attended: Float[Array, "K t N H"], types: tuple[int, ...]
    ) -> Float[Array, "t K D"]:
        x = x + self.out.of_types(attended.swapaxes(0, 1).reshape(x.shape), types)
        return x + self.ffn.of_types(rms_norm(x), types)


class GFA(nnx.Module):
    """Global feature attention: sets of query, key and value formed from ALL tokens at once (HiFormer, arXiv 2311.05884)."""

    def __init__(self, config: HHSFTConfig, *, rngs: nnx.Rngs):
        self.num_sets, self.num_heads, self.dim = config.num_gfa_sets, config.num_gfa_heads, config.gfa_dim
        self.qkv = Linear(len(GROUPS) * config.hfa_dim, 3 * self.num_sets * self.dim, bias=False, rngs=rngs)
        self.out = Linear(self.num_sets * self.dim, self.dim, bias=False, rngs=rngs)
        self.ffn = MLP(self.dim, config.ffn_multiplier * self.dim, self.dim, rngs=rngs)

    def __call__(self, x: Tokens) -> Float[Array, "B F"]:
        batch = x.shape[1]
        whole = rms_norm(x).swapaxes(0, 1).reshape(batch, -1)
        return self._mix(self.qkv(whole))

    def shared(
        self, context: Float[Array, "t R D"], own: Float[Array, "s B D"], groups: TokenGroups, request_index: RequestIndex
    ) -> Float[Array, "B F"]:
        """Return what a call returns, the context's part of the map computed once a request."""
        kernel = self.qkv.kernel[...].reshape(len(GROUPS), -1, self.qkv.kernel.shape[1])

        def part(x: Float[Array, "t K D"], types: tuple[int, ...]) -> Float[Array, "K F"]:
            whole = rms_norm(x).swapaxes(0, 1).reshape(x.shape[1], -1)
            rows = kernel[np.array(types, np.int32)].reshape(whole.shape[1], -1)
            return jnp.einsum("kd,df->kf", whole, rows) * self.qkv.multiplier

        return self._mix(to_candidates(part(context, groups.context), request_index) + part(own, groups.own))

    def _mix(self, qkv: Float[Array, "B F"]) -> Float[Array, "B D"]:
        batch = qkv.shape[0]
        qkv = qkv.reshape(batch, 3, self.num_sets, self.num_heads, self.dim // self.num_heads)
        sets = attention(qkv[:, 0], qkv[:, 1], qkv[:, 2]).reshape(batch, self.num_sets * self.dim)
        fused = self.out(sets)
        return fused + self.ffn(rms_norm(fused))


class SharedExpert(nnx.Module):
    """The one expert of a model without DREF, as wide as `shared_hidden` says."""

    def __init__(self, config: HHSFTConfig, spec: FeatureSpec, *, rngs: nnx.Rngs):
        self.shared = MLP(config.gfa_dim, shared_hidden(config, spec), config.gfa_dim, rngs=rngs)

    def __call__(self, z: Float[Array, "B D"], one_hot: Float[Array, "G B 1"]) -> Float[Array, "B D"]:
        return z + self.shared(rms_norm(z))


class DREF(nnx.Module):
    """Domain-routed expert fusion: a two-way gate between a shared expert and the own domain's; routing is hard."""

    def __init__(self, config: HHSFTConfig, spec: FeatureSpec, *, rngs: nnx.Rngs):
        dim = config.gfa_dim
        self.shared = MLP(dim, shared_hidden(config, spec), dim, rngs=rngs)
        self.experts = Experts(len(spec.domains), dim, config.expert_hidden, dim, rngs=rngs)
        self.gate = MLP(dim, dim, 2, rngs=rngs)

    def __call__(self, z: Float[Array, "B D"], one_hot: Float[Array, "G B 1"]) -> Float[Array, "B D"]:
        x = rms_norm(z)
        gate = jax.nn.softmax(self.gate(x), axis=-1)
        return z + gate[:, :1] * self.shared(x) + gate[:, 1:] * self.experts.own(x, one_hot)


class DAPGA(nnx.Module):
    """Domain-aware personalised gated attention: the own view attends over all views, the other domains' held constant."""

    def __init__(self, config: HHSFTConfig, spec: FeatureSpec, *, rngs: nnx.Rngs):
        dim = config.gfa_dim
        self.experts = Experts(len(spec.domains), dim, config.expert_hidden, dim, rngs=rngs)
        self.gate = JointMLP(gate_width(config, spec), 0, dim, dim, rngs=rngs)

    def __call__(
        self,
        e: Float[Array, "B D"],
        one_hot: Float[Array, "G B 1"],
        who: Float[Array, "R Dr"],
        request_index: RequestIndex,
    ) -> Float[Array, "B D"]:
        views = self.experts(rms_norm(e))
        own = jnp.sum(views * one_hot, axis=0)
        views = views * one_hot + jax.lax.stop_gradient(views) * (1.0 - one_hot)
        scores = jnp.sum(own * views, axis=-1, keepdims=True) * score_scale(own.shape[-1])
        fused = jnp.sum(jax.nn.softmax(scores, axis=0) * views, axis=0)
        no_candidate = jnp.zeros((e.shape[0], 0), e.dtype)
        return fused * jax.nn.sigmoid(self.gate(who, no_candidate, request_index))


class HHSFT(nnx.Module):
    """The whole ranker: `model(rows, batch)` gives one logit a candidate and task.

    `bias_init` starts each task's logit, best at the log odds of its base rate.
    """

    def __init__(self, config: HHSFTConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        self.config, self.spec = config, spec
        self.tokenizers = Tokenizers(
            spec, embed_dim=config.embed_dim, hidden_dim=config.token_hidden, dim=config.hfa_dim, rngs=rngs
        )
        self.hfa = nnx.List([HFA(config, rngs=rngs) for _ in range(config.num_hfa_layers)])
        self.gfa = GFA(config, rngs=rngs)
        self.fusion = (DREF if config.has_dref else SharedExpert)(config, spec, rngs=rngs)
        self.dapga = DAPGA(config, spec, rngs=rngs) if config.has_dapga else None
        num_tasks = len(spec.tasks)
        self.heads = Experts(
            num_domain_heads(config, spec),
            config.gfa_dim,
            config.gfa_dim,
            num_tasks,
            outer_bias=True,
            gain=HEAD_GAIN,
            rngs=rngs,
        )
        if bias_init:
            start_bias(self.heads.down.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate; `rows` are the embeddings of `batch.unique_rows`."""
        inputs: dict[Group, GroupInputs] = {group: group_inputs(self.spec, group, rows, batch) for group in GROUPS}
        x = self._joint(rows, batch, inputs) if self.config.context == "joint" else self._shared(rows, batch, inputs)
        one_hot = domain_one_hot(batch, len(self.spec.domains)).astype(rows.dtype)
        x = self.fusion(x, one_hot)
        if self.dapga is not None:
            who = jnp.concatenate([inputs["user"].request, inputs["domain"].request], axis=-1)
            x = self.dapga(x, one_hot, who, batch.request_index)
        return self.heads.own(x, one_hot if self.config.isolation != "none" else jnp.ones_like(one_hot[:1]))

    def _joint(self, rows: Rows, batch: Batch, inputs: dict[Group, GroupInputs]) -> Float[Array, "B F"]:
        x = self.tokenizers(rows, batch, inputs)
        for layer in self.hfa:
            x = recompute(HFA.__call__, layer, x)
        return self.gfa(x)

    def _shared(self, rows: Rows, batch: Batch, inputs: dict[Group, GroupInputs]) -> Float[Array, "B F"]:
        if not batch.lists.shape[1]:
            raise InputError("list_len 0: a shared context reads histories by whole lists; give the batches a list_len")
        groups = token_groups(self.spec)
        context, own = self.tokenizers.split(rows, batch, inputs, groups)
        for layer in self.hfa:
            context, own = recompute(lambda hfa, c, o, i: hfa.shared(c, o, groups, i), layer, context, own, batch.request_index)
        return self.gfa.shared(context, own, groups, batch.request_index)


def domain_one_hot(batch: Batch, num_domains: int) -> Float[Array, "G B 1"]:
    """Return 1.0 at each candidate's own domain."""
    domains = jnp.arange(num_domains, dtype=batch.domain.dtype)
    return (batch.domain == domains[:, None]).astype(jnp.float32)[..., None]


def num_domain_heads(config: HHSFTConfig, spec: FeatureSpec) -> int:
    """Return how many heads there are: one a domain, or one in all without isolation."""
    return 1 if config.isolation == "none" else len(spec.domains)


def gate_width(config: HHSFTConfig, spec: FeatureSpec) -> int:
    """Return the width of the user and domain features that DAPGA's gate sees."""
    return group_widths(spec, "user", config.embed_dim)[0] + group_widths(spec, "domain", config.embed_dim)[0]


def shared_hidden(config: HHSFTConfig, spec: FeatureSpec) -> int:
    """Return the hidden width of the shared expert that brings dense parameters closest to those with both modules."""
    missing = sum(_domain_params(config, spec, "both").values()) - sum(_domain_params(config, spec, config.isolation).values())
    return config.expert_hidden + round(missing / (2 * config.gfa_dim + 1))


def _domain_params(config: HHSFTConfig, spec: FeatureSpec, isolation: Isolation) -> dict[str, int]:
    """Count what ESUIF adds to the shared expert, by part."""
    dim, domains, parts = config.gfa_dim, len(spec.domains), {}
    if isolation in ("dref", "both"):
        parts["dref_private"] = domains * mlp_params(dim, config.expert_hidden, dim)
        parts["dref_gate"] = mlp_params(dim, dim, 2)
    if isolation in ("dapga", "both"):
        width = gate_width(config, spec)
        parts["dapga"] = domains * mlp_params(dim, config.expert_hidden, dim)
        parts["dapga_gate"] = mlp_params(width, dim, dim, outer_bias=True) if width else dim
    parts["heads"] = (1 if isolation == "none" else domains) * mlp_params(dim, dim, len(spec.tasks), outer_bias=True)
    return parts


def num_params(config: HHSFTConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form; `dense` equals the model's own tree exactly."""
    num_types, hfa, gfa = len(GROUPS), config.hfa_dim, config.gfa_dim
    num_history = len(spec.at("history"))
    tokens = 0
    for i in range(num_types):
        width = sum(token_widths(spec, GROUPS[i], config.embed_dim))
        tokens += mlp_params(width, config.token_hidden, hfa, outer_bias=True) if width else hfa
    if num_history:
        tokens += (hfa + 1) * num_history * config.embed_dim + len(shared_fields(spec).candidate)
    hfa_layer = num_types * (4 * hfa * hfa + mlp_params(hfa, config.ffn_multiplier * hfa, hfa))
    composite = config.num_gfa_sets * gfa
    gfa_layer = (3 * num_types * hfa + gfa) * composite + mlp_params(gfa, config.ffn_multiplier * gfa, gfa)
    parts = _domain_params(config, spec, config.isolation)
    dense = (
        tokens
        + config.num_hfa_layers * hfa_layer
        + gfa_layer
        + mlp_params(gfa, shared_hidden(config, spec), gfa)
        + sum(parts.values())
    )
    foreign = parts.get("dref_private", 0) + (parts["heads"] if config.isolation != "none" else 0)
    active = dense - foreign * (len(spec.domains) - 1) // len(spec.domains)
    return ParamCount(embedding=spec.num_rows * config.embed_dim, dense=dense, active=active)


def flops_per_example(config: HHSFTConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs a candidate and a request in closed form, for full lists.

    With a shared context the attention of empty slots of the lists to the history is computed, too, and not counted.
    """
    num_types, hfa, gfa, domains = len(GROUPS), config.hfa_dim, config.gfa_dim, len(spec.domains)
    pooled = len(spec.at("history")) * config.embed_dim
    request = 2 * spec.history_len * pooled
    candidate = 2 * hfa * pooled + 4 * spec.history_len * pooled + 2 * len(shared_fields(spec).candidate) * pooled
    hidden = config.token_hidden
    for i in range(num_types):
        in_request, in_candidate = token_widths(spec, GROUPS[i], config.embed_dim)
        request += 2 * in_request * hidden
        if in_candidate:
            candidate += mlp_flops(in_candidate, hidden, hfa)
        elif in_request:
            request += 2 * hidden * hfa
    composite = config.num_gfa_sets * gfa
    once = len(token_groups(spec).context) if config.context == "shared" else 0
    maps = 8 * hfa * hfa + mlp_flops(hfa, config.ffn_multiplier * hfa, hfa)
    request += config.num_hfa_layers * (once * maps + 4 * once * once * hfa) + 6 * once * hfa * composite
    own = num_types - once
    candidate += config.num_hfa_layers * (own * maps + 4 * own * num_types * hfa)
    candidate += 6 * own * hfa * composite + 4 * config.num_gfa_sets * composite
    candidate += 2 * composite * gfa + mlp_flops(gfa, config.ffn_multiplier * gfa, gfa)
    candidate += mlp_flops(gfa, shared_hidden(config, spec), gfa)
    private = 0
    if config.has_dref:
        candidate += mlp_flops(gfa, gfa, 2)
        private += mlp_flops(gfa, config.expert_hidden, gfa)
    if config.has_dapga:
        candidate += domains * mlp_flops(gfa, config.expert_hidden, gfa)
        width = gate_width(config, spec)
        request += mlp_flops(width, gfa, gfa) if width else 0
    private += mlp_flops(gfa, gfa, len(spec.tasks))
    copies = num_domain_heads(config, spec)
    return FlopCount(candidate=candidate + copies * private, candidate_active=candidate + private, request=request)
