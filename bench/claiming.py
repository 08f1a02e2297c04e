"""One of many workers on a database: ``python bench/claiming.py URL``, spoken to over its standard streams.

Each line it reads is a load, which it begins to bear at the next line; then it prints what every claim and
every report took. It counts those that ended in time: a trial begun is ended in any case.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from time import perf_counter
from typing import Any

from large import FINGERPRINT, NAME, TOTAL_EXAMPLES, VIRTUAL_EPOCHS, made_up_value

from tunesafe.contracts import Claim, Ending, Outcome, Record, Report
from tunesafe.study.claiming import Claimant
from tunesafe.study.ledger import Ledger
from tunesafe.study.opening import OpenStudy, attach_study
from tunesafe.worker.judging import judge_of, judges


class _Hand:
    """A worker's dealings with the database.

    Args:
        opened: The study.
    """

    def __init__(self, opened: OpenStudy) -> None:
        self._claimant = Claimant(opened)
        self._ledger = Ledger(opened, judge_of(opened.spec), Path("/nonexistent"))
        self._end = 0.0
        self._taken: dict[str, list[float]] = {"claims": [], "reports": []}

    def bear(self, load: dict[str, Any]) -> dict[str, list[float]]:
        """Take trials for some seconds; how long every claim and every report took [s].

        The time begins when everybody has a trial, if they are to report, and else with the first claim.
        """
        self._taken = {"claims": [], "reports": []}
        claim = self._begin() if load["num_reports"] else None
        _say({})
        sys.stdin.readline()
        self._end = perf_counter() + load["seconds"]
        while perf_counter() < self._end:
            claim = claim or self._begin()
            self._report(claim, load["num_reports"], load["pause"])
            self._tell(claim)
            claim = None
        if claim is not None:
            self._tell(claim)
        return self._taken

    def _begin(self) -> Claim:
        claim = self._timed("claims", self._claimant.claim)
        if claim is None:
            raise SystemExit("All trials are taken: the study is too small for this machine.")
        self._ledger.draw(claim)
        return claim

    def _tell(self, claim: Claim) -> None:
        self._ledger.finish(claim, Outcome(Ending.COMPLETE, made_up_value(claim.number, 1), None, TOTAL_EXAMPLES))
        self._ledger.close(claim)

    def _report(self, claim: Claim, num_reports: int, pause: float) -> None:
        known: list[Record] = []
        for epoch in range(1, num_reports + 1):
            if pause:
                time.sleep(random.uniform(0.5, 1.5) * pause)
            if perf_counter() > self._end:
                return
            metrics = {"val_loss": made_up_value(claim.number, epoch)}
            report = Report(epoch, epoch * TOTAL_EXAMPLES // VIRTUAL_EPOCHS, metrics)
            known.append(self._timed("reports", self._ledger.report, claim, report, known))

    def _timed(self, what: str, function: Any, *arguments: Any) -> Any:
        begun = perf_counter()
        result = function(*arguments)
        if (ended := perf_counter()) <= self._end:
            self._taken[what].append(ended - begun)
        return result


def main(url: str) -> None:
    """Bear what is asked for until nothing more is."""
    with attach_study(url, NAME, Path("/"), FINGERPRINT, judges) as opened:
        hand = _Hand(opened)
        _say({})
        for line in sys.stdin:
            _say(hand.bear(json.loads(line)))


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
