"""Size ladders: the named sizes a scaling law is measured on.

Widths double or grow by half from rung to rung while depth, heads and sets stay, so that one learning rate can serve
a ladder (see `unisc.nn.linear`) and a law sees one family. Dense parameters span two orders of magnitude.
"""

from collections.abc import Mapping
from typing import Literal

from unisc.errors import InputError
from unisc.models.dlrm import DLRMConfig, Interaction
from unisc.models.hhsft import HHSFTConfig, Isolation

Grow = Literal["both", "hfa", "gfa"]

RUNGS = {"xxs": 2, "xs": 4, "s": 8, "m": 12, "l": 16, "xl": 24, "xxl": 36}
"""Width of HFA at each size; GFA is twice as wide."""

GFA_RATIO = 2

DLRM_RUNGS = {"xxs": 12, "xs": 32, "s": 80, "m": 144, "l": 224, "xl": 384, "xxl": 544}
"""First hidden width of the baseline; each further layer halves it. Sizes lie close to HHSFT's of the same name."""


def hhsft_ladder(
    *,
    embed_dim: int,
    isolation: Isolation = "both",
    grow: Grow = "both",
    base: str = "s",
    rungs: Mapping[str, int] = RUNGS,
) -> dict[str, HHSFTConfig]:
    """Return the sizes of HHSFT by name, smallest first.

    `grow` "hfa" or "gfa" grows that width alone and holds the other at the `base` size, as in figure 4 of UniScale.

    Raises:
      InputError: unknown `base`.
    """
    if base not in RUNGS:
        raise InputError(f"base: unknown size {base!r}; give one of {', '.join(RUNGS)}")
    fixed = RUNGS[base]
    return {
        name: HHSFTConfig(
            embed_dim=embed_dim,
            hfa_dim=fixed if grow == "gfa" else width,
            gfa_dim=GFA_RATIO * (fixed if grow == "hfa" else width),
            isolation=isolation,
        )
        for name, width in rungs.items()
    }


def dlrm_ladder(
    *, embed_dim: int, interaction: Interaction = "none", rungs: Mapping[str, int] = DLRM_RUNGS
) -> dict[str, DLRMConfig]:
    """Return the sizes of the baseline by name, smallest first."""
    return {
        name: DLRMConfig(embed_dim=embed_dim, hidden_dims=(width, width // 2, width // 4), interaction=interaction)
        for name, width in rungs.items()
    }
