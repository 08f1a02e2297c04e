"""A study whose machine is gone for good: what it copied to its second place goes on elsewhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.crash.command import command
from tests.crash.harness import Check, Ended, Kill, Laboratory, NotReachedError, Study, Survival
from tests.crash.outcome import differences, flaws
from tests.crash.places import COPYING, FETCHING
from tests.crash.variations import ALL_IN_PACKS, BASE, Variation
from tests.gcs_server import GcsServer
from tests.s3 import unfinished_uploads
from tunesafe.store.depot_urls import open_depot

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

NO_BACKUP, INTERRUPTED, SIGKILLED = 3, 75, -9
LIMIT_SECONDS = 100
POINTER = "tunesafe-backup.json"


class Machines:
    """One study that moves from machine to machine by way of its second place.

    Args:
        lab: Where it runs.
        folder: Its machines' disks.
        url: The second place.
        unfinished_uploads: Names the objects of which parts are there.
    """

    def __init__(
        self, lab: Laboratory, folder: Path, url: str, unfinished_uploads: Callable[[], Collection[str]] = list
    ) -> None:
        self._lab, self._folder, self.url, self.unfinished_uploads = lab, folder, url, unfinished_uploads
        self._count = 0
        self.keep(BASE)
        folder.mkdir(exist_ok=True)

    def keep(self, base: Variation) -> None:
        """Let it be a study of this kind, before it begins."""
        backup = {"url": self.url, "every": 0.05}
        self.base, self.variation = base, replace(base, changes={**base.changes, "backup": backup})

    def begin(self) -> Study:
        """The study, on a new machine, from nothing."""
        return Study(self._lab, self.variation, self._new())

    def lose(self, study: Study) -> Study:
        """Lose the study's machine, and go on with the copy; from nothing if there was none yet."""
        shutil.rmtree(study.folder)
        restored = self.restored()
        if restored is not None:
            return restored
        return self.begin()

    def restored(self) -> Study | None:
        """The study, on a new machine, from its second place; ``None`` if nothing is there."""
        folder = self._new()
        ended = self.restore(folder)
        if ended.code == NO_BACKUP:
            assert "There is no backup" in ended.output
            return None
        assert ended.code == 0, ended.output
        return Study(self._lab, self.variation, folder)

    def restore(self, folder: Path, **job: Any) -> Ended:
        """``tunesafe restore`` once."""
        desk = self._folder / "desk"
        desk.mkdir(exist_ok=True)
        (desk / "output.log").unlink(missing_ok=True)
        ended = self._lab.perform(do="restore", folder=str(desk), url=self.url, directory=str(folder), **job)
        return Ended(ended["code"], ended["killed"], ended["seconds"], (desk / "output.log").read_text())

    def wait_for_a_copy_since(self, moment: float) -> None:
        """Until a copy counts that was begun after this [seconds since the epoch]."""
        pointer, deadline = Path(self.url, POINTER), time.monotonic() + LIMIT_SECONDS
        while not pointer.exists() or json.loads(pointer.read_bytes())["at"] < moment:
            assert time.monotonic() < deadline, "nothing is copied"
            time.sleep(0.01)

    def conclude(self, study: Study, deaths: list[str]) -> Survival:
        """Let it finish, and compare it with the one that was never interrupted.

        What it trained again is no matter: that depends on how old the copy was.
        """
        study.finish()
        outcome = study.outcome()
        problems = flaws(outcome, self.base.num_trials) + differences(self._lab.reference(self.base).outcome, outcome)
        return Survival(self.variation, deaths, [], problems)

    def _new(self) -> Path:
        self._count += 1
        return self._folder / f"machine {self._count}"


@pytest.fixture
def machines(lab: Laboratory, tmp_path: Path) -> Machines:
    """Machines, and a second place in a folder."""
    folder = lab.folder / tmp_path.name
    return Machines(lab, folder, str(folder / "second place"))


@pytest.fixture
def machines_and_s3(
    lab: Laboratory, tmp_path: Path, s3_server: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> Machines:
    """Machines, and a second place in S3."""
    monkeypatch.setattr(lab, "environment", variables_of("AWS"))
    bucket = s3_url.removeprefix("s3://").partition("/")[0]
    return Machines(lab, lab.folder / tmp_path.name, s3_url, lambda: unfinished_uploads(s3_server, bucket))


@pytest.fixture
def machines_and_gcs(
    lab: Laboratory, tmp_path: Path, gcs: GcsServer, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> Machines:
    """Machines, and a second place in Google Cloud Storage."""
    monkeypatch.setattr(lab, "environment", variables_of("GOOGLE"))
    bucket = gcs_url.removeprefix("gs://").partition("/")[0]
    return Machines(lab, lab.folder / tmp_path.name, gcs_url, lambda: gcs.unfinished_uploads(bucket))


def variables_of(vendor: str) -> dict[str, str]:
    """What the environment says of its object stores."""
    return {name: value for name, value in os.environ.items() if name.startswith(f"{vendor}_")}


EVERYWHERE = [
    "machines",
    pytest.param("machines_and_s3", marks=[pytest.mark.s3, pytest.mark.slow]),
    pytest.param("machines_and_gcs", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("where", EVERYWHERE)
def test_a_study_that_loses_its_machine_again_and_again_ends_identical(
    lab: Laboratory, where: str, request: pytest.FixtureRequest, survived: Check
) -> None:
    """Killed at random instants, its folder deleted, restored, continued."""
    machines: Machines = request.getfixturevalue(where)
    seconds, drawn = lab.reference(BASE).seconds, random.Random(11)
    study, deaths = machines.begin(), 0
    for _ in range(6):
        ended = study.run(kill_after=drawn.uniform(0.2, 0.8) * seconds)
        assert ended.killed or ended.code == 0, ended.output
        study, deaths = machines.lose(study), deaths + 1
    survived(machines.conclude(study, ["random instant"] * deaths))


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param(failpoint, marks=[] if failpoint in ("backup.sending", "backup.pointing") else pytest.mark.slow)
        for failpoint in COPYING
    ],
)
@pytest.mark.parametrize("where", EVERYWHERE)
def test_a_death_in_mid_copy_leaves_a_whole_copy(
    failpoint: str, where: str, request: pytest.FixtureRequest, survived: Check
) -> None:
    """The study goes on from the copy, and just as well from its own disk; both end identical."""
    machines: Machines = request.getfixturevalue(where)
    study = machines.begin()
    study.run_and_die(Kill("train.batch", 60))
    study.run_and_die(Kill(failpoint, 2))
    restored = machines.restored()
    assert restored is not None
    survived([machines.conclude(restored, [failpoint]), machines.conclude(study, [failpoint])])


LARGE_STATES = Variation("large states", {"parameters": {"ballast": 6_000_000}}, num_trials=3, shows="COMPLETE")
"""24 MB, of one trial: several parts of an upload."""


@pytest.mark.parametrize(
    "passings", [pytest.param((4, 6), id="few"), pytest.param(range(1, 12), marks=pytest.mark.slow, id="every")]
)
@pytest.mark.parametrize("where", [pytest.param("machines_and_s3", marks=pytest.mark.s3), EVERYWHERE[-1]])
def test_a_death_in_mid_upload_leaves_a_whole_copy_and_is_in_nobodys_way(
    passings: Sequence[int], where: str, request: pytest.FixtureRequest, survived: Check
) -> None:
    """Between any two parts of what goes up in parts: nothing of it is an object, and the next copy is whole."""
    machines: Machines = request.getfixturevalue(where)
    machines.keep(LARGE_STATES)
    study, unfinished = machines.begin(), set[str]()
    study.run_and_die(Kill("finish.swept", 1))
    for passing in passings:
        before = set(machines.unfinished_uploads())
        try:
            study.run_and_die(Kill("backup.sending", passing))
        except NotReachedError:  # a pack that is whole there is not sent again: so few parts are left
            assert passing > 1
            break
        new = set(machines.unfinished_uploads()) - before
        unfinished |= new
        there = {f"studies/one/{entry.name}" for entry in open_depot(machines.url).entries("packs")}
        assert not new & there, "an upload nobody has completed is an object"
    assert unfinished, "no upload was killed in its middle"
    restored = machines.restored()
    assert restored is not None
    survived([machines.conclude(restored, ["backup.sending"]), machines.conclude(study, ["backup.sending"])])


MOVES = [Kill("fetch.moving", passing) for passing in (2, 3, 4)]  # database, packs, code, study file


@pytest.mark.parametrize("where", EVERYWHERE)
def test_a_restore_that_is_killed_is_done_by_the_same_command(
    where: str, request: pytest.FixtureRequest, survived: Check
) -> None:
    """Wherever it was: up to the last moment there is no study file to run; afterwards there is all of it."""
    machines: Machines = request.getfixturevalue(where)
    machines.keep(ALL_IN_PACKS)  # whichever instant the copy is of, there are packs
    study = machines.begin()
    study.run_and_die(Kill("finish.swept", 3))
    shutil.rmtree(study.folder)
    restored = machines.restored()
    assert restored is not None
    expected = restored.outcome()
    for kill in (*map(Kill, FETCHING), *MOVES):
        folder = study.folder.with_name(f"killed at {kill}")
        ended = machines.restore(folder, failpoint=kill.failpoint, passing=kill.passing)
        assert ended.code == SIGKILLED, ended.output
        assert (folder / "study.yaml").exists() == (kill.failpoint in ("fetch.moved", "fetch.cleaned"))
        again = machines.restore(folder)
        assert again.code == 0, again.output
        assert not list(folder.glob(".*"))
        restored = Study(machines._lab, machines.variation, folder)
        assert restored.outcome() == expected, kill
    survived(machines.conclude(restored, [str(kill)]))


def test_a_supervised_study_that_dies_with_all_its_processes_goes_on_elsewhere(
    machines: Machines, survived: Check
) -> None:
    """The command as a user starts it: a supervisor that copies, and its worker in a process of its own."""
    study = machines.begin()
    (study.folder / "hang").write_text("3 110")
    with command(study) as running:
        running.wait_until_it_hangs()
        machines.wait_for_a_copy_since(time.time())
        running.signal(signal.SIGKILL)
    assert len({batch.number for batch in study.batches()}) == 4
    restored = machines.lose(study)
    assert {row for row in restored.outcome()["rows"].values() if "told" in row}
    survived(machines.conclude(restored, ["in mid-batch"]))


def test_a_machine_that_is_taken_away_leaves_a_copy_of_all_there_was(machines: Machines, survived: Check) -> None:
    """SIGTERM: trials are given back, and the last copy is what is on the disk."""
    study = machines.begin()
    (study.folder / "hang").write_text("3 110")
    with command(study, "--set", "backup.every=1d") as running:
        running.wait_until_it_hangs()
        running.signal(signal.SIGTERM)
        running.let_go_once_asked()
        assert running.wait()[0] == INTERRUPTED
    before = study.outcome()
    restored = machines.lose(study)
    assert restored.outcome() == before
    survived(machines.conclude(restored, ["SIGTERM"]))


def test_a_machine_that_turns_out_to_be_alive_writes_nothing_to_the_place_it_has_lost(
    machines: Machines, survived: Check
) -> None:
    """Both go on and both end identical, each for itself; the place is the new one's."""
    study = machines.begin()
    study.run_and_die(Kill("train.batch", 60))
    study.run_and_die(Kill("backup.pointing", 2))
    restored = machines.restored()
    assert restored is not None
    place = Path(machines.url)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    ended = study.finish()
    assert "event backup_lost" in ended.output
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    survived(machines.conclude(restored, ["backup.pointing"]))
    assert (place / POINTER).read_bytes() != before[place / POINTER]
    survived(machines.conclude(study, ["backup.pointing"]))


def test_a_damaged_copy_costs_training_and_nothing_else(machines: Machines) -> None:
    """Every pack in the place is lost or garbage: it is said, and trials go on from what is intact, to the same end."""
    study = machines.begin()
    pointer, packs = Path(machines.url, POINTER), list[Path]()
    for passing in (2, *[1] * 20):  # until a copy names some; trial 1 has large states, and never comes to its end
        study.run_and_die(Kill("finish.before", passing))
        if pointer.exists():
            packs = [Path(machines.url, name) for name in json.loads(pointer.read_bytes())["packs"]]
        if packs:
            break
    assert packs
    shutil.rmtree(study.folder)
    for index, pack in enumerate(packs):
        if index % 2:
            pack.unlink()
        else:
            pack.write_bytes(b"[[0, 10]]\nno such bytes")
    folder = study.folder.with_name("elsewhere")
    ended = machines.restore(folder)
    assert ended.code == 0, ended.output
    assert "missing or damaged" in ended.output
    survival = machines.conclude(Study(machines._lab, machines.variation, folder), ["finish.before"])
    unlike = [problem.split(":")[0] for problem in survival.problems]
    assert unlike == ["events", "/wrong_events"], survival.problems  # "damaged", and nothing else
