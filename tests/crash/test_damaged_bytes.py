"""Bytes of states that are not what was written, wherever they are kept: found, said, and trained again.

One study is killed before every damage and goes on afterwards: a bit is flipped in one piece of the newest
checkpoint after the other, packs are cut short, emptied, taken away. Each time the trial must say what it lost
and go on from the newest checkpoint that is whole; in the end the study is what it would have been.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.crash.harness import Check, Ended, Kill, Laboratory, Study, Survival
from tests.crash.outcome import differences, flaws
from tests.crash.places import one_now
from tests.crash.stored_bytes import StoredBytes, stored_bytes
from tests.crash.variations import BASE, Variation
from tunesafe.store.manifests import Part

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

STORAGE_FAILED = 3
SMALL, LARGE = 0, 1
"""Trials whose states go into rows with the commit, and into a pack (or rows of their own)."""
BOUNDARY = 3
"""At which a study dies: two checkpoints of its trial are durable then, and a third is captured."""
TO_SMALL, TO_LARGE = Kill("capture.after", 3), Kill("capture.after", 7)
FROM_SMALL_TO_LARGE = Kill("capture.after", 5)


@dataclass
class Place:
    """Where the bytes of a study are.

    Args:
        variation: The study.
        storage: Its database, if not a SQLite file of its own.
    """

    variation: Variation
    storage: str | None = None


@pytest.fixture
def sqlite(lab: Laboratory) -> Place:
    """Rows, and packs beside the file."""
    return Place(BASE)


@pytest.fixture
def folder(lab: Laboratory) -> Place:
    """Rows, and objects in a folder."""
    return Place(replace(BASE, changes={"blobs": "blobs"}))


@pytest.fixture
def object_store(lab: Laboratory, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Rows, and objects in S3."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    monkeypatch.setattr(lab, "environment", variables)
    return Place(replace(BASE, changes={"blobs": s3_url}))


@pytest.fixture
def postgres(postgres_url: str) -> Place:
    """Rows of PostgreSQL."""
    return Place(BASE, postgres_url)


@pytest.fixture
def mariadb(mariadb_url: str) -> Place:
    """Rows of MariaDB."""
    return Place(BASE, mariadb_url)


EVERYWHERE = [
    "sqlite",
    "folder",
    pytest.param("object_store", marks=pytest.mark.s3),
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]
WITH_PACKS = EVERYWHERE[:3]


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """One of them, by name."""
    found: Place = request.getfixturevalue(request.param)
    return found


def killed_study(lab: Laboratory, place: Place, kill: Kill) -> Study:
    """A study somewhere that died there; what it would have been is known."""
    lab.reference(BASE)
    study = lab.study(place.variation, place.storage)
    study.run_and_die(kill)
    return study


def go_on(study: Study, number: int, fallback: int) -> Ended:
    """Let a study resume its damaged trial, and die where it died before, with the same checkpoints."""
    interval = study.variation.interval
    ended = study.run_and_die(Kill("capture.after", BOUNDARY - fallback // interval))
    resumed = [batch for batch in study.batches() if batch.number == number][-1]
    (first, *_) = [batch for batch in study.batches() if (batch.number, batch.attempt) == (number, resumed.attempt)]
    assert first.start == fallback, f"it goes on from {first.start}, not from {fallback}:\n{ended.output}"
    return ended


def go_on_damaged(study: Study, number: int, fallback: int, what: str = "") -> None:
    """Let it, and check that it says what is wrong with the trial, and from where that continues."""
    ended = go_on(study, number, fallback)
    (line, *_) = [line for line in ended.output.splitlines() if f"trial {number}  event damaged" in line]
    assert f"Checkpoint of trial {number} at example 110 is damaged" in line
    assert what in line
    assert f"continues_from={fallback}" in ended.output
    assert "Traceback" not in ended.output


def conclude(lab: Laboratory, study: Study, damage: list[str]) -> Survival:
    """Let it finish; only the events tell it from the one that nothing happened to."""
    study.finish()
    outcome = study.outcome()
    assert set(outcome["wrong_events"]) == {"damaged"}
    outcome["wrong_events"] = []
    problems = flaws(outcome, study.variation.num_trials) + differences(lab.reference(BASE).outcome, outcome)
    problems += [f"trained again with another batch: {batch}" for batch in study.misplaced_batches()[:3]]
    return Survival(study.variation, damage, [], problems)


def few(parts: list[Part]) -> list[Part]:
    """The structure and the largest tensor."""
    return [parts[0], max(parts[1:], key=lambda part: part.num_bytes)]


def flip_each(study: Study, stored: StoredBytes, number: int, *, every: bool) -> list[str]:
    """A bit in one piece of the newest checkpoint after the other, and in its row."""
    done = []
    parts = stored.parts(stored.infos(number)[0])
    assert len(parts) > 20
    for part in parts if every else few(parts):
        stored.flip(part)
        named = next(each for each in parts if each.blob == part.blob)  # the first of those that are stored together
        go_on_damaged(study, number, stored.fallback(number, {part.blob}), named.what if named.owner else "structure")
        done.append(f"bit in {'pack' if stored.is_in_pack(part) else 'rows'}")
    for column in ("manifest_json", "digest") if every else ("manifest_json",):
        info = stored.infos(number)[0]
        stored.flip_column(info, column)
        go_on_damaged(study, number, stored.fallback(number, (), [info.checkpoint_id]), "manifest")
        done.append(f"bit in {column}")
    return done


def flip_all(lab: Laboratory, place: Place, *, every: bool) -> Survival:
    """One study that suffers a flipped bit in every piece of a small and of a large state."""
    study = killed_study(lab, place, TO_SMALL)
    with stored_bytes(study) as stored:
        done = flip_each(study, stored, SMALL, every=every)
        study.run_and_die(FROM_SMALL_TO_LARGE)
        done += flip_each(study, stored, LARGE, every=every)
    return conclude(lab, study, done)


@pytest.mark.parametrize("place", one_now(EVERYWHERE, "sqlite"), indirect=True)
def test_a_flipped_bit_in_a_state_is_found_and_costs_training_only(
    place: Place, lab: Laboratory, survived: Check
) -> None:
    """In the structure, in the largest tensor and in the list of both: in rows and in packs."""
    survived(flip_all(lab, place, every=False))


@pytest.mark.slow
@pytest.mark.parametrize("place", EVERYWHERE, indirect=True)
def test_a_flipped_bit_in_every_piece_of_a_state_is_found(place: Place, lab: Laboratory, survived: Check) -> None:
    """In every tensor of model, optimizer and generators, one after the other."""
    survived(flip_all(lab, place, every=True))


PICKLE = b"cposix\nsystem\n(S'touch pwned'\ntR."
DAMAGED_PACKS: dict[str, Any] = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "missing": lambda content: None,
    "a pickle": lambda content: PICKLE,
}


@pytest.mark.parametrize("place", one_now(WITH_PACKS, "folder"), indirect=True)
def test_packs_that_are_damaged_cost_training_only(place: Place, lab: Laboratory, survived: Check) -> None:
    """Cut short, emptied, gone, another file; then all of them at once."""
    study = killed_study(lab, place, TO_LARGE)
    with stored_bytes(study) as stored:
        for damage in DAMAGED_PACKS.values():
            pack = stored.pack_of(stored.infos(LARGE)[0])
            stored.put_pack(pack, damage(stored.pack(pack)))
            go_on_damaged(study, LARGE, stored.fallback(LARGE, stored.in_pack(pack)))
        for info in stored.infos(LARGE):
            stored.put_pack(stored.pack_of(info), None)
        go_on_damaged(study, LARGE, 0)
    assert not (study.folder / "pwned").exists()
    survived(conclude(lab, study, [*DAMAGED_PACKS, "all missing"]))


@pytest.mark.parametrize("place", one_now(WITH_PACKS, "object_store"), indirect=True)
def test_a_place_of_packs_that_is_gone_is_no_damage(place: Place, lab: Laboratory, survived: Check) -> None:
    """A folder that was not copied, a disk that is not there, another bucket: said, waited for, and nothing is lost."""
    study = killed_study(lab, place, TO_LARGE)
    with stored_bytes(study) as stored:
        with stored.hidden():
            ended = study.run()
        assert ended.code == STORAGE_FAILED, ended.output
        assert "Traceback" not in ended.output
        assert "Nothing was changed" in ended.output or "nothing was changed" in ended.output
        go_on(study, LARGE, 110)
    survived(lab.conclude(study, ["capture.after", "no packs"]))


@pytest.mark.slow
def test_a_lost_folder_of_packs_may_be_made_anew(lab: Laboratory, survived: Check) -> None:
    """As its message says: with an empty one trials go on from what is left."""
    study = killed_study(lab, Place(BASE), TO_LARGE)
    packs = study.folder / "crash.db.packs"
    packs.rename(packs.with_name("lost"))
    assert f"folder {packs} is not there" in study.run().output
    packs.mkdir()
    go_on_damaged(study, LARGE, 0)
    survived(conclude(lab, study, ["no packs"]))
