"""Pseudo-random keys as integer arithmetic, so that every engine draws the same candidates and orders rows the same way."""

import ibis
import ibis.expr.types as ir

MASK = 2**31 - 1
BUCKETS = 2**31
"""Hashes are integers from 0 to BUCKETS - 1."""

_FACTORS = (0x2545F491, 0x5851F42D, 0x14057B7F, 0x369DEA0F, 0x1B873593)


def with_hash(table: ir.Table, name: str, *keys: str, seed: int) -> ir.Table:
    """Add column `name`: a hash, uniform over 0 to 2**31 - 1, of up to two integer columns and a seed.

    The keys' 31-bit words are combined linearly and then mixed by the xor-shift-multiply rounds of "lowbias32" (C. Wellons) on
    31 bits, which keeps every product inside int64. An engine's own hash function would be shorter, but differs between
    engines and versions.
    """
    state = ibis.literal(seed * _FACTORS[0] & MASK, "int64")
    words = [word for key in keys for word in _words(table, key)]
    for word, factor in zip(words, _FACTORS[1:], strict=False):
        state = state + ((word * factor) & MASK)
    table = table.mutate(**{name: state & MASK})
    # One mutate a step: each uses its input twice, and nested in one expression the text would double every time.
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        table = table.mutate(**{name: table[name] ^ (table[name] >> shift)})
        table = table.mutate(**{name: (table[name] * factor) & MASK})
    return table.mutate(**{name: table[name] ^ (table[name] >> 15)})


def _words(table: ir.Table, key: str) -> list[ir.Value]:
    whole = table[key].cast("int64")
    return [whole & MASK] if table[key].type().nbytes <= 4 else [whole & MASK, (whole >> 31) & MASK]
