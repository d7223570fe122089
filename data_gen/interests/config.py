"""What decides a directory of interests, besides its source."""

from dataclasses import dataclass

from unisc.errors import InputError

VERSION = 1
"""Raised by hand when the same source and configuration would give other interests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InterestsConfig:
    """How texts are cut into tokens, and how much of the past and of a page an example keeps.

    Attributes:
      vocab_size: of the tokenizer, at most; texts with little to merge make a smaller one.
      history_len: of a history, the last ones.
      max_shown: of the items that a page showed beside the clicked ones, the first by position.
      domains: of log tables, whose clicks become examples; the first of the logs if none is named.
      validation_share: of the train examples, held out for validation: of log tables the last by time, of interactions drawn.
        If None, a tenth of the former and none of the latter, whose published scores use the whole train part. Sequences have
        a validation part of their own.
      visual_dim: width of the visual vectors of a generated shop, 0 for none; other sources have none.
      seed: of what is drawn: pairs held out, visual vectors.
    """

    vocab_size: int = 2048
    history_len: int = 50
    max_shown: int = 20
    domains: tuple[str, ...] = ()
    validation_share: float | None = None
    visual_dim: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {"history_len": (1, 2**15), "max_shown": (0, 2**15), "visual_dim": (0, 2**13), "seed": (0, 2**31 - 1)}
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} {getattr(self, name)}: out of range; give a whole number from {least} to {most}")
        if self.validation_share is not None and not 0 <= self.validation_share < 1:
            raise InputError(f"validation_share {self.validation_share}: is no share; give a number from 0 to less than 1")
