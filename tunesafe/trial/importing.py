"""Whether user code is being imported: a script that is imported by a worker must not start workers itself.

Apart from ``resolve``, because those who ask do without torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["importing", "is_importing"]

_importing: ContextVar[bool] = ContextVar("_importing", default=False)


@contextmanager
def importing() -> Iterator[None]:
    """User code is imported while the block runs."""
    token = _importing.set(True)
    try:
        yield
    finally:
        _importing.reset(token)


def is_importing() -> bool:
    """Whether it is, in this thread; what it does now, every worker does."""
    return _importing.get()
