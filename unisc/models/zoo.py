"""Every ranker by name: its configuration, its class, its counts and its ladder of sizes.

All are called as `model(rows, batch) -> logits` and counted in closed form, so a sweep can put any of them on one axis.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from flax import nnx

from unisc.data.features import FeatureSpec
from unisc.errors import InputError
from unisc.models import counts, dcn, din, dlrm, hhsft, hiformer, hstu, onetrans, rankmixer, transformer, wukong
from unisc.models import tokenmixer_large as large
from unisc.models.counts import ByteCount, FlopCount, ParamCount
from unisc.models.ladder import dlrm_ladder, hhsft_ladder

RankerConfig = (
    dcn.DCNConfig
    | din.DINConfig
    | dlrm.DLRMConfig
    | hhsft.HHSFTConfig
    | hiformer.HiFormerConfig
    | hstu.HSTUConfig
    | onetrans.OneTransConfig
    | rankmixer.RankMixerConfig
    | large.TokenMixerLargeConfig
    | transformer.TransformerConfig
    | wukong.WukongConfig
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranker:
    """One architecture. `ladder(embed_dim=..., rungs=...)` gives its configurations by size, smallest first.

    `rungs` are the widths by size; left out they are the ladder's own.
    """

    config: type
    model: Callable[..., nnx.Module]
    num_params: Callable[[Any, FeatureSpec], ParamCount]
    flops_per_example: Callable[[Any, FeatureSpec], FlopCount]
    ladder: Callable[..., Mapping[str, Any]]


RANKERS: Mapping[str, Ranker] = MappingProxyType(
    {
        name: Ranker(
            config=config,
            model=model,
            num_params=module.num_params,
            flops_per_example=module.flops_per_example,
            ladder=ladder,
        )
        for name, module, config, model, ladder in (
            ("dcn", dcn, dcn.DCNConfig, dcn.DCN, dcn.ladder),
            ("din", din, din.DINConfig, din.DIN, din.ladder),
            ("dlrm", dlrm, dlrm.DLRMConfig, dlrm.DLRM, dlrm_ladder),
            ("hhsft", hhsft, hhsft.HHSFTConfig, hhsft.HHSFT, hhsft_ladder),
            ("hiformer", hiformer, hiformer.HiFormerConfig, hiformer.HiFormer, hiformer.ladder),
            ("hstu", hstu, hstu.HSTUConfig, hstu.HSTU, hstu.ladder),
            ("onetrans", onetrans, onetrans.OneTransConfig, onetrans.OneTrans, onetrans.ladder),
            ("rankmixer", rankmixer, rankmixer.RankMixerConfig, rankmixer.RankMixer, rankmixer.ladder),
            ("tokenmixer_large", large, large.TokenMixerLargeConfig, large.TokenMixerLarge, large.ladder),
            ("transformer", transformer, transformer.TransformerConfig, transformer.Transformer, transformer.ladder),
            ("wukong", wukong, wukong.WukongConfig, wukong.Wukong, wukong.ladder),
        )
    }
)


def config_of(name: str, size: str, *, embed_dim: int) -> Any:
    """Return the configuration of a ranker's size.

    Raises:
      InputError: no such ranker or size.
    """
    if name not in RANKERS:
        raise InputError(f"model {name!r}: unknown; give one of {', '.join(RANKERS)}")
    sizes = RANKERS[name].ladder(embed_dim=embed_dim)
    if size not in sizes:
        raise InputError(f"size {size!r}: unknown for {name}; give one of {', '.join(sizes)}")
    return sizes[size]


def matched(
    name: str, measure: Callable[[Any], float], target: float, *, embed_dim: int, max_width: int = 4096, **ladder: Any
) -> Any:
    """Return the ranker of this name, of any width, whose `measure` (parameters, FLOPs) comes nearest to a target, as a ratio.

    Raises:
      InputError: the widest or the narrowest is still off by a quarter or more.
    """
    best, gap = None, math.inf
    for width in range(1, max_width + 1):
        try:
            config = RANKERS[name].ladder(embed_dim=embed_dim, rungs={"": width}, **ladder)[""]
        except (InputError, ZeroDivisionError):
            continue  # a width that its heads or tokens do not divide
        found = measure(config)
        off = abs(math.log(found / target))
        if off < gap:
            best, gap = config, off
        if found > 2 * target:
            break
    if gap >= math.log(1.25):
        raise InputError(
            f"model {name!r}: no width up to {max_width} comes within a quarter of {target:,.0f}; give another target"
        )
    return best


def ranker_of(config: Any) -> Ranker:
    """Return the architecture that a configuration is of."""
    return next(ranker for ranker in RANKERS.values() if ranker.config is type(config))


def bytes_per_example(config: Any, spec: FeatureSpec, *, itemsize: int = 4) -> ByteCount:
    """Count the bytes of scoring in closed form; `itemsize` is that of the type computed in (see `unisc.models.counts`)."""
    reads = []
    if isinstance(config, hhsft.HHSFTConfig) and config.isolation != "none":
        reads.append("domain")
    if isinstance(config, din.DINConfig) or getattr(config, "context", "joint") == "shared":
        reads.append("lists")
    if isinstance(config, hstu.HSTUConfig) and hstu.Shape.of(config, spec).num_ages:
        reads.append("ages")
    params = ranker_of(config).num_params(config, spec)
    return counts.bytes_per_example(params, spec, embed_dim=config.embed_dim, reads=reads, itemsize=itemsize)


def build(config: Any, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()) -> nnx.Module:
    """Build the model of a configuration, each task's logit starting at `bias_init`."""
    return ranker_of(config).model(config, spec, rngs=rngs, bias_init=bias_init)
