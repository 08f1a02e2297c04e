"""(b) A whole study, of at least a minute, against plain Optuna."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from pairs import Comparison, compare

import tunesafe

__all__ = ["study"]

_HERE = Path(__file__).resolve().parent
_STUDIES = _HERE.parent / "studies"
_FULL_PASSES, _QUICK_PASSES = 130, 20


def study(pairs: int, quick: bool) -> Iterator[Comparison]:
    """Whole processes, from start to end: imports, opening, training, every commit."""
    passes = _QUICK_PASSES if quick else _FULL_PASSES
    with tempfile.TemporaryDirectory(prefix="tunesafe-bench-") as folder:
        sides = _Sides(Path(folder), passes)
        sides.ours()  # once for nothing: what it found is what plain Optuna is to train
        sides.shares.clear()
        claim = f"{len(sides.params)} trials of {passes} passes, against plain Optuna"
        yield compare(claim, sides.ours, sides.plain, pairs=pairs, unit="s", warm_up=False, at_most=1.10)
    print(f"    {sum(map(len, sides.values))} reports, each with a checkpoint; both sides trained the same bits")
    shares = {part: statistics.median(run[part] for run in sides.shares) for part in sides.shares[0]}
    print("    of our time: " + ", ".join(f"{part} {share:.1%}" for part, share in shares.items()))


@dataclass
class _Sides:
    """Both ways to run the study, each into a new database.

    Args:
        folder: For scratch.
        passes: Length of every trial [passes].
        params: By trial, what tunesafe has drawn; not how long it trains.
        values: The objective's values by trial and virtual epoch, the same on both sides.
        shares: What part of our time each part took, one mapping per run.
    """

    folder: Path
    passes: int
    params: list[dict[str, Any]] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    shares: list[dict[str, float]] = field(default_factory=list)

    def ours(self) -> float:
        """``tunesafe run`` [s]."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            own = Path(name)
            for file in (_STUDIES / "digits.yaml", _STUDIES / "digits.py", _HERE / "measured_digits.py"):
                shutil.copy(file, own)
            overrides = ["trainable=measured_digits.py:train", f"budget.passes={self.passes}"]
            options = [word for override in overrides for word in ("--set", override)]
            command = [sys.executable, "-m", "tunesafe", "run", str(own / "digits.yaml"), *options]
            environment = os.environ | {"TUNESAFE_BENCH_PARTS": str(own / "parts.json")}
            begun = perf_counter()
            done = subprocess.run(command, check=False, env=environment, stderr=subprocess.PIPE, text=True)
            ended = perf_counter()
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
            trials = tunesafe.load_study(own / "digits.yaml", overrides).trials
            parts = json.loads((own / "parts.json").read_text(encoding="utf-8"))
        self.params = [dict(trial.params) for trial in trials]
        self._check([[report.metrics["val_loss"] for report in trial.reports] for trial in trials])
        self.shares.append(_shares(parts, begun, ended))
        return ended - begun

    def plain(self) -> float:
        """Plain Optuna [s]."""
        with tempfile.TemporaryDirectory(dir=self.folder) as own:
            settings = {"storage": f"sqlite:///{own}/study.db", "passes": self.passes, "params": self.params}
            command = [sys.executable, str(_HERE / "plain_digits.py"), json.dumps(settings)]
            begun = perf_counter()
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            ended = perf_counter()
        self._check(json.loads(done.stdout))
        return ended - begun

    def _check(self, values: list[list[float]]) -> None:
        self.values = self.values or values
        if values != self.values:
            raise SystemExit("The two sides did not train the same trials; the comparison means nothing.")


def _shares(parts: dict[str, float], begun: float, ended: float) -> dict[str, float]:
    """Parts as shares of a run from ``begun`` to ``ended``; the clock is the same in all processes."""
    started, stopped = parts.pop("begun"), parts.pop("ended")
    seconds = {"training": stopped - started - sum(parts.values()), **parts}
    seconds |= {"starting": started - begun, "leaving": ended - stopped}
    return {part: spent / (ended - begun) for part, spent in seconds.items()}
