"""What is given up of checkpoints, on every database: only what is meant, by however many at once."""

from __future__ import annotations

import random
import threading
from contextlib import suppress

import pytest
from sqlalchemy import Engine, text

from tests.unit.store.samples import COMPLETE, ELSEWHERE, LEASE, claim, claimed_study, new_study, snapshot
from tunesafe.store import claims, inventory
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.damage import RemovedError
from tunesafe.store.engine import reading, writing
from tunesafe.store.migrations import SCHEMA_VERSION, schema_version, upgrade
from tunesafe.store.packs import packs_beside
from tunesafe.study.patience import Patience

WEIGHTS = {1}


def test_weights_stay_whole_and_the_rest_returns(engine: Engine) -> None:
    """What a second checkpoint names stays, too; sums follow."""
    study, _ = claimed_study(engine)
    store = CheckpointStore(engine, study, packs_beside(engine.url))
    seen = inventory.StoredSum(study)
    with reading(engine) as c:
        assert seen.at_most(c) == 0
    parts = [b"o" * 2_000_000, b"w" * 1_000_000, b"g" * 5000]
    first = store.save(snapshot(1, parts), number=0, fence=1)
    second = store.save(snapshot(2, [b"p" * 2_000_000, *parts[1:]]), number=0, fence=1)
    freed = store.keep_weights(first, lambda structure: WEIGHTS)
    assert freed.in_database + freed.in_packs == 2_000_000
    newest, thin = store.infos(0)
    assert (newest, thin.weights_only) == (second, True)
    assert [None if tensor is None else bytes(tensor) for tensor in store.load(thin).tensors] == [None, parts[1], None]
    assert bytes(store.load(second).tensors[2] or b"") == parts[2]
    with reading(engine) as c:
        stored = inventory.stored_bytes(c, study)
        assert seen.at_most(c) == seen.exactly(c) == stored.in_database + stored.in_packs == 3_005_002
    with pytest.raises(RemovedError):
        store.keep_weights(first, lambda structure: WEIGHTS)


def test_what_is_told_is_tidied_once(engine: Engine) -> None:
    """And nothing that is not told."""
    with writing(engine) as c:
        study = new_study(c)
        for number in range(3):
            claim(c, study, number)
        for number in range(2):
            claims.record_outcome(c, study, number, 1, COMPLETE)
            claims.mark_told(c, study, number, 1)
        for number in (0, 2):
            claims.mark_tidied(c, study, number)
        assert claims.untidied(c, study) == [1]
        claims.record_outcome(c, study, 2, 1, COMPLETE)
        claims.mark_told(c, study, 2, 1)
        assert claims.untidied(c, study) == [1, 2]


def test_a_database_of_schema_2_is_brought_on(engine: Engine) -> None:
    """Its states are whole, and its trials that are told count as tidied: new rules are for new ends."""
    study, _ = claimed_study(engine)
    store = CheckpointStore(engine, study, packs_beside(engine.url))
    info = store.save(snapshot(1, [b"state"]), number=0, fence=1)
    with writing(engine) as c:
        claims.record_outcome(c, study, 0, 1, COMPLETE)
        claims.mark_told(c, study, 0, 1)
        c.execute(text("ALTER TABLE tunesafe_checkpoints DROP COLUMN weights_only"))
        c.execute(text("ALTER TABLE tunesafe_trials DROP COLUMN tidied"))
        c.execute(text("UPDATE tunesafe_schema SET version = 2"))
    upgrade(engine)
    with reading(engine) as c:
        assert schema_version(c) == SCHEMA_VERSION
        assert claims.untidied(c, study) == []
    assert store.infos() == [info]


def test_a_saver_whose_trial_is_taken_meanwhile_forgets_nothing_of_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It slept just after its commit; on SQLite, where one commit saves and forgets, that is too late."""
    study, _ = claimed_study(engine)
    store = CheckpointStore(engine, study, packs_beside(engine.url))
    older = store.save(snapshot(1, [b"older"]), number=0, fence=1)

    def be_overtaken(at: str) -> None:
        if at == "checkpoint.committed":
            with writing(engine) as c:
                claims.renew(c, study, 0, 1, -1.0)
                (row,) = claims.claimable(c, study)
                assert claims.retake(c, study, row, ELSEWHERE, LEASE) is not None

    monkeypatch.setattr("tunesafe.store.saving.failpoint", be_overtaken)
    newer = store.save(snapshot(2, [b"newer"]), number=0, fence=1, surplus=lambda infos: [older.checkpoint_id])
    assert store.infos(0) == ([newer] if engine.dialect.name == "sqlite" else [newer, older])


def test_savers_thinners_and_removers_of_the_same_bytes_do_not_harm_each_other(engine: Engine) -> None:
    """Each trial is worked on by two at once, as after a death; what is left is whole or thin."""
    shared = [bytes([i]) * 1000 for i in range(3)] + [b"large" * 300_000]
    with writing(engine) as c:
        study = new_study(c)
        fences = {number: claim(c, study, number).fence for number in range(3)}
    failures: list[BaseException] = []

    def save(number: int) -> None:
        draw = random.Random(number)
        store = CheckpointStore(engine, study, packs_beside(engine.url))
        for epoch in range(1, 9):
            tensors = draw.sample(shared, 3)
            Patience(60.0)(store.save, snapshot(epoch, tensors), number=number, fence=fences[number])

    def give_up(seed: int) -> None:
        draw, patience = random.Random(seed), Patience(60.0)
        store = CheckpointStore(engine, study, packs_beside(engine.url))
        while saving.is_set():
            for info in patience(store.infos, draw.randrange(3))[1:]:
                with suppress(RemovedError):
                    patience(store.keep_weights, info, lambda structure: WEIGHTS)
                if draw.random() < 0.3:
                    patience(store.remove, [info.checkpoint_id])

    def watched(work: object, argument: int) -> None:
        try:
            work(argument)  # type: ignore[operator]
        except BaseException as failure:  # noqa: BLE001  a thread's failure is the test's
            failures.append(failure)

    saving = threading.Event()
    saving.set()
    savers = [threading.Thread(target=watched, args=(save, number)) for number in fences]
    others = [threading.Thread(target=watched, args=(give_up, seed)) for seed in range(2)]
    for thread in (*savers, *others):
        thread.start()
    for thread in savers:
        thread.join(120)
    saving.clear()
    for thread in others:
        thread.join(120)
    assert not failures
    store = CheckpointStore(engine, study, packs_beside(engine.url))
    infos = store.infos()
    assert {info.number for info in infos} == set(fences)
    for info in infos:
        state = store.load(info)
        assert (state.tensors[0] is None) == info.weights_only
        assert state.tensors[1] is not None
