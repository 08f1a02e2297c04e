"""Values as text for people: numbers, tables, trials. Pure; nothing here prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

__all__ = ["assignments", "duration", "examples", "indented", "moment", "number", "shortened", "size", "table"]


def number(value: float | None) -> str:
    """A measured value, to four significant digits.

    Example:
        >>> [number(value) for value in (0.0712, 0.43123, 12, 1437.0, 1e-7, None)]
        ['0.0712', '0.4312', '12', '1437', '1e-07', '-']
    """
    if value is None:
        return "-"
    if not math.isfinite(value) or isinstance(value, bool):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def examples(count: int) -> str:
    """A number of examples, grouped.

    Example:
        >>> examples(20549)
        '20,549'
    """
    return f"{count:,}"


def size(num_bytes: int) -> str:
    """A number of bytes, to three significant digits.

    Example:
        >>> [size(num_bytes) for num_bytes in (812, 1_000, 123_456, 999_999, 2_500_000_000)]
        ['812 bytes', '1 kB', '123 kB', '1 MB', '2.5 GB']
    """
    if num_bytes < 1_000:
        return f"{num_bytes} bytes"
    for unit, power in (("kB", 1), ("MB", 2), ("GB", 3), ("TB", 4)):
        shown = float(f"{num_bytes / 1_000**power:.3g}")
        if shown < 1_000 or unit == "TB":
            break
    return f"{shown:g} {unit}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units.

    Example:
        >>> [duration(seconds) for seconds in (3.2, 75, 3725, 100_000)]
        ['3 s', '1 min 15 s', '1 h 2 min', '1 d 3 h']
    """
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def moment(at: datetime | None) -> str:
    """A moment on the reader's own clock."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else "-"


def assignments(values: Mapping[str, object]) -> str:
    """Names and values on one line.

    Example:
        >>> assignments({"lr": 0.012345678, "optimizer": "sgd", "batch_size": 32})
        'lr=0.01235  optimizer=sgd  batch_size=32'
    """
    shown = {key: number(value) if isinstance(value, float) else value for key, value in values.items()}
    return "  ".join(f"{key}={value}" for key, value in shown.items())


def indented(text: str, by: str = "    ") -> str:
    """Every line moved to the right."""
    return "\n".join(by + line for line in text.rstrip().splitlines())


def shortened(text: str, width: int = 100) -> str:
    """One line of at most ``width`` characters."""
    line = " ".join(text.split("\n"))
    return line if len(line) <= width else line[: width - 1] + "…"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; numbers to the right, words to the left.

    Example:
        >>> print(table(("trial", "state"), [("7", "complete"), ("12", "pruned")]))
        trial  state
            7  complete
           12  pruned
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [all(_is_number(cell) for cell in column[1:]) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(cell: str) -> bool:
    return (
        cell.replace(",", "").replace("-", "").replace("+", "").replace(".", "").replace("e", "").isdigit()
        or cell == "-"
    )
