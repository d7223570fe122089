"""The language model of every generative system here: a decoder compatible with Qwen3 (arXiv 2505.09388, section 2).

    tokens, or vectors in their place -> L x (RMSNorm, grouped-query attention, RMSNorm, SwiGLU) -> RMSNorm -> logits

Queries and keys are normalised per head (QK-norm) before the rotary position code (arXiv 2104.09864, in halves, as Hugging Face
stores it); K key-value heads serve N query heads (arXiv 2305.13245). There are no biases. Kernels are (in, out), plain, with no
multiplier, so that published weights mean here what they mean elsewhere (`unisc.models.hugging_face`).

Rows may be padded on either side: `valid` says which tokens are real, and positions count those alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from unisc.errors import InputError
from unisc.models.checks import check_fields, check_multiples
from unisc.models.counts import ParamCount
from unisc.nn.attention import BLOCKED, causal_attention, masked_attention
from unisc.nn.linear import normal, product
from unisc.nn.recompute import recompute

INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """Sizes by Qwen3's meaning: `head_dim` is a choice, not dim / num_heads; `tied` reads logits off the embedding."""

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_hidden: int
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    tied: bool = True
    max_len: int = 4096

    def __post_init__(self) -> None:
        check_fields(self)
        check_multiples(self, num_heads="num_kv_heads")
        if self.head_dim % 2:
            raise InputError(f"head_dim {self.head_dim}: the rotary code turns pairs; give an even number")


class Cache(NamedTuple):
    """Keys and values of what was read, in `max_len` slots; `valid` marks slots of real tokens, `length` how many are used."""

    keys: tuple[Float[Array, "B S K H"], ...]
    values: tuple[Float[Array, "B S K H"], ...]
    valid: Bool[Array, "B S"]
    length: Int[Array, ""]


class RMSNorm(nnx.Module):
    """Root-mean-square norm of the last axis with a gain (arXiv 1910.07467), in float32."""

    def __init__(self, dim: int, eps: float):
        self.eps = eps
        self.gain = nnx.Param(jnp.ones((dim,), jnp.float32))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Scale the last axis to unit mean square, then by the gain."""
        wide = x.astype(jnp.float32)
        scaled = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return scaled.astype(x.dtype) * self.gain[...].astype(x.dtype)


class Kernel(nnx.Module):
    """y = x W, without multiplier or bias."""

    def __init__(self, dim_in: int, dim_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(normal(rngs, (dim_in, dim_out)) * INIT_STD)

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        """Map the last axis."""
        return product(x, self.kernel[...].astype(x.dtype))


class Attention(nnx.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        queries, shared = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query = Kernel(config.dim, queries, rngs=rngs)
        self.key = Kernel(config.dim, shared, rngs=rngs)
        self.value = Kernel(config.dim, shared, rngs=rngs)
        self.out = Kernel(queries, config.dim, rngs=rngs)
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps)

    def project(
        self, x: Float[Array, "B T D"], turns: Float[Array, "2 #B T half"]
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Return turned queries, scaled by 1/sqrt(H), turned keys, and values."""
        split = (*x.shape[:2], -1, self.config.head_dim)
        q, k = self.query_norm(self.query(x).reshape(split)), self.key_norm(self.key(x).reshape(split))
        return turn(q, turns) * self.config.head_dim**-0.5, turn(k, turns), self.value(x).reshape(split)

    def attend(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B S K H"],
        v: Float[Array, "B S K H"],
        blocked: Float[Array, "B T S"],
    ) -> Float[Array, "B T D"]:
        """Let queries read the keys that are not blocked. Query heads that share keys stand beside each other as queries."""
        b, t, _, h = q.shape
        groups = self.config.num_heads // self.config.num_kv_heads
        folded = q.reshape(b, t, -1, groups, h).swapaxes(2, 3).reshape(b, t * groups, -1, h)
        read = masked_attention(folded, k, v, jnp.repeat(blocked, groups, axis=1))
        return self.out(read.reshape(b, t, groups, -1, h).swapaxes(2, 3).reshape(b, t, -1))

    def weights(
        self, q: Float[Array, "B T N H"], k: Float[Array, "B S K H"], blocked: Float[Array, "B T S"]
    ) -> Float[Array, "B N T S"]:
        """Return the shares of attention that `attend` reads with, for measuring them."""
        spread = jnp.repeat(k, self.config.num_heads // self.config.num_kv_heads, axis=2)
        return jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", q, spread) + blocked[:, None], axis=-1)


class Block(nnx.Module):
    """Attention, then the gated unit, each on a normalised copy and added."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, rngs=rngs)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.gate = Kernel(config.dim, config.ffn_hidden, rngs=rngs)
        self.up = Kernel(config.dim, config.ffn_hidden, rngs=rngs)
        self.down = Kernel(config.ffn_hidden, config.dim, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T D"], turns: Float[Array, "2 #B T half"], valid: Bool[Array, "B T"] | None
    ) -> Float[Array, "B T D"]:
        """Read a sequence by itself, each token what is real up to itself."""
        q, k, v = self.attention.project(self.attention_norm(x), turns)
        read = causal_attention(q, k, v, valid)
        return self.finish(x, self.attention.out(read.reshape(*x.shape[:2], -1)))

    def finish(self, x: Float[Array, "B T D"], read: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Add what attention read, then the gated unit's output."""
        x = x + read
        y = self.ffn_norm(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


class Decoder(nnx.Module):
    """`hidden = model(model.embed(tokens), valid)`, `model.logits(hidden)`; vectors may stand where tokens could."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = nnx.Param(normal(rngs, (config.vocab_size, config.dim)) * INIT_STD)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = None if config.tied else Kernel(config.dim, config.vocab_size, rngs=rngs)

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Return the vectors of tokens."""
        return self.embedding[...][tokens]

    def __call__(self, x: Float[Array, "B T D"], valid: Bool[Array, "B T"] | None = None) -> Float[Array, "B T D"]:
        """Read whole sequences, each token seeing the real ones up to itself; return the last layer's output, normalised.

        Without `valid` every token is real, which costs less than to say so of each.
        """
        turns = self._turns(jnp.arange(x.shape[1])[None] if valid is None else positions(valid))
        for block in self.blocks:
            x = recompute(Block.__call__, block, x, turns, valid)
        return self.norm(x)

    def read(self, x: Float[Array, "B T D"], valid: Bool[Array, "B T"], cache: Cache) -> tuple[Float[Array, "B T D"], Cache]:
        """Read what follows a cache, a prompt or one token of each row; return its output and the cache with it added.

        The caller keeps `cache.length + T` within the cache's slots.
        """
        num_slots, start = cache.valid.shape[1], cache.length
        seen = jnp.sum(cache.valid, axis=1, keepdims=True)
        turns = self._turns(seen + positions(valid))
        marks = jax.lax.dynamic_update_slice(cache.valid, valid, (0, start))
        slot, own = jnp.arange(num_slots), start + jnp.arange(x.shape[1])
        blocked = jnp.where(marks[:, None] & (slot <= own[:, None]), 0.0, BLOCKED).astype(x.dtype)
        keys, values = [], []
        for block, old_k, old_v in zip(self.blocks, cache.keys, cache.values, strict=True):
            q, k, v = block.attention.project(block.attention_norm(x), turns)
            keys.append(jax.lax.dynamic_update_slice(old_k, k, (0, start, 0, 0)))
            values.append(jax.lax.dynamic_update_slice(old_v, v, (0, start, 0, 0)))
            x = block.finish(x, block.attention.attend(q, keys[-1], values[-1], blocked))
        return self.norm(x), Cache(tuple(keys), tuple(values), marks, start + x.shape[1])

    def empty_cache(self, num_rows: int, num_slots: int) -> Cache:
        """Return a cache of nothing yet.

        Raises:
          InputError: more slots than positions the model was made for.
        """
        if num_slots > self.config.max_len:
            raise InputError(f"cache of {num_slots} tokens: the model reads {self.config.max_len}; shorten prompt or answer")
        shape = (num_rows, num_slots, self.config.num_kv_heads, self.config.head_dim)
        empty = tuple(jnp.zeros(shape, self.embedding[...].dtype) for _ in self.blocks)
        return Cache(empty, empty, jnp.zeros((num_rows, num_slots), bool), jnp.zeros((), jnp.int32))

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Return the next token's logits."""
        if self.head is not None:
            return self.head(hidden)
        return jnp.einsum("...d,vd->...v", hidden, self.embedding[...].astype(hidden.dtype))

    def output_vectors(self) -> Float[Array, "V D"]:
        """Return what a hidden vector's products with are its logits, for losses that never hold all of them."""
        return self.embedding[...] if self.head is None else self.head.kernel[...].T

    def attention_maps(self, x: Float[Array, "B T D"], valid: Bool[Array, "B T"]) -> Float[Array, "L B N T T"]:
        """Return every layer's shares of attention, for measuring collapse and sinks."""
        turns, blocked, maps = self._turns(positions(valid)), causal(valid), []
        for block in self.blocks:
            q, k, _ = block.attention.project(block.attention_norm(x), turns)
            maps.append(block.attention.weights(q, k, blocked))
            x = block(x, turns, valid)
        return jnp.stack(maps)

    def _turns(self, places: Int[Array, "B T"]) -> Float[Array, "2 B T half"]:
        half = self.config.head_dim // 2
        speeds = self.config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
        angles = places[..., None].astype(jnp.float32) * speeds
        return jnp.stack([jnp.cos(angles), jnp.sin(angles)])


def positions(valid: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Return each real token's place among the real ones, from 0; padding gets its neighbour's."""
    return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)


def causal(valid: Bool[Array, "B T"]) -> Float[Array, "B T T"]:
    """Return what is added to scores: BLOCKED for padding and for what comes later, else 0."""
    length = valid.shape[1]
    seen = jnp.tril(jnp.ones((length, length), bool))
    return jnp.where(valid[:, None] & seen, 0.0, BLOCKED)


def turn(x: Float[Array, "B T N H"], turns: Float[Array, "2 #B T half"]) -> Float[Array, "B T N H"]:
    """Turn pairs of entries, each half a head apart, by their angles."""
    cos, sin = turns[:, :, :, None].astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def num_params(config: DecoderConfig) -> ParamCount:
    """Count parameters in closed form; the vocabulary's vectors are the embedding, and of an untied model its head, too."""
    heads = config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
    block = config.dim * heads + 3 * config.dim * config.ffn_hidden + 2 * config.dim + 2 * config.head_dim
    dense = config.num_layers * block + config.dim
    return ParamCount(embedding=config.vocab_size * config.dim * (1 if config.tied else 2), dense=dense, active=dense)


def flops_per_token(config: DecoderConfig, *, context: int, with_logits: bool = True) -> int:
    """Count forward FLOPs of a token that sees `context` tokens, in closed form: matrix products alone."""
    heads = config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
    block = 2 * config.dim * heads + 6 * config.dim * config.ffn_hidden + 4 * context * config.num_heads * config.head_dim
    return config.num_layers * block + (2 * config.dim * config.vocab_size if with_logits else 0)
