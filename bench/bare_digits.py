"""A bare training process: some of the digits study's trials one after the other, and nothing else.

``python bench/bare_digits.py SETTINGS`` prints the validation losses by trial's number as JSON, and adds a
line to a file of spans for each trial. No Optuna, no database, no checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from by_hand import train_by_hand
from spans import keep_span


def main(settings: dict[str, Any]) -> dict[int, list[float]]:
    """Train the trials dealt to this process."""
    torch.set_num_threads(1)
    os.environ["TUNESAFE_BENCH_SPANS"] = settings["spans"]
    values = {}
    for number, params in settings["trials"]:
        with keep_span(number):
            values[number] = list(train_by_hand(number, params, settings["passes"]))
    return values


if __name__ == "__main__":
    json.dump(main(json.loads(sys.argv[1])), sys.stdout)
