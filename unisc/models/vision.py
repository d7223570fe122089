"""A vision transformer compatible with SigLIP's (arXiv 2303.15343; ViT: arXiv 2010.11929).

    image -> patches, each a vector + its position's -> L x (LayerNorm, attention, LayerNorm, GELU unit) -> LayerNorm -> hidden
    hidden -> attention of one learned query (arXiv 1810.00825, "PMA") + GELU unit -> pooled

All maps have biases. Kernels are (in, out), plain, with no multiplier, so that published weights mean here what they mean
elsewhere (`unisc.models.hugging_face`).

Images are (height, width, channels), of the size that the model was made for; SigLIP's have pixels from -1 to 1.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unisc.errors import InputError
from unisc.models.checks import check_fields, check_multiples
from unisc.models.counts import ParamCount
from unisc.nn.attention import masked_attention
from unisc.nn.linear import bias_init, normal, product
from unisc.nn.recompute import recompute


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """Sizes by SigLIP's meaning; of an image whose side is no multiple of the patch's, the last rows and columns are unread."""

    image_size: int
    patch_size: int
    dim: int
    num_layers: int
    num_heads: int
    ffn_hidden: int
    num_channels: int = 3
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_fields(self)
        check_multiples(self, dim="num_heads")
        if self.patch_size > self.image_size:
            raise InputError(f"patch_size: {self.patch_size} is more than image_size={self.image_size}; give a smaller one")

    @property
    def num_patches(self) -> int:
        """Tokens an image becomes."""
        return (self.image_size // self.patch_size) ** 2


class LayerNorm(nnx.Module):
    """Layer norm of the last axis with gain and bias (arXiv 1607.06450), in float32."""

    def __init__(self, dim: int, eps: float):
        self.eps = eps
        self.gain = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = bias_init((dim,))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Shift and scale the last axis to zero mean and unit variance, then by gain and bias."""
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        return scaled.astype(x.dtype) * self.gain[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class Affine(nnx.Module):
    """y = x W + b, without multiplier."""

    def __init__(self, dim_in: int, dim_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(normal(rngs, (dim_in, dim_out)) * dim_in**-0.5)
        self.bias = bias_init((dim_out,))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        """Map the last axis."""
        return product(x, self.kernel[...].astype(x.dtype)) + self.bias[...].astype(x.dtype)


class GeluUnit(nnx.Module):
    """Two maps with GELU, in its tanh form, between them."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        self.up = Affine(config.dim, config.ffn_hidden, rngs=rngs)
        self.down = Affine(config.ffn_hidden, config.dim, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Map the last axis."""
        return self.down(jax.nn.gelu(self.up(x), approximate=True))


class Attention(nnx.Module):
    """Every patch reads every patch."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.query, self.key, self.value, self.out = (Affine(config.dim, config.dim, rngs=rngs) for _ in range(4))

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Read a sequence by itself."""
        return self.out(heads_read(self.query(x), self.key(x), self.value(x), self.num_heads))


class Block(nnx.Module):
    """Attention, then the unit, each on a normalised copy and added."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, rngs=rngs)
        self.ffn_norm = LayerNorm(config.dim, config.norm_eps)
        self.ffn = GeluUnit(config, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Map a sequence."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class PoolingHead(nnx.Module):
    """One learned query reads all patches (arXiv 1810.00825, section 3.2)."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.probe = nnx.Param(normal(rngs, (config.dim,)) * config.dim**-0.5)
        self.inputs = Affine(config.dim, 3 * config.dim, rngs=rngs)  # query, key, value side by side
        self.out = Affine(config.dim, config.dim, rngs=rngs)
        self.norm = LayerNorm(config.dim, config.norm_eps)
        self.ffn = GeluUnit(config, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """Return what the query found."""
        dim = x.shape[-1]
        kernel, bias = self.inputs.kernel[...].astype(x.dtype), self.inputs.bias[...].astype(x.dtype)
        query = self.probe[...].astype(x.dtype) @ kernel[:, :dim] + bias[:dim]
        key, value = jnp.split(x @ kernel[:, dim:] + bias[dim:], 2, axis=-1)
        read = heads_read(jnp.broadcast_to(query, (x.shape[0], 1, dim)), key, value, self.num_heads)
        pooled = self.out(read[:, 0])
        return pooled + self.ffn(self.norm(pooled))


class Vision(nnx.Module):
    """`hidden = model(images)`, a vector a patch; `model.pool(hidden)`, a vector an image."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.patches = Affine(config.patch_size**2 * config.num_channels, config.dim, rngs=rngs)
        self.positions = nnx.Param(normal(rngs, (config.num_patches, config.dim)) * config.dim**-0.5)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = LayerNorm(config.dim, config.norm_eps)
        self.head = PoolingHead(config, rngs=rngs)

    def __call__(self, images: Float[Array, "B height width channels"]) -> Float[Array, "B T D"]:
        """Return the last layer's output for every patch, row by row, normalised.

        Raises:
          InputError: images of another size than the model's.
        """
        cut = cut_patches(images, self.config)
        x = self.patches(cut) + self.positions[...].astype(cut.dtype)
        for block in self.blocks:
            x = recompute(Block.__call__, block, x)
        return self.norm(x)

    def pool(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """Return one vector an image."""
        return self.head(hidden)


def cut_patches(images: Float[Array, "B height width channels"], config: VisionConfig) -> Float[Array, "B T values"]:
    """Lay out each patch's pixels row by row, channels last. Raises InputError for images of another size."""
    size, patch, channels = config.image_size, config.patch_size, config.num_channels
    if images.shape[1:] != (size, size, channels):
        raise InputError(f"images of shape {images.shape[1:]}: the model reads {(size, size, channels)}; resize them")
    side = size // patch
    grid = images[:, : side * patch, : side * patch].reshape(-1, side, patch, side, patch, channels)
    return grid.swapaxes(2, 3).reshape(images.shape[0], side * side, patch * patch * channels)


def heads_read(
    query: Float[Array, "B T D"], key: Float[Array, "B S D"], value: Float[Array, "B S D"], num_heads: int
) -> Float[Array, "B T D"]:
    """Let queries read all keys, a share of the width a head."""
    q, k, v = (x.reshape(*x.shape[:2], num_heads, -1) for x in (query, key, value))
    return masked_attention(q * q.shape[-1] ** -0.5, k, v).reshape(query.shape)


def num_params(config: VisionConfig) -> ParamCount:
    """Count parameters in closed form; positions and the query of the head are dense, since every image reads them."""
    unit = 2 * config.dim * config.ffn_hidden + config.ffn_hidden + config.dim
    maps = 4 * (config.dim**2 + config.dim)
    block = maps + unit + 4 * config.dim
    head = config.dim + maps + unit + 2 * config.dim
    patches = config.patch_size**2 * config.num_channels * config.dim + config.dim + config.num_patches * config.dim
    dense = patches + config.num_layers * block + 2 * config.dim + head
    return ParamCount(embedding=0, dense=dense, active=dense)


def flops_per_image(config: VisionConfig) -> int:
    """Count forward FLOPs of an image, pooled, in closed form: matrix products alone."""
    tokens, dim = config.num_patches, config.dim
    patches = 2 * tokens * config.patch_size**2 * config.num_channels * dim
    unit = 4 * dim * config.ffn_hidden
    block = tokens * (8 * dim**2 + 4 * tokens * dim + unit)
    # The head's query is the same for every image: projected once a batch, it is counted for none.
    head = 4 * tokens * dim**2 + 4 * tokens * dim + 2 * dim**2 + unit
    return patches + config.num_layers * block + head
