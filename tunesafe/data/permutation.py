"""Seeded shuffles of any length, computed from any position on.

Up to a million examples a pass is shuffled by sorting random keys: every order is equally
likely, at 10 to 20 ns an example. Above, a Feistel network is a bijection of the smallest
power of two that holds the data; a value that falls outside the data goes through it again
until it falls inside ("cycle walking"), at about 100 ns. Either way memory and time are
bounded, however far into the stream one starts.

The results are part of a study's identity: changing them changes every resumed trial.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LARGEST_SORTED", "IntArray", "UIntArray", "hash_positions", "permute"]

IntArray = npt.NDArray[np.int64]
UIntArray = npt.NDArray[np.uint64]
_Words = npt.NDArray[np.uint32]

_PLACE_BITS = 20
LARGEST_SORTED = 1 << _PLACE_BITS
"""Longest pass that is shuffled by sorting [examples]: 8 MB of indices."""
_ROUNDS = 8
"""Rounds of the Feistel network, an even number. Four look random; the rest is margin."""


def hash_positions(positions: IntArray, key: int) -> UIntArray:
    """Random-looking 64-bit numbers, a pure function of position and key (SplitMix64, counter-based).

    Args:
        positions: Non-negative integers, any shape.
        key: Chooses the function; 64 bits are used.

    References:
        Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (2014).
    """
    x = positions.astype(np.uint64)
    x += np.uint64(1)
    x *= np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(key & 0xFFFFFFFFFFFFFFFF)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def permute(start: int, count: int, n: int, key: int) -> IntArray:
    """The indices at ``count`` positions, from ``start``, of an endless stream of shuffles of ``range(n)``.

    Each pass over the data, ``position // n``, has a shuffle of its own; within a pass every
    index comes exactly once.

    Args:
        start: First position, non-negative [examples].
        count: How many positions [examples].
        n: Length of the data, at least 1 [examples].
        key: Chooses the stream of shuffles; 64 bits are used.

    Returns:
        Indices in ``[0, n)``, shape ``[count]``.

    Example:
        >>> sorted(permute(start=5, count=5, n=5, key=1).tolist())
        [0, 1, 2, 3, 4]

    References:
        Black and Rogaway, Ciphers with Arbitrary Finite Domains (2002).
    """
    if n <= LARGEST_SORTED:
        first, last = start // n, -(-(start + count) // n)
        return _sorted_passes(first, last, n, key)[start - first * n :][:count]
    return _walked(np.arange(start, start + count), n, key)


def _sorted_passes(first: int, last: int, n: int, key: int) -> IntArray:
    """The shuffles of passes ``first`` to ``last - 1``, one after the other."""
    place = np.uint64(LARGEST_SORTED - 1)
    draws = hash_positions(np.arange(first * n, last * n), key).reshape(-1, n)
    # Random bits above those that hold the place: no two are equal, so every sorting algorithm gives the same order.
    draws &= ~place
    draws |= np.arange(n, dtype=np.uint64)
    draws.sort(axis=1)
    draws &= place
    return draws.reshape(-1).view(np.int64)


def _walked(positions: IntArray, n: int, key: int) -> IntArray:
    passes = positions // n
    keys = hash_positions(passes, key)
    high, low = (keys >> np.uint64(32)).astype(np.uint32), keys.astype(np.uint32)
    bits = (n - 1).bit_length()
    result = _feistel((positions - passes * n).view(np.uint64), high, low, bits)
    outside = np.flatnonzero(result >= n)
    while outside.size:
        walked = _feistel(result[outside], high[outside], low[outside], bits)
        result[outside] = walked
        outside = outside[walked >= n]
    return result.view(np.int64)


def _feistel(x: UIntArray, high: _Words, low: _Words, bits: int) -> UIntArray:
    """A keyed bijection of ``range(2**bits)``; the left half is the longer one where ``bits`` is odd."""
    right_bits = bits // 2
    left_bits = bits - right_bits
    left = (x >> np.uint64(right_bits)).astype(np.uint32)
    right = (x & np.uint64((1 << right_bits) - 1)).astype(np.uint32)
    for i in range(0, _ROUNDS, 2):
        left ^= _mix(right ^ high, i) >> np.uint32(32 - left_bits)
        right ^= _mix(left ^ low, i + 1) >> np.uint32(32 - right_bits)
    return (left.astype(np.uint64) << np.uint64(right_bits)) | right


def _mix(x: _Words, i: int) -> _Words:
    """Spread every bit over 32, differently in each round (Wellons' lowbias32); overwrites ``x``."""
    x += np.uint32((i + 1) * 0x9E3779B9 & 0xFFFFFFFF)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x
