"""(d) Two workers on two cores, against two bare training processes with the same trials.

All trials are as long as each other, in examples and in time (one batch size, network and optimizer;
learning rate and dropout are drawn at random), so that it does not matter which of them fall into the
time in which both processes of a side are at work: that time is what is compared, without the start
of interpreters, imports and the last trial's end on either side. The whole commands are shown as well.
"""

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
from spans import examples_per_second, read_spans

import tunesafe

__all__ = ["workers"]

_HERE = Path(__file__).resolve().parent
_STUDIES = _HERE.parent / "studies"
_NUM_WORKERS = 2
_NUM_TRIALS = 16
_FULL_PASSES, _QUICK_PASSES = 1200, 300
_EXAMPLES_PER_PASS = 1437
_VIRTUAL_EPOCHS = 60


def workers(pairs: int, quick: bool) -> Iterator[Comparison]:
    """Examples per second of both processes together."""
    passes = _QUICK_PASSES if quick else _FULL_PASSES
    with tempfile.TemporaryDirectory(prefix="tunesafe-bench-") as folder:
        sides = _Sides(Path(folder), passes)
        sides.ours()  # once for nothing: what it drew is what the bare processes are to train
        sides.forget()
        claim = f"{_NUM_WORKERS} workers, against {_NUM_WORKERS} bare processes"
        yield compare(claim, sides.ours, sides.bare, pairs=pairs, unit="examples/s", warm_up=False, at_least=0.9)
    seconds = statistics.median(sides.together)
    print(
        f"    {_NUM_TRIALS} trials of {passes} passes, {_VIRTUAL_EPOCHS} reports and checkpoints each; both processes "
        f"of a side at work for {seconds:.0f} s a run; both sides trained the same bits"
    )
    ours, bare = sides.whole["ours"], sides.whole["bare"]
    ratio = statistics.median(theirs / own for own, theirs in zip(ours, bare, strict=True))
    print(
        f"    whole commands, from start to exit: ours {statistics.median(ours):.1f} s, "
        f"theirs {statistics.median(bare):.1f} s, ratio of examples/s {ratio:.3f}"
    )


@dataclass
class _Sides:
    """Both ways to train the trials.

    Args:
        folder: For scratch.
        passes: Length of every trial [passes].
        params: By trial, what tunesafe has drawn.
        values: The objective's values by trial and virtual epoch, the same on both sides.
        together: How long both processes were at work, by run [s].
        whole: How long the commands took, by run [s].
    """

    folder: Path
    passes: int
    params: list[dict[str, Any]] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    together: list[float] = field(default_factory=list)
    whole: dict[str, list[float]] = field(default_factory=lambda: {"ours": [], "bare": []})

    def forget(self) -> None:
        """What was measured; not what was found."""
        self.together.clear()
        for seconds in self.whole.values():
            seconds.clear()

    def ours(self) -> float:
        """``tunesafe run -w 2`` [examples/s]."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            own = Path(name)
            for file in (_STUDIES / "digits.py", _HERE / "spanned_digits.py", _HERE / "spans.py"):
                shutil.copy(file, own)
            study = own / "workers.yaml"
            study.write_text(json.dumps(_study(self.passes)), encoding="utf-8")  # JSON is YAML
            command = [sys.executable, "-m", "tunesafe", "run", str(study), "-w", str(_NUM_WORKERS)]
            environment = _environment() | {"TUNESAFE_BENCH_SPANS": str(own / "spans")}
            begun = perf_counter()
            done = subprocess.run(command, check=False, env=environment, stderr=subprocess.PIPE, text=True)
            self.whole["ours"].append(perf_counter() - begun)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
            trials = tunesafe.load_study(study).trials
            self.params = [dict(trial.params) for trial in trials]
            self._check([[report.metrics["val_loss"] for report in trial.reports] for trial in trials])
            return self._speed(own / "spans")

    def bare(self) -> float:
        """Two bare processes, to which the trials are dealt in turn [examples/s]."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            spans = Path(name) / "spans"
            numbered = list(enumerate(self.params))
            hands = [numbered[index::_NUM_WORKERS] for index in range(_NUM_WORKERS)]
            begun = perf_counter()
            processes = [self._bare_process(hand, spans) for hand in hands]
            answers = [process.communicate()[0] for process in processes]
            self.whole["bare"].append(perf_counter() - begun)
            if any(process.returncode for process in processes):
                raise SystemExit("a bare process failed")
            values = {int(number): own for answer in answers for number, own in json.loads(answer).items()}
            self._check([values[number] for number in sorted(values)])
            return self._speed(spans)

    def _bare_process(self, hand: list[tuple[int, dict[str, Any]]], spans: Path) -> subprocess.Popen[str]:
        settings = {"trials": hand, "passes": self.passes, "spans": str(spans)}
        command = [sys.executable, str(_HERE / "bare_digits.py"), json.dumps(settings)]
        return subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, text=True)

    def _speed(self, spans: Path) -> float:
        speed, seconds = examples_per_second(read_spans(spans), self.passes * _EXAMPLES_PER_PASS)
        self.together.append(seconds)
        return speed

    def _check(self, values: list[list[float]]) -> None:
        self.values = self.values or values
        if values != self.values:
            raise SystemExit("The two sides did not train the same trials; the comparison means nothing.")


def _study(passes: int) -> dict[str, Any]:
    return {
        "name": "workers",
        "trainable": "spanned_digits.py:train",
        "objective": {"metric": "val_loss", "direction": "minimize", "select": "best"},
        "budget": {"passes": passes, "virtual_epochs": _VIRTUAL_EPOCHS},
        "parameters": {
            "batch_size": 32,
            "optimizer": "adam",
            "hidden": 64,
            "weight_decay": 1.0e-4,
            "lr": {"type": "float", "low": 1.0e-4, "high": 1.0e-2, "log": True},
            "dropout": {"type": "float", "low": 0.1, "high": 0.5},
        },
        "n_trials": _NUM_TRIALS,
        "threads_per_worker": 1,
        "seed": 17,
        # Other trials by the same number must not come of another order in which they end.
        "sampler": {"name": "random"},
        "pruner": {"name": "nop"},
    }


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}
