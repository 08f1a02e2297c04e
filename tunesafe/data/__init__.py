"""Training data as one endless, seekable stream.

Position p of the stream is computed, never replayed: which example stands there
(``order``), and how the random generators are seeded while it is read (``seeding``).
``stream`` turns positions into batches, from tensors directly (``tensors``) or from any
map-style dataset through torch's DataLoader (``loader``).
"""

from __future__ import annotations

__all__: list[str] = []
