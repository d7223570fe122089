"""The tokeniser of the token mixers: features laid end to end, cut into chunks, each chunk projected to a token.

RankMixer (arXiv 2507.15551, section 3.2) lays features grouped by meaning end to end and cuts them into T equal chunks. Here
features of the request and of the candidate are cut apart, into two runs of chunks of two widths as near each other as T
allows, so that no chunk mixes them and the request's chunks are projected once a request. Zeros fill a run's last chunk.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unisc.data.features import GROUPS, Batch, FeatureSpec
from unisc.dims import Rows, Tokens
from unisc.models.inputs import GroupInputs, columns, group_inputs, group_widths, shared_fields
from unisc.models.tokens import HistoryPool
from unisc.nn.embedding import concat_fields, lookup, masked_mean
from unisc.nn.linear import TypedLinear
from unisc.nn.mlp import JointLinear


class Layout(NamedTuple):
    """Widths of all features of a request and of a candidate, and the number and the width of the chunks of each."""

    in_request: int
    in_candidate: int
    num_request: int
    num_candidate: int
    request_width: int
    candidate_width: int


def layout(spec: FeatureSpec, embed_dim: int, num_chunks: int) -> Layout:
    """Return how the features are cut; `num_chunks` is at least 2 if both levels have features, for each needs its own."""
    widths = [group_widths(spec, group, embed_dim) for group in GROUPS]
    in_request, in_candidate = (sum(level) for level in zip(*widths, strict=True))
    pooled, pairs = len(spec.at("history")) * embed_dim, len(shared_fields(spec).candidate)
    in_request += pooled
    in_candidate += pooled + pairs if pooled and pairs else 0

    def chunk(width: int, num: int) -> int:
        return max(-(-width // num), 1) if num else 0

    least, most = (1 if in_request else 0), (num_chunks - 1 if in_candidate else num_chunks)
    num_request = min(
        range(least, most + 1) if in_request else (0,),
        key=lambda n: max(chunk(in_request, n), chunk(in_candidate, num_chunks - n)),
    )
    num_candidate = num_chunks - num_request
    return Layout(
        in_request,
        in_candidate,
        num_request,
        num_candidate,
        chunk(in_request, num_request),
        chunk(in_candidate, num_candidate),
    )


class ChunkTokens(nnx.Module):
    """Chunks of all features as tokens; with `global_token`, one more in front that sees everything (arXiv 2602.06563).

    A history enters as its mean and as what the candidate's own fields attend to in it (`HistoryPool`), which stands for the
    sequence module that the papers place before the mixer. Without a field that both share, it enters as its mean.
    """

    def __init__(
        self, spec: FeatureSpec, *, embed_dim: int, num_tokens: int, dim: int, global_token: bool = False, rngs: nnx.Rngs
    ):
        self.spec = spec
        self.layout = layout(spec, embed_dim, num_tokens - global_token)
        self.pairs = shared_fields(spec).candidate if spec.at("history") else ()
        self.history = (
            HistoryPool(spec, embed_dim=embed_dim, dim=len(self.pairs) * embed_dim, rngs=rngs) if self.pairs else None
        )
        cut = self.layout
        self.request = TypedLinear(cut.num_request, cut.request_width, dim, rngs=rngs) if cut.num_request else None
        self.candidate = TypedLinear(cut.num_candidate, cut.candidate_width, dim, rngs=rngs) if cut.num_candidate else None
        self.whole = JointLinear(cut.in_request, cut.in_candidate, dim, rngs=rngs) if global_token else None

    def features(self, rows: Rows, batch: Batch) -> GroupInputs:
        """Return all features of a request and of a candidate, in the order of GROUPS, then the pooled history."""
        inputs = [group_inputs(self.spec, group, rows, batch) for group in GROUPS]
        request, candidate = [g.request for g in inputs], [g.candidate for g in inputs]
        if self.history is not None:
            own = concat_fields(lookup(rows, columns(batch.candidate_ids, self.pairs)))
            pooled = self.history(rows, own, batch)
            request.append(pooled.request)
            candidate.append(pooled.candidate)
        elif self.spec.at("history"):
            request.append(masked_mean(concat_fields(lookup(rows, batch.history_ids)), batch.history_mask))
        return GroupInputs(jnp.concatenate(request, axis=-1), jnp.concatenate(candidate, axis=-1))

    def __call__(self, rows: Rows, batch: Batch) -> Tokens:
        """Return the tokens: the global one if any, the request's chunks, the candidate's."""
        request, candidate = self.features(rows, batch)
        tokens = []
        if self.whole is not None:
            tokens.append(self.whole(request, candidate, batch.request_index)[None])
        if self.request is not None:
            once = self.request(_cut(request, self.layout.num_request, self.layout.request_width))
            tokens.append(once.at[:, batch.request_index].get(mode="promise_in_bounds", wrap_negative_indices=False))
        if self.candidate is not None:
            tokens.append(self.candidate(_cut(candidate, self.layout.num_candidate, self.layout.candidate_width)))
        return jnp.concatenate(tokens)


def _cut(x: Float[Array, "K W"], num: int, width: int) -> Float[Array, "T K D"]:
    """Cut the last axis into `num` chunks, zeros at the end."""
    padded = jnp.pad(x, ((0, 0), (0, num * width - x.shape[1])))
    return padded.reshape(x.shape[0], num, width).swapaxes(0, 1)


def tokens_params(spec: FeatureSpec, *, embed_dim: int, num_tokens: int, dim: int, global_token: bool = False) -> int:
    """Return the parameters of the tokeniser, those that meet a last chunk's zeros included."""
    cut = layout(spec, embed_dim, num_tokens - global_token)
    total = cut.num_request * (cut.request_width + 1) * dim + cut.num_candidate * (cut.candidate_width + 1) * dim
    if global_token:
        total += (cut.in_request + cut.in_candidate + 1) * dim
    num_history, pairs = len(spec.at("history")), len(shared_fields(spec).candidate)
    return total + ((pairs * embed_dim + 1) * num_history * embed_dim + pairs if num_history and pairs else 0)


def tokens_flops(
    spec: FeatureSpec, *, embed_dim: int, num_tokens: int, dim: int, global_token: bool = False
) -> tuple[int, int]:
    """Return the tokeniser's forward FLOPs a request and a candidate."""
    cut = layout(spec, embed_dim, num_tokens - global_token)
    request = 2 * cut.num_request * cut.request_width * dim
    candidate = 2 * cut.num_candidate * cut.candidate_width * dim
    if global_token:
        request += 2 * cut.in_request * dim
        candidate += 2 * cut.in_candidate * dim
    pooled, pairs = len(spec.at("history")) * embed_dim, len(shared_fields(spec).candidate)
    request += 2 * spec.history_len * pooled
    if pairs:
        candidate += 2 * (pairs * embed_dim + pairs + 2 * spec.history_len) * pooled
    return request, candidate
