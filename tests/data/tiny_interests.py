"""Writes small directories of interests for tests: a catalogue of words, and users whose next item follows from the last."""

from pathlib import Path

import numpy as np

from unisc.data.interests import SPLITS, Catalogue, Examples, save
from unisc.data.ragged import Ragged
from unisc.data.text import train_tokenizer

BRANDS, THINGS = ("acme", "zeta", "nord"), ("shoe", "lamp", "mug", "desk")


def write(
    directory: Path,
    *,
    num_items=24,
    num_users=10,
    num_train=40,
    num_other=10,
    visual_dim=4,
    vocab_size=300,
    is_ordered=True,
    seed=0,
) -> Path:
    """A complete directory; the next item of a user is the one two after the last of the history."""
    rng = np.random.default_rng(seed)
    category, brand = np.arange(num_items) % len(THINGS), rng.integers(0, len(BRANDS), num_items)
    titles = [f"{BRANDS[b]} {THINGS[c]} {i}" for i, (b, c) in enumerate(zip(brand, category, strict=True))]
    titles[-1] = ""
    tokenizer = train_tokenizer([*titles, *THINGS], vocab_size=vocab_size)
    splits = {}
    for split in SPLITS:
        num = num_train if split == "train" else num_other
        first, lengths = rng.integers(0, num_items, num), rng.integers(0, 6, num)
        history = [(a + 2 * np.arange(n)) % num_items for a, n in zip(first, lengths, strict=True)]
        target = (first + 2 * lengths) % num_items
        splits[split] = Examples(
            user=(np.arange(num) % num_users).astype(np.int32),
            query=tokenizer.encode([THINGS[category[t]] if i % 5 else "" for i, t in enumerate(target)]),
            history=Ragged.of(history if is_ordered else [[]] * num),
            targets=Ragged.of([[t] if split == "train" or i % 2 else [t, (t + 2) % num_items] for i, t in enumerate(target)]),
            shown=Ragged.of([(t + 1 + rng.permutation(num_items - 1)[: i % 4]) % num_items for i, t in enumerate(target)]),
        )
    train = splits["train"]
    held = [
        np.unique(np.concatenate([train.targets.row(i) for i in np.flatnonzero(train.user == u)])) for u in range(num_users)
    ]
    directory.mkdir()
    save(
        directory,
        catalogue=Catalogue(
            item_id=np.arange(num_items) + 100,
            text=tokenizer.encode(titles),
            category=category.astype(np.int32),
            brand=brand.astype(np.int32),
            visual=rng.standard_normal((num_items, visual_dim), dtype=np.float32) if visual_dim else None,
        ),
        splits=splits,
        known=Ragged.of(held),
        corpus=tokenizer.encode([*titles[:-1], *THINGS]),
        tokenizer=tokenizer,
        is_ordered=is_ordered,
        config={"seed": seed},
        quality={},
    )
    return directory
