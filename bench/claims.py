"""(e) Claims a second and the latency of a report with 1, 8 and 32 workers on each database.

Every worker is a process without torch that takes trial after trial by the package's own code. Claims are
counted where trials are claimed, drawn, finished and told without a report between. Reports are timed in trials
of 15, once as fast as they can be made, and once with a pause of about a second before each, as training would
make it. Times are for information: with 32 processes on few cores they are mostly spent in waiting for a core.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from copies import open_new
from databases import KINDS, UnreachableError, database, settings
from large import VIRTUAL_EPOCHS, keys
from pairs import Comparison, Information

__all__ = ["Load", "claims"]

_HERE = Path(__file__).resolve().parent
_NUM_WORKERS = (1, 8, 32)
_NUM_TRIALS = 4_000
_FULL_SECONDS, _QUICK_SECONDS = 10.0, 3.0
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """What workers are to do.

    Args:
        seconds: For how long [s].
        num_reports: In every trial.
        pause: Before every report, on average [s].
    """

    seconds: float
    num_reports: int
    pause: float


def claims(pairs: int, quick: bool) -> Iterator[Comparison | Information]:
    """Every database with every number of workers."""
    seconds = _QUICK_SECONDS if quick else _FULL_SECONDS
    for kind in KINDS:
        try:
            with tempfile.TemporaryDirectory(prefix="tunesafe-bench-") as folder, database(kind, Path(folder)) as url:
                print(f"  {kind}: {settings(url)}")
                yield from _on(kind, url, seconds)
        except UnreachableError as error:
            yield Information(kind, f"NOT MEASURED: {error}")


def _on(kind: str, url: str, seconds: float) -> Iterator[Information]:
    open_new(keys(url, _NUM_TRIALS, "random", "median", max(_NUM_WORKERS))).close()
    with ExitStack() as stack:
        workers: list[_Worker] = []
        for count in _NUM_WORKERS:
            new = [_Worker(url) for _ in range(count - len(workers))]
            for worker in new:
                stack.callback(worker.end)
            for worker in new:
                worker.wait_until_ready()
            workers += new
            claimed = _measure(workers, Load(seconds, 0, 0.0))["claims"]
            calm = _measure(workers, Load(seconds, VIRTUAL_EPOCHS, _PAUSE_SECONDS))["reports"]
            storm = _measure(workers, Load(seconds, VIRTUAL_EPOCHS, 0.0))["reports"]
            yield Information(
                f"{kind}, {count} worker{'s' if count > 1 else ''}: {len(claimed) / seconds:.0f} claims/s",
                f"each {_times(claimed)}; {len(storm) / seconds:.0f} reports/s, each {_times(storm)}; "
                f"once a second, each {_times(calm)}",
            )


def _measure(workers: list[_Worker], load: Load) -> dict[str, list[float]]:
    for worker in workers:
        worker.order(json.dumps(asdict(load)))
    for worker in workers:
        worker.answer()
    for worker in workers:
        worker.order("go")
    answers = [worker.answer() for worker in workers]
    return {what: [seconds for answer in answers for seconds in answer[what]] for what in ("claims", "reports")}


def _times(seconds: list[float]) -> str:
    """Median and 95th percentile [ms]."""
    if len(seconds) < 2:
        return "(too few to tell)"
    return f"{1000 * statistics.median(seconds):.0f} ms (95 %: {1000 * statistics.quantiles(seconds, n=20)[-1]:.0f})"


class _Worker:
    """A process of ``claiming.py``, attached to the study.

    Args:
        url: The study's database.
    """

    def __init__(self, url: str) -> None:
        command = [sys.executable, str(_HERE / "claiming.py"), url]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def wait_until_ready(self) -> None:
        """Wait until it is attached."""
        self.answer()

    def order(self, line: str) -> None:
        """Tell it something."""
        self._orders.write(line + "\n")
        self._orders.flush()

    def answer(self) -> dict[str, Any]:
        """What it has to say, once it has something to say."""
        assert self._process.stdout is not None, "started with a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with {self._process.wait()}; see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Let it leave."""
        self._orders.close()
        self._process.wait()

    @property
    def _orders(self) -> IO[str]:
        assert self._process.stdin is not None, "started with a pipe"
        return self._process.stdin
