"""Token codes: many sign vectors, no two of which are alike."""

from __future__ import annotations

import torch

LENGTH = 32  # entries of a code
LARGEST = 1054  # codes there are
OVERLAP = 0.25  # largest cosine between two codes
_MODULUS = 0b100101  # x^5 + x^2 + 1, primitive over GF(2)


def token_codes(count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` different codes of entries ±1: [count, 32], cosine of any two at most 0.25.

    Gold codes: entry x of code (a, b, c) is the sign (−1)^(Tr(a·x³ + b·x) + c) over GF(32), whose
    correlations are 0, ±8 or −32 out of 32 (Gold 1968). Only codes of mean zero are used, since a
    LayerNorm removes the mean. Which of them, and the order of entries, is drawn. Raises ValueError
    above 1054.
    """
    if count > LARGEST:
        raise ValueError(f"there are {LARGEST} codes, not {count}.")
    field = range(LENGTH)
    linear = torch.tensor([[_trace(_times(b, x)) for x in field] for b in field])
    cubic = torch.tensor(
        [[_trace(_times(a, _times(x, _times(x, x)))) for x in field] for a in field]
    )
    bits = (cubic[:, None, None] + linear[None, :, None] + torch.arange(2)[:, None]) % 2
    codes = 1.0 - 2.0 * bits.reshape(-1, LENGTH)
    codes = codes[codes.sum(1) == 0]
    chosen = torch.randperm(LARGEST, generator=generator)[:count]
    order = torch.randperm(LENGTH, generator=generator)
    return codes[chosen][:, order]


def _times(a: int, b: int) -> int:
    """Product in GF(32)."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & LENGTH:
            a ^= _MODULUS
        b >>= 1
    return product


def _trace(a: int) -> int:
    """Trace from GF(32) to GF(2): a + a² + a⁴ + a⁸ + a¹⁶."""
    total, power = 0, a
    for _ in range(5):
        total ^= power
        power = _times(power, power)
    return total
