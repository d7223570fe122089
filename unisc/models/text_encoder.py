"""Texts to vectors: the mean of token vectors through a perceptron, or a small transformer of the decoder's blocks."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from unisc.models.checks import check_fields
from unisc.models.counts import ParamCount, mlp_flops, mlp_params
from unisc.models.decoder import Block, Decoder, DecoderConfig, flops_per_token, positions
from unisc.models.decoder import num_params as decoder_params
from unisc.nn.attention import BLOCKED
from unisc.nn.embedding import masked_mean
from unisc.nn.linear import Linear, normal
from unisc.nn.mlp import MLP
from unisc.nn.norm import rms_norm
from unisc.nn.recompute import recompute


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """Sizes; texts are cut at `max_len` tokens. Of no layers it is the mean of token vectors, which `ffn_hidden` maps.

    A `causal` transformer may start from the weights of a decoder of the same sizes; else every token sees all.
    """

    vocab_size: int
    dim: int
    ffn_hidden: int
    max_len: int
    num_layers: int = 0
    num_heads: int = 4
    causal: bool = False

    def __post_init__(self) -> None:
        check_fields(self, least={"num_layers": 0})

    @property
    def decoder(self) -> DecoderConfig:
        """The transformer's sizes."""
        return DecoderConfig(
            vocab_size=self.vocab_size,
            dim=self.dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=2 * -(-self.dim // (2 * self.num_heads)),
            ffn_hidden=self.ffn_hidden,
            max_len=self.max_len,
        )


class TextEncoder(nnx.Module):
    """`model(tokens, mask)` gives one vector a text, of length free; an empty text's is zero."""

    def __init__(self, config: TextConfig, dim_out: int, *, rngs: nnx.Rngs):
        self.config = config
        deep, kind = config.num_layers > 0, Decoder if config.causal else Bidirectional
        self.blocks = kind(config.decoder, rngs=rngs) if deep else None
        self.embedding = None if deep else nnx.Param(normal(rngs, (config.vocab_size, config.dim)))
        self.out = Linear(config.dim, dim_out, bias=False, rngs=rngs) if deep else None
        self.mlp = None if deep else MLP(config.dim, config.ffn_hidden, dim_out, rngs=rngs)

    def __call__(self, tokens: Int[Array, "U T"], mask: Bool[Array, "U T"]) -> Float[Array, "U D"]:
        """Read texts, padded after their end; mask is True where a token is real."""
        # The mean of many token vectors is short and of few is long: what a text says should not hang on its length.
        if self.blocks is not None and self.out is not None:
            read = self.blocks(self.blocks.embed(tokens), mask)
            return self.out(rms_norm(masked_mean(read, mask)))
        assert self.embedding is not None and self.mlp is not None
        mean = rms_norm(masked_mean(self.embedding[...][tokens], mask))
        return self.mlp(mean) * jnp.any(mask, axis=1, keepdims=True).astype(mean.dtype)


class Bidirectional(Decoder):
    """The decoder with every token seeing all real ones."""

    def __call__(self, x: Float[Array, "B T D"], valid: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        """Read whole texts; return the last layer's output, normalised."""
        turns = self._turns(positions(valid))
        blocked = jnp.broadcast_to(jnp.where(valid[:, None], 0.0, BLOCKED), (*valid.shape, valid.shape[1]))
        for block in self.blocks:
            x = recompute(_read_all, block, x, turns, blocked)
        return self.norm(x)


def _read_all(
    block: Block, x: Float[Array, "B T D"], turns: Float[Array, "2 B T half"], blocked: Float[Array, "B T T"]
) -> Float[Array, "B T D"]:
    q, k, v = block.attention.project(block.attention_norm(x), turns)
    return block.finish(x, block.attention.attend(q, k, v, blocked))


def num_params(config: TextConfig, dim_out: int) -> ParamCount:
    """Count parameters in closed form; the vocabulary's vectors are the embedding."""
    if config.num_layers:
        inner = decoder_params(config.decoder)
        dense = inner.dense + config.dim * dim_out
        return ParamCount(embedding=inner.embedding, dense=dense, active=dense)
    dense = mlp_params(config.dim, config.ffn_hidden, dim_out)
    return ParamCount(embedding=config.vocab_size * config.dim, dense=dense, active=dense)


def flops_per_text(config: TextConfig, dim_out: int) -> int:
    """Count forward FLOPs of a text padded to `max_len` tokens, in closed form: matrix products alone."""
    mean = 2 * config.max_len * config.dim
    if config.num_layers:
        layers = flops_per_token(config.decoder, context=config.max_len, with_logits=False)
        return config.max_len * layers + mean + 2 * config.dim * dim_out
    return mean + mlp_flops(config.dim, config.ffn_hidden, dim_out)
