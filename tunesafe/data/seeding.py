"""Seeding of the global random generators of python, numpy and torch.

While an example is read, all three are seeded from its position in the stream, so that
neither the number of loader workers nor a restart changes what a random augmentation does.
The generators are seeded one by one, because ``torch.manual_seed`` takes 120 µs (it walks
over every device) where the generator itself takes 1.3; and only those a dataset uses, because
python's takes 6 µs, more than many an augmentation.
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

__all__ = ["SeededReader", "seed_everything", "seed_generators", "undisturbed"]

_MASK32 = 0xFFFFFFFF
_MT19937_BYTES = 624 * 4 + 4
"""A Mersenne twister: 624 words and the place among them; numpy and CPython order the two differently."""


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices), as users do at the top of a script.

    Args:
        seed: Non-negative; numpy uses its lowest 32 bits.
    """
    random.seed(seed)
    np.random.seed(seed & _MASK32)
    torch.manual_seed(seed)


def seed_generators(seed: int) -> None:
    """Seed the three global CPU generators, in about 8 µs.

    numpy and torch run the same algorithm on a 32-bit seed: given the same one, they would
    draw the same bits. Each gets its own half.

    Args:
        seed: 64 bits.
    """
    random.seed(seed)
    np.random.seed(seed & _MASK32)
    torch.default_generator.manual_seed(seed >> 32)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever happens to the global CPU generators inside, afterwards they are as they were (8 µs)."""
    python_state, numpy_state, torch_state = _PythonState(), _NumpyState(), torch.default_generator.get_state()
    try:
        yield
    finally:
        python_state.restore()
        numpy_state.restore()
        torch.default_generator.set_state(torch_state)


def _python_address() -> int | None:
    """Where CPython keeps the 2,500 bytes of the global generator, or None where this interpreter keeps them elsewhere.

    ``_random.Random`` is an object header, the place among the words, and the words.
    """
    header, size = object.__basicsize__, random.Random.__basicsize__
    if sys.implementation.name != "cpython" or size < header + _MT19937_BYTES:
        return None
    probe = random.Random(1)
    *words, place = probe.getstate()[1]
    found = ctypes.string_at(id(probe) + header, _MT19937_BYTES)
    return id(_GLOBAL) + header if found == struct.pack("@i624I", place, *words) else None


_GLOBAL: Any = random.random.__self__  # type: ignore[attr-defined]  # the Random behind the functions of ``random``
_PYTHON_ADDRESS = _python_address()


class _PythonState:
    """The state of python's global generator, copied in 1 µs where ``random.getstate`` takes 10."""

    def __init__(self) -> None:
        self._slow = random.getstate() if _PYTHON_ADDRESS is None else None
        if _PYTHON_ADDRESS is not None:
            self._bytes = ctypes.string_at(_PYTHON_ADDRESS, _MT19937_BYTES)
            self._held_back = _GLOBAL.gauss_next

    def restore(self) -> None:
        if self._slow is not None:
            random.setstate(self._slow)
        elif _PYTHON_ADDRESS is not None:
            ctypes.memmove(_PYTHON_ADDRESS, self._bytes, _MT19937_BYTES)
            _GLOBAL.gauss_next = self._held_back


class _NumpyState:
    """The state of numpy's global generator, copied in 2 µs where ``np.random.get_state`` takes 40.

    The bit generator's memory is copied as it is. Its RandomState also holds back every second
    normal number it computes, and tells only ``get_state``; so we draw one and see whether the
    bit generator moved.
    """

    def __init__(self) -> None:
        self._generator: Any = np.random.mtrand.get_bit_generator()
        self._slow = None if isinstance(self._generator, np.random.MT19937) else np.random.get_state(legacy=False)
        if self._slow is None:
            self._address: int = self._generator.ctypes.state_address
            self._bytes = ctypes.string_at(self._address, _MT19937_BYTES)
            normal = np.random.standard_normal()
            moved = ctypes.string_at(self._address, _MT19937_BYTES) != self._bytes
            self._held_back = None if moved else normal
            ctypes.memmove(self._address, self._bytes, _MT19937_BYTES)

    def restore(self) -> None:
        if np.random.mtrand.get_bit_generator() is not self._generator:
            np.random.mtrand.set_bit_generator(self._generator)
        if self._slow is not None:
            np.random.set_state(self._slow)
            return
        np.random.seed(0)  # forgets a normal number held back
        ctypes.memmove(self._address, self._bytes, _MT19937_BYTES)
        if self._held_back is not None:
            state: Any = np.random.get_state(legacy=False)
            np.random.set_state({**state, "has_gauss": 1, "gauss": self._held_back})


class _Indexed(Protocol):
    def __getitem__(self, index: int, /) -> Any: ...


class SeededReader:
    """Reads examples, each as if all three generators had been seeded for it alone.

    Torch's is. Python's and numpy's are seeded before the first example of each batch and then
    watched: as long as no example has drawn from one, seeding it again would change nothing.
    Once one is seen in use, it is seeded for every example, and the batch that surprised us is
    read again (at most once for each generator and process).
    """

    def __init__(self) -> None:
        self._python_used = _PYTHON_ADDRESS is None
        self._python = _Watch(_PYTHON_ADDRESS or 0, place=0, word=8)
        numpy_generator: Any = np.random.mtrand.get_bit_generator()
        self._numpy_used = False
        self._numpy = _Watch(numpy_generator.ctypes.state_address, place=624 * 4, word=4)

    def read(self, dataset: _Indexed, indices: list[int], seeds: list[int]) -> list[Any]:
        """The examples at ``indices``, each read under its seed of 64 bits."""
        examples = self._read(dataset, indices, seeds)
        while self._surprised():
            examples = self._read(dataset, indices, seeds)
        return examples

    def _read(self, dataset: _Indexed, indices: list[int], seeds: list[int]) -> list[Any]:
        seed_generators(seeds[0])
        self._python.begin()
        self._numpy.begin()
        examples = [dataset[indices[0]]]
        self._surprised()  # what the first one draws from is known before the second is read
        python_used, numpy_used = self._python_used, self._numpy_used
        seed_torch = torch.default_generator.manual_seed
        for index, seed in zip(indices[1:], seeds[1:], strict=True):
            seed_torch(seed >> 32)
            if python_used:
                random.seed(seed)
            if numpy_used:
                np.random.seed(seed & _MASK32)
            examples.append(dataset[index])
        return examples

    def _surprised(self) -> bool:
        """Whether a generator thought to be unused has been used; from now on it is known to be."""
        surprised = False
        if not self._python_used and self._python.moved():
            self._python_used = surprised = True
        if not self._numpy_used and self._numpy.moved():
            self._numpy_used = surprised = True
        return surprised


class _Watch:
    """Tells whether a Mersenne twister has been used, from two numbers in its memory.

    The place alone would miss exactly 624 draws, after which it is back where it began; but then
    the words have been renewed.

    Args:
        address: Where its state lies.
        place: Where in the state the place among the words is [bytes].
        word: Where the second word is [bytes]; the first is the same after every seeding of python's.
    """

    def __init__(self, address: int, place: int, word: int) -> None:
        self._place, self._word = ctypes.c_int(), ctypes.c_uint32()  # where nothing ever moves
        if address:
            self._place = ctypes.c_int.from_address(address + place)
            self._word = ctypes.c_uint32.from_address(address + word)

    def begin(self) -> None:
        self._was = self._place.value, self._word.value

    def moved(self) -> bool:
        return (self._place.value, self._word.value) != self._was
