"""From a batch to the feature vector of each group: what is known once a request, and what once a candidate."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from unisc.data.features import Batch, FeatureSpec, Group
from unisc.dims import Rows
from unisc.errors import InputError
from unisc.nn.embedding import concat_fields, lookup


class GroupInputs(NamedTuple):
    """The features of one group, embeddings then numerics; either part may have width 0."""

    request: Float[Array, "R Dr"]
    candidate: Float[Array, "B Dc"]


class SharedFields(NamedTuple):
    """Pairs of a candidate column and a history column whose ids live in one table, so that their rows can be compared."""

    candidate: tuple[int, ...]
    history: tuple[int, ...]


def group_widths(spec: FeatureSpec, group: Group, embed_dim: int) -> tuple[int, int]:
    """Return the widths of a group's request and candidate features."""
    request = embed_dim * sum(f.group == group for f in spec.at("request")) + sum(
        f.group == group for f in spec.numeric_at("request")
    )
    candidate = embed_dim * sum(f.group == group for f in spec.at("candidate")) + sum(
        f.group == group for f in spec.numeric_at("candidate")
    )
    return request, candidate


def group_inputs(spec: FeatureSpec, group: Group, rows: Rows, batch: Batch) -> GroupInputs:
    """Gather a group's embeddings and numerics."""
    request = [i for i, f in enumerate(spec.at("request")) if f.group == group]
    candidate = [i for i, f in enumerate(spec.at("candidate")) if f.group == group]
    request_numeric = [i for i, f in enumerate(spec.numeric_at("request")) if f.group == group]
    candidate_numeric = [i for i, f in enumerate(spec.numeric_at("candidate")) if f.group == group]
    return GroupInputs(
        request=_embed(rows, batch.request_ids, request, batch.request_numeric, request_numeric),
        candidate=_embed(rows, batch.candidate_ids, candidate, batch.candidate_numeric, candidate_numeric),
    )


def _embed(
    rows: Rows, ids: Int[Array, "K M"], fields: list[int], numeric: Float[Array, "K P"], numbers: list[int]
) -> Float[Array, "K D"]:
    """Lay the embeddings of some columns and the values of some numeric columns end to end."""
    embedded = concat_fields(lookup(rows, columns(ids, fields)))
    return jnp.concatenate([embedded, columns(numeric, numbers)], axis=-1) if numbers else embedded


def columns(x: Shaped[Array, "K M"], chosen: Sequence[int]) -> Shaped[Array, "K m"]:
    """Return some columns, by a slice where they are neighbours, as the fields of one group mostly are."""
    if list(chosen) == list(range(chosen[0], chosen[0] + len(chosen)) if chosen else ()):
        return x[:, chosen[0] : chosen[-1] + 1] if chosen else x[:, :0]
    return x[:, np.array(chosen, np.int32)]


def shared_fields(spec: FeatureSpec) -> SharedFields:
    """Return the (candidate, history) column pairs that share a table, such as the item's id and the clicked item's id."""
    pairs = [
        (i, j)
        for i, candidate in enumerate(spec.at("candidate"))
        for j, history in enumerate(spec.at("history"))
        if candidate.table == history.table
    ]
    return SharedFields(candidate=tuple(i for i, _ in pairs), history=tuple(j for _, j in pairs))


def flat_widths(spec: FeatureSpec, embed_dim: int) -> tuple[int, int]:
    """Return the widths of all of a request's own features and all of a candidate's; the history is not among them.

    Raises:
      InputError: there is no feature at all.
    """
    request = embed_dim * len(spec.at("request")) + len(spec.numeric_at("request"))
    candidate = embed_dim * len(spec.at("candidate")) + len(spec.numeric_at("candidate"))
    if not request + candidate + len(spec.at("history")):
        raise InputError("features: none in the data; give at least one field or numeric")
    return request, candidate


def flat_inputs(rows: Rows, batch: Batch) -> GroupInputs:
    """Lay all features of a request, and all of a candidate, end to end: embeddings in column order, then numerics."""
    return GroupInputs(
        request=jnp.concatenate([concat_fields(lookup(rows, batch.request_ids)), batch.request_numeric], axis=-1),
        candidate=jnp.concatenate([concat_fields(lookup(rows, batch.candidate_ids)), batch.candidate_numeric], axis=-1),
    )
