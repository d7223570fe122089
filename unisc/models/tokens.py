"""The typed tokenisers of HHSFT: one token a feature group, the history's by mean and by target attention."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from unisc.data.features import GROUPS, Batch, FeatureSpec, Group
from unisc.dims import Rows, Tokens
from unisc.models.inputs import GroupInputs, columns, group_widths, shared_fields
from unisc.nn.attention import list_sink_attention, sink_attention
from unisc.nn.embedding import concat_fields, lookup, masked_mean, to_candidates
from unisc.nn.linear import Linear
from unisc.nn.lists import from_lists, to_lists
from unisc.nn.mlp import JointMLP


class TokenGroups(NamedTuple):
    """Places in GROUPS of the tokens that are known once a request, and of those that depend on the candidate."""

    context: tuple[int, ...]
    own: tuple[int, ...]


class HistoryPool(nnx.Module):
    """What a request's history says: its mean, and what in it the candidate attends to (DIN, arXiv 1706.06978, section 4).

    The query is a map of the item token plus the candidate's own embeddings in the fields that share a table with a history
    field, so that equal ids match from the first step. The candidate's part ends in how well each shared field matched.
    """

    def __init__(self, spec: FeatureSpec, *, embed_dim: int, dim: int, rngs: nnx.Rngs):
        self.num_fields = len(spec.at("history"))
        self.pairs = shared_fields(spec)
        self.query = Linear(dim, self.num_fields * embed_dim, rngs=rngs)
        self.tie = nnx.Param(jnp.ones((len(self.pairs.candidate), 1), jnp.float32))

    def __call__(self, rows: Rows, item_token: Float[Array, "B D"], batch: Batch, *, by_list: bool = False) -> GroupInputs:
        """Return (R, Mh E) of the request and (B, Mh E + pairs) of the candidate; zero where the history is empty.

        `by_list` lets all candidates of a list read one copy of the history: the same numbers, from a batch with lists.
        """
        history = concat_fields(lookup(rows, batch.history_ids))
        own = lookup(rows, columns(batch.candidate_ids, self.pairs.candidate))
        to_field = self._to_history_field().astype(own.dtype)
        query = self.query(item_token) + concat_fields(jnp.einsum("bpe,pm->bme", own * self.tie[...], to_field))
        if by_list:
            listed = to_lists(query, batch.lists, batch.request_index)
            pooled = list_sink_attention(listed, history, batch.history_mask)
            pooled = from_lists(pooled, batch.lists, batch.request_index)
        else:
            entries = to_candidates(history, batch.request_index)
            mask = to_candidates(batch.history_mask, batch.request_index)
            pooled = sink_attention(jnp.einsum("bd,bsd->bs", query, entries), mask, entries)
        by_field = pooled.reshape(pooled.shape[0], self.num_fields, -1)
        matches = jnp.sum(own * by_field[:, np.array(self.pairs.history, np.int32)], axis=-1)
        return GroupInputs(masked_mean(history, batch.history_mask), jnp.concatenate([pooled, matches], axis=-1))

    def _to_history_field(self) -> np.ndarray:
        """Return (pairs, Mh): 1 where a pair's history field is that field."""
        return (np.array(self.pairs.history, np.int32)[:, None] == np.arange(self.num_fields)).astype(np.float32)


class Tokenizers(nnx.Module):
    """One MLP a feature group; what depends on the request alone runs once a request. A group without a field is a constant."""

    def __init__(self, spec: FeatureSpec, *, embed_dim: int, hidden_dim: int, dim: int, rngs: nnx.Rngs):
        self.dim = dim
        self.history = HistoryPool(spec, embed_dim=embed_dim, dim=dim, rngs=rngs) if spec.at("history") else None
        self.groups = nnx.List(
            [JointMLP(*token_widths(spec, group, embed_dim), hidden_dim, dim, rngs=rngs) for group in GROUPS]
        )

    def __call__(self, rows: Rows, batch: Batch, inputs: dict[Group, GroupInputs]) -> Tokens:
        """Return the tokens in the order of GROUPS."""
        mlps = dict(zip(GROUPS, self.groups, strict=True))
        tokens: dict[Group, Tokens] = {
            group: mlps[group](*inputs[group], batch.request_index) for group in GROUPS if group != "sequence"
        }
        request, candidate = inputs["sequence"]
        if self.history is not None:
            pooled = self.history(rows, tokens["item"], batch)
            request = jnp.concatenate([pooled.request, request], axis=-1)
            candidate = jnp.concatenate([pooled.candidate, candidate], axis=-1)
        tokens["sequence"] = mlps["sequence"](request, candidate, batch.request_index)
        return jnp.stack([tokens[group] for group in GROUPS])

    def split(
        self, rows: Rows, batch: Batch, inputs: dict[Group, GroupInputs], groups: TokenGroups
    ) -> tuple[Float[Array, "t R D"], Float[Array, "s B D"]]:
        """Return the same tokens as a call: those known once a request, and those that depend on the candidate."""
        tokens = {i: self.groups[i].per_request(inputs[GROUPS[i]].request) for i in groups.context}
        item, sequence = GROUPS.index("item"), GROUPS.index("sequence")
        for i in groups.own:  # the sequence stands behind the item, which it reads
            request, candidate = inputs[GROUPS[i]]
            if i == sequence and self.history is not None:
                token = tokens[item] if item in groups.own else to_candidates(tokens[item], batch.request_index)
                pooled = self.history(rows, token, batch, by_list=True)
                request = jnp.concatenate([pooled.request, request], axis=-1)
                candidate = jnp.concatenate([pooled.candidate, candidate], axis=-1)
            tokens[i] = self.groups[i](request, candidate, batch.request_index)
        dim, dtype = self.dim, rows.dtype
        num_requests, num_candidates = batch.lists.shape[0], batch.request_index.shape[0]
        return (
            jnp.stack([tokens[i] for i in groups.context]) if groups.context else jnp.zeros((0, num_requests, dim), dtype),
            jnp.stack([tokens[i] for i in groups.own]) if groups.own else jnp.zeros((0, num_candidates, dim), dtype),
        )


def token_groups(spec: FeatureSpec) -> TokenGroups:
    """Return which tokens depend on the candidate: those of groups with a candidate feature, and a history's."""
    own = tuple(i for i in range(len(GROUPS)) if token_widths(spec, GROUPS[i], 1)[1])
    return TokenGroups(context=tuple(i for i in range(len(GROUPS)) if i not in own), own=own)


def token_widths(spec: FeatureSpec, group: Group, embed_dim: int) -> tuple[int, int]:
    """Return the widths of request and candidate features that a group's tokeniser sees, pooled history included."""
    request, candidate = group_widths(spec, group, embed_dim)
    if group == "sequence" and (num_history := len(spec.at("history"))):
        pooled = num_history * embed_dim
        return request + pooled, candidate + pooled + len(shared_fields(spec).candidate)
    return request, candidate
