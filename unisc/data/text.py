"""A tokenizer trained here, on the texts of a catalogue and its queries: byte-level BPE, in Hugging Face's own file format.

Its alphabet is the 256 bytes, so that every text has tokens and comes back from them unchanged: emoji, any script, spaces. A
text that spells a special token is text like any other; special tokens come from whoever builds a model's input.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import decoders, models, pre_tokenizers, trainers

from unisc.data.ragged import Ragged
from unisc.errors import InputError
from unisc.files import write_atomic

SPECIALS = ("<pad>", "<end>", "<begin>", "<query>", "<history>", "<interest>", "<text>", "<unused>")
"""Always the ids 0 to 7, in this order."""
PAD, END, BEGIN, QUERY, HISTORY, INTEREST, TEXT, UNUSED = range(len(SPECIALS))
FEWEST = len(SPECIALS) + 256
"""Tokens of a vocabulary that has learned nothing: the special ones and the bytes."""
_TEXTS_AT_ONCE = 65_536


class Tokenizer:
    """Text to token ids and back; see `train_tokenizer` and `load_tokenizer`.

    Raises:
      InputError: the ids 0 to 7 of `inner` are not SPECIALS.
    """

    def __init__(self, inner: tokenizers.Tokenizer):
        found = tuple(inner.id_to_token(i) for i in range(len(SPECIALS)))
        if found != SPECIALS:
            raise InputError(f"ids 0 to {len(SPECIALS) - 1} are {', '.join(map(str, found))}, not {', '.join(SPECIALS)}")
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # the name misleads: what looks like a special token is encoded as text
        self._inner = inner
        self.vocab_size = 1 + max(inner.get_vocab().values())
        """One more than the largest id."""

    def encode(self, texts: Sequence[str], *, max_len: int | None = None) -> Ragged:
        """Return the tokens of each text (int32), at most its first `max_len`, without special tokens.

        Raises:
          InputError: a text that has no UTF-8, for half a surrogate pair in it.
        """
        flat, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = list(texts[start : start + _TEXTS_AT_ONCE])
            try:
                encoded = self._inner.encode_batch_fast(some, add_special_tokens=False)
            except (TypeError, UnicodeEncodeError) as e:
                raise _no_text(some, start) from e
            ids = [e.ids[:max_len] for e in encoded]
            lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
            flat.append(np.fromiter(chain.from_iterable(ids), np.int32, int(lengths[-1].sum())))
        return Ragged.laid(np.concatenate(flat), np.concatenate(lengths))

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " T"]) -> str:
        """Return the text of token ids; special tokens and ids of no token are left out, half a character becomes U+FFFD."""
        known = [i for i in np.asarray(ids).tolist() if 0 <= i < self.vocab_size]
        return self._inner.decode(known, skip_special_tokens=True)

    def save(self, path: Path) -> None:
        """Write a `tokenizer.json`, which Hugging Face's programs read too."""
        write_atomic(path, self._inner.to_str(pretty=True) + "\n")

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size})"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE of at most `vocab_size` tokens; fewer if the texts have no more pairs to merge.

    Equal texts, in any order, give an equal vocabulary: pairs as frequent as each other merge in the order of their ids.

    Raises:
      InputError: a `vocab_size` without room for bytes and special tokens, or a text that has no UTF-8.
    """
    if vocab_size < FEWEST:
        raise InputError(f"vocab_size {vocab_size}: the bytes and special tokens alone are {FEWEST}; give at least that")
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = list(texts)
    try:
        inner.train_from_iterator(texts, trainer)
    except (TypeError, UnicodeEncodeError) as e:
        raise _no_text(texts, 0) from e
    return Tokenizer(inner)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json` that `Tokenizer.save` wrote.

    Raises:
      InputError: no such file, one that is no tokenizer, or one whose first ids are not SPECIALS.
    """
    try:
        inner = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror or e}); give a tokenizer.json") from e
    except Exception as e:  # the library raises nothing narrower for what it cannot parse
        raise InputError(f"{path}: not a tokenizer ({' '.join(str(e).split())[:100]}); give a tokenizer.json") from e
    try:
        return Tokenizer(inner)
    except InputError as e:
        raise InputError(f"{path}: {e}; give one that `train_tokenizer` made") from e


def check_vocab(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raise InputError if some id of the tokenizer is no row of a model of `vocab_size` tokens."""
    if tokenizer.vocab_size > vocab_size:
        raise InputError(
            f"vocab_size {vocab_size}: the tokenizer has ids up to {tokenizer.vocab_size - 1}; give at least "
            f"{tokenizer.vocab_size}, or the tokenizer that the model was trained with"
        )


def _no_text(texts: Sequence[Any], first: int) -> InputError:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            return InputError(f"text {first + i}: is {type(text).__name__}, no text; give strings")
        try:
            text.encode()
        except UnicodeEncodeError:
            return InputError(f"text {first + i}: {text[:40]!a} holds half a surrogate pair; remove it or replace it by U+FFFD")
    return InputError("texts: cannot be encoded; give strings")
