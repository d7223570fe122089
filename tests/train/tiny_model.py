"""A model small enough to train in milliseconds: summed embeddings and numerics into one hidden layer."""

import jax
import jax.numpy as jnp
from flax import nnx


class TinyModel(nnx.Module):
    """Scores candidates from their own fields, their request's and the mean of its history."""

    def __init__(self, spec, embed_dim, hidden_dim, *, rngs, dropout=0.0):
        width = embed_dim * (len(spec.at("request")) + len(spec.at("candidate"))) + embed_dim
        self.hidden = nnx.Linear(width + len(spec.numeric_at("candidate")), hidden_dim, rngs=rngs)
        self.out = nnx.Linear(hidden_dim, len(spec.tasks), rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs) if dropout else None

    def __call__(self, rows, batch):
        history = jnp.sum(rows[batch.history_ids].sum(axis=2) * batch.history_mask[..., None], axis=1)
        request = jnp.concatenate([rows[batch.request_ids].reshape(len(history), -1), history], axis=-1)
        candidate = rows[batch.candidate_ids].reshape(len(batch.candidate_ids), -1)
        x = jnp.concatenate([request[batch.request_index], candidate, batch.candidate_numeric], axis=-1)
        x = jax.nn.relu(self.hidden(x))
        return self.out(x if self.dropout is None else self.dropout(x))
