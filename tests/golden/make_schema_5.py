"""Makes ``schema_5.db`` and the pack beside it: the same study as schema 4's, its bytes named by XXH3.

Run once, when schema 5 was released: ``python tests/golden/make_schema_5.py``. Both are committed
and never made again; later versions must open them and find everything in them.
"""

from __future__ import annotations

from pathlib import Path

from tests.golden import make_schema_3

if __name__ == "__main__":
    make_schema_3.make(Path(__file__).with_name("schema_5.db"))
