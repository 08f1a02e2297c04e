"""A laboratory for every test process, and the table of what was killed where."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.crash.harness import Check, Laboratory, Study, Survival, assert_survived, laboratory
from tests.crash.variations import BASE

_PROPERTY = "crash survival"
_ROOMY_BYTES = 1 << 30


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """One laboratory for all tests of this process.

    In memory where there is room: SIGKILL loses no page cache, so waiting for a disk proves nothing here.
    """
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and shutil.disk_usage(memory).free > _ROOMY_BYTES
    folder = Path(
        tempfile.mkdtemp(prefix="tunesafe-crash-", dir=memory if in_memory else tmp_path_factory.mktemp("crash"))
    )
    try:
        with laboratory(folder) as lab:
            yield lab
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def killed(lab: Laboratory) -> Study:
    """A study that died in mid-training, between a record and Optuna's; for copies of it."""
    study = lab.study(BASE)
    study.run_and_die(lab.reference(BASE).passing("report.applied", "middle"))
    study.rewrite("PRAGMA wal_checkpoint(TRUNCATE)")  # everything in one file
    return study


@pytest.fixture
def survived(record_property: Callable[[str, object], None]) -> Check:
    """Put survivals into the table, and fail if one is not identical."""

    def check(found: Survival | Sequence[Survival]) -> None:
        survivals = [found] if isinstance(found, Survival) else list(found)
        for survival in survivals:
            record_property(_PROPERTY, json.dumps(survival.row()))
        assert_survived(survivals)

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was killed where, how often, what it cost, and how it ended."""
    rows = [
        json.loads(str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == _PROPERTY and report.when == "call"
    ]
    if not rows:
        return
    terminalreporter.section("killed where, and what became of it")
    _table(terminalreporter, "study", [(row["study"], row) for row in rows])
    places = [(death.partition(":")[0], {**row, "deaths": [death]}) for row in rows for death in row["deaths"]]
    _table(terminalreporter, "place", places, costs=False)


def _table(
    reporter: pytest.TerminalReporter, title: str, rows: list[tuple[str, dict[str, Any]]], *, costs: bool = True
) -> None:
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, row in rows:
        groups.setdefault(name, []).append(row)
    head = f"{title:32}{'studies':>8}{'kills':>7}{'identical':>11}"
    reporter.write_line(head + (f"{'again/kill':>12}{'most':>6}{'interval':>10}" if costs else ""))
    for name, group in sorted(groups.items()):
        kills = sum(len(row["deaths"]) for row in group)
        same = sum(row["result"] == "identical" for row in group)
        line = f"{name:32}{len(group):>8}{kills:>7}{f'{same}/{len(group)}':>11}"
        if costs:
            lost = sum(row["lost"] for row in group)
            most = max(row["most"] for row in group)
            line += f"{lost / max(kills, 1):>12.1f}{most:>6}{group[0]['interval']:>10}"
        reporter.write_line(line)
    kills = sum(len(row["deaths"]) for _, row in rows)
    if costs:
        broken = [row for _, row in rows if row["result"] != "identical"]
        reporter.write_line(f"{kills} kills in {len(rows)} studies; {len(broken)} not identical")
        reporter.write_line("again/kill: examples trained again; interval: longest way between two checkpoints")
    reporter.write_line("")
