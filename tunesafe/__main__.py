"""``python -m tunesafe``: the command line where no script is installed."""

from __future__ import annotations

from tunesafe.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
