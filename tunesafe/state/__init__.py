"""A trial's full state as JSON plus raw bytes, and back, bit for bit.

``tracked`` takes the state out of user objects and puts it back, ``generators`` does so for
the global random generators, ``codec`` turns the resulting tree into text and bytes. Nothing
here is ever pickled, and nothing here knows of databases.
"""

from __future__ import annotations

__all__: list[str] = []
