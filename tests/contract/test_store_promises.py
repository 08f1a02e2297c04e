"""What the store promises on every database: who may write, what comes back, what is never lost."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import Connection, Engine, text

from tests.unit.store.samples import (
    COMPLETE,
    ELSEWHERE,
    LEASE,
    claim,
    claimed_study,
    new_study,
    record,
    snapshot,
)
from tunesafe.contracts import (
    AttributeWrite,
    CheckpointInfo,
    Claim,
    Ending,
    Event,
    LogChunk,
    Outcome,
    Record,
    Report,
    TrialPhase,
    Verdict,
)
from tunesafe.errors import LeaseLostError, SpecError, StorageError
from tunesafe.store import blobs, claims, events, logs, records, studies, tallies
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.damage import RemovedError
from tunesafe.store.engine import database_now, read_only_engine, reading, writing
from tunesafe.store.packs import packs_beside
from tunesafe.store.reading import summarise
from tunesafe.store.trial_rows import trial_row, trial_rows

NAN, INF = float("nan"), float("inf")


def test_a_study_keeps_what_is_settled_first_and_counts_the_time_it_lived(engine: Engine) -> None:
    """Names are exact, settled values are the first one's, changes need the revision they were made from."""
    with writing(engine) as c:
        study = new_study(c, name="Digits")
        other = new_study(c, name="digits")
    with writing(engine) as c:
        assert studies.study_names(c) == ["Digits", "digits"]
        row = studies.find_study(c, "Digits")
        assert row is not None
        assert (row.uuid, row.source_text, row.fingerprint) == (study, "name: digits  # ü\n", {"sources": "abc"})
        assert [studies.settle_examples_per_pass(c, study, n) for n in (1437, 1500)] == [1437, 1437]
        assert [studies.settle_threads(c, other, n) for n in (2, 1)] == [2, 2]
        change = partial(studies.replace_spec, direction="maximize", spec_json="{}", source_text="é", fingerprint={})
        assert change(c, study, 1) == studies.revision_of(c, study) == 2
        with pytest.raises(studies.RevisionConflictError):
            change(c, study, 1)
        # Two workers' beats are a union; a silence longer than a lease, and a clock set back, count for nothing.
        beats = [100.0, 130.0, 120.0, 160.0, 160.0, 400.0, 430.0, 10.0, 20.0]
        lived = [studies.beat_study(c, study, now, LEASE) for now in beats]
        assert lived == [0.0, 30.0, 30.0, 60.0, 60.0, 60.0, 90.0, 90.0, 100.0]
        studies.save_sources(c, study, "abc", {"a.py": "x = 'é'\n", "b/c.py": ""})
        studies.save_sources(c, study, "abc", {"a.py": "something else"})
        assert studies.load_sources(c, study, "abc") == {"a.py": "x = 'é'\n", "b/c.py": ""}
    with pytest.raises(studies.DuplicateStudyError), writing(engine) as c:
        new_study(c, name="digits")


def test_numbers_grow_and_shrink_at_their_free_end(engine: Engine) -> None:
    """N can be raised and lowered; a number that was ever claimed stays."""
    with writing(engine) as c:
        study = new_study(c, n_trials=5)
        claim(c, study, 2)
        assert studies.drop_free_numbers(c, study, 1) == 2
        assert [row.number for row in trial_rows(c, study)] == [0, 2]
        studies.ensure_numbers(c, study, 4)
        assert [row.number for row in trial_rows(c, study)] == [0, 1, 2, 3]
        assert studies.drop_free_numbers(c, new_study(c), 0) is None


def test_a_trial_goes_through_its_life_and_a_stale_fence_writes_nothing(engine: Engine) -> None:
    """Claimed, taken over, closed, told; what the first owner writes afterwards is refused everywhere."""
    with writing(engine) as c:
        study = new_study(c)
        assert claims.claim_free(c, study, 3, 3, ELSEWHERE, LEASE) is None
        first = claim(c, study)
        assert first == Claim(0, TrialPhase.CLAIMED, 1, first.token, 1)
        assert claims.claim_free(c, study, 0, 3, ELSEWHERE, LEASE) is None
        assert claims.find_token(c, study, first.token) == first
        params = {"lr": 1e-320, "n": 3, "flag": True, "none": None, "name": "é\x00", "nan": NAN}
        claims.seal_params(c, study, 0, 1, params)
        (row,) = claims.claimable(c, study)
        assert str(row.params) == str(params)
        assert (row.owner, row.attempt, row.fence) == (ELSEWHERE, 1, 1)
        now = database_now(c)
        # Also where it cannot be read who it is: the lease decides.
        assert not any(claims.is_takeable(seen, now) for seen in (row, replace(row, owner=None)))
        assert claims.is_takeable(row, now + 2 * LEASE)
        claims.renew(c, study, 0, 1, 3 * LEASE)
        assert claims.release(c, study, 0, 1)
        (row,) = claims.claimable(c, study)
        assert claims.is_takeable(row, now)
        second = claims.retake(c, study, row, ELSEWHERE, LEASE)
        assert second is not None
        assert (second.fence, second.attempt) == (2, 2)
        assert claims.retake(c, study, row, ELSEWHERE, LEASE) is None
        assert claims.find_token(c, study, first.token) is None
        before = trial_row(c, study, 0)
    store = CheckpointStore(engine, study, packs_beside(engine.url))
    stale: list[Callable[[Connection], object]] = [
        lambda c: claims.check_fence(c, study, 0, 1),
        lambda c: claims.renew(c, study, 0, 1, LEASE),
        lambda c: claims.seal_params(c, study, 0, 1, {}),
        lambda c: claims.advance(c, study, 0, 1, 99),
        lambda c: claims.record_outcome(c, study, 0, 1, COMPLETE),
        lambda c: claims.mark_told(c, study, 0, 1),
        lambda c: records.insert_record(c, study, 0, 1, record(1)),
    ]
    for write in stale:
        with pytest.raises(LeaseLostError, match="claimed by another worker"), writing(engine) as c:
            write(c)
    with pytest.raises(LeaseLostError, match="claimed by another worker"):
        store.save(snapshot(1, [b"x"]), number=0, fence=1)
    with writing(engine) as c:
        assert claims.count_death(c, study, 0, 1) is None
        assert not claims.release(c, study, 0, 1)
        assert str(trial_row(c, study, 0)) == str(before)
        assert not records.records_of(c, study, 0)
        claims.record_outcome(c, study, 0, 2, COMPLETE)
        closing = trial_row(c, study, 0)
        assert closing is not None
        assert (closing.phase, closing.outcome, closing.examples_seen) == (TrialPhase.CLOSING, COMPLETE, 20)
        claims.mark_told(c, study, 0, 2)
        claims.record_outcome(c, study, 0, 2, COMPLETE)
        told = trial_row(c, study, 0)
        assert told is not None
        assert told.phase is TrialPhase.TOLD
        assert claims.retake(c, study, told, ELSEWHERE, LEASE) is None
        tally = {standing: count for standing, count in tallies.count_by_standing(c, study).items() if count}
        assert tally == {"free": 2, "complete": 1}
    assert not store.infos()


def test_closing_trials_are_claimed_first_and_without_a_new_attempt(engine: Engine) -> None:
    """They need no training: only to be told."""
    with writing(engine) as c:
        study = new_study(c, 4)
        for number in range(4):
            claim(c, study, number, lease=0.0)
        claims.record_outcome(c, study, 2, 1, COMPLETE)
        claims.record_outcome(c, study, 3, 1, replace(COMPLETE, ending=Ending.FAILED), TrialPhase.HELD)
        rows = claims.claimable(c, study)
        assert [row.number for row in rows] == [2, 0, 1]
        taken = [claims.retake(c, study, row, ELSEWHERE, LEASE) for row in rows[:2]]
        assert [(t.number, t.phase, t.attempt) for t in taken if t] == [
            (2, TrialPhase.CLOSING, 1),
            (0, TrialPhase.CLAIMED, 2),
        ]


def test_held_trials_end_or_run_again(engine: Engine) -> None:
    """A broken streak lets them be told; a fix lets them run again with nothing said about their end."""
    failed = Outcome(Ending.FAILED, None, None, 7, "ValueError: é", {"test": INF}, "Traceback\x00…")
    with writing(engine) as c:
        study = new_study(c)
        for number in range(2):
            claim(c, study, number)
            claims.record_outcome(c, study, number, 1, failed, TrialPhase.HELD)
        assert [row.outcome for row in claims.held(c, study)] == [failed, failed]
        assert claims.unhold(c, study, [0], TrialPhase.CLOSING) == 1
        assert claims.unhold(c, study, [0, 1], TrialPhase.CLAIMED) == 1
        closing, again = claims.claimable(c, study)
        assert (closing.number, closing.outcome, closing.lease_expires_at) == (0, failed, 0.0)
        assert (again.number, again.outcome, again.ended_at, again.lease_expires_at) == (1, None, None, 0.0)
        with pytest.raises(ValueError, match="not told"):
            claims.unhold(c, study, [0], TrialPhase.TOLD)


def test_deaths_count_until_there_is_progress(engine: Engine) -> None:
    """Three in a row are a poison trial; three with checkpoints between them are bad luck."""
    with writing(engine) as c:
        study = new_study(c)
        claim(c, study)
        assert [claims.count_death(c, study, 0, 1) for _ in range(2)] == [1, 2]
        claims.advance(c, study, 0, 1, 10)
        assert claims.count_death(c, study, 0, 1) == 1
        claims.advance(c, study, 0, 1, 10)
        claims.advance(c, study, 0, 1, 5)
        assert claims.count_death(c, study, 0, 1) == 2
        row = trial_row(c, study, 0)
        assert row is not None
        assert row.examples_seen == 10


def test_a_record_comes_back_exactly_and_there_is_one_of_each(engine: Engine) -> None:
    """Values that no database column could hold; a second record is refused and the transaction goes on."""
    metrics = {"nan": NAN, "inf": INF, "-inf": -INF, "tiny": 1e-320, "-0": -0.0, "third": 1 / 3}
    writes = (AttributeWrite("completed_rung_0", 0.1), AttributeWrite("x", {"1": [None, True, NAN]}))
    full = Record(Report(2, 2**40, metrics), Verdict.DIVERGED, False, writes, attempt=3)
    engine_study, _ = claimed_study(engine)
    with writing(engine) as c:
        records.insert_record(c, engine_study, 0, 1, full)
        with pytest.raises(records.DuplicateRecordError):
            records.insert_record(c, engine_study, 0, 1, record(2))
        records.insert_record(c, engine_study, 0, 1, record(1))
    with reading(engine) as c:
        first, second = records.records_of(c, engine_study, 0)
        assert first.report == record(1).report
        assert str(replace(second, recorded_at=0.0)) == str(full)
        assert abs(second.recorded_at - database_now(c)) < 60
        assert [(number, r.report.virtual_epoch) for number, r in records.all_records(c, engine_study)] == [
            (0, 1),
            (0, 2),
        ]


def test_events_and_logs_come_back_in_order(engine: Engine) -> None:
    """With host and process, whatever characters were printed."""
    with writing(engine) as c:
        study = new_study(c)
        for i in range(4):
            events.append_event(c, study, Event("claimed", i % 2, {"i": i, "é": NAN}))
        assert [event.details["i"] for event in events.events_of(c, study, newest=3)] == [1, 2, 3]
        assert [event.details["i"] for event in events.events_of(c, study, number=1)] == [1, 3]
        assert {"host", "pid"} < set(events.events_of(c, study)[0].details)
        for attempt, piece in ((1, "a\n"), (2, "c\ud800"), (1, "b\x00\U0001f600")):
            logs.append_log(c, study, LogChunk(5, attempt, piece))
        assert [chunk.text for chunk in logs.logs_of(c, study, 5)] == ["a\n", "b\ufffd\U0001f600", "c?"]


def test_a_state_comes_back_bit_by_bit_and_equal_bytes_are_stored_once(engine: Engine) -> None:
    """Empty tensors, equal ones, and more than a chunk of them; a further checkpoint stores what is new."""
    study, _ = claimed_study(engine)
    store = CheckpointStore(engine, study, packs_beside(engine.url))
    large = bytes(range(256)) * (blobs.CHUNK_BYTES // 256) + b"tail"
    tensors = [b"", b"abc", large, b"abc", bytes(1000)]
    first = store.save(snapshot(1, tensors, structure='{"é": "\ud800"}'), number=0, fence=1)
    again = store.save(snapshot(1, tensors, structure='{"é": "\ud800"}'), number=0, fence=1)
    second = store.save(snapshot(2, [large, b"new"]), number=0, fence=1)
    assert again == first
    assert store.infos(0) == store.infos() == [second, first]
    assert store.infos(1) == []
    state = store.load(first)
    assert [bytes(tensor) for tensor in state.tensors] == tensors
    assert state.structure == '{"é": "\ud800"}'
    assert state.tensors[1] is not state.tensors[3]
    with reading(engine) as c:
        sizes = c.execute(text("SELECT num_bytes FROM tunesafe_blobs ORDER BY num_bytes")).scalars().all()
        assert len(sizes) == len(set(tensors)) + 3
        assert sum(sizes) == len(large) + 3 + 1000 + 3 + len(state.structure.encode("utf-8", "surrogatepass")) + 2
        row = trial_row(c, study, 0)
        assert row is not None
        assert row.examples_seen == 20
    store.remove([first.checkpoint_id])
    assert [bytes(tensor) for tensor in store.load(second).tensors] == [large, b"new"]
    with pytest.raises(RemovedError, match="Nothing is damaged"):
        store.load(first)
    store.remove([second.checkpoint_id])
    with reading(engine) as c:
        for table in ("blobs", "blob_chunks", "checkpoints", "checkpoint_blobs"):
            assert c.execute(text(f"SELECT COUNT(*) FROM tunesafe_{table}")).scalar() == 0


def test_a_summary_counts_ranks_and_names_without_reading_everything(engine: Engine) -> None:
    """Counts by phase and ending, the best with ties to the lowest number, who works on what."""
    with writing(engine) as c:
        study = new_study(c, 8, name="digits", direction="maximize")
        ends = [0.5, 0.9, 0.9, None]
        for number, value in enumerate(ends):
            claim(c, study, number)
            claims.seal_params(c, study, number, 1, {"lr": number / 10})
            ending = Ending.PRUNED if value is None else Ending.COMPLETE
            claims.record_outcome(c, study, number, 1, Outcome(ending, value, 3, 30))
            claims.mark_told(c, study, number, 1)
        claim(c, study, 4, lease=0.0)
        (row,) = claims.claimable(c, study)
        claims.retake(c, study, row, ELSEWHERE, LEASE)
        claim(c, study, 5)
        claims.record_outcome(c, study, 5, 1, Outcome(Ending.FAILED, None, None, 5), TrialPhase.HELD)
        events.append_event(c, study, Event("claimed", 4, {}))
    with reading(engine) as c:
        summary = summarise(c, "digits")
        with pytest.raises(SpecError, match="Did you mean 'digits'"):
            summarise(c, "digit")
    assert summary.num_trials == sum(summary.phases.values()) == 8
    assert (summary.phases[TrialPhase.TOLD], summary.phases[TrialPhase.HELD]) == (4, 1)
    assert summary.endings == {Ending.COMPLETE: 3, Ending.PRUNED: 1, Ending.FAILED: 0}
    assert summary.best is not None
    assert (summary.best.number, summary.best.value, summary.best.params) == (1, 0.9, {"lr": 0.1})
    assert (summary.num_resumed, summary.num_attempts, summary.examples_seen) == (1, 7, 125)
    assert [(a.number, a.phase, a.owner) for a in summary.active] == [
        (4, TrialPhase.CLAIMED, ELSEWHERE),
        (5, TrialPhase.HELD, ELSEWHERE),
    ]
    assert 0 < summary.active[0].lease_seconds <= LEASE
    assert [event.kind for event in summary.events] == ["claimed"]


def test_a_reader_sees_what_is_committed_and_can_write_nothing(database_url: str, engine: Engine) -> None:
    """The database refuses it, not only our code."""
    with writing(engine) as c:
        new_study(c, name="digits")
    reader = read_only_engine(database_url)
    with reading(reader) as c:
        assert studies.study_names(c) == ["digits"]
    with pytest.raises(StorageError, match="cannot be written"), writing(reader) as c:
        new_study(c)
    reader.dispose()


def test_savers_and_sweepers_of_the_same_bytes_do_not_harm_each_other(engine: Engine) -> None:
    """Trials that share bytes save and forget at once, as many workers do; what is kept is whole."""
    shared = [bytes([i]) * 1000 for i in range(3)] + [b"large" * 300_000]
    with writing(engine) as c:
        study = new_study(c)
        fences = {number: claim(c, study, number).fence for number in range(3)}
    store = CheckpointStore(engine, study, packs_beside(engine.url))
    failures: list[BaseException] = []

    def everything(infos: Sequence[CheckpointInfo]) -> list[int]:
        return [info.checkpoint_id for info in infos]

    def work(number: int) -> None:
        draw = random.Random(number)
        try:
            for epoch in range(1, 7):
                tensors = draw.sample(shared, draw.randint(1, 4))
                info = store.save(snapshot(epoch, tensors), number=number, fence=fences[number], surplus=everything)
                assert store.infos(number) == [info]
                assert [bytes(tensor) for tensor in store.load(info).tensors] == tensors
        except BaseException as failure:  # noqa: BLE001  a thread's failure is the test's
            failures.append(failure)

    workers = [threading.Thread(target=work, args=(number,)) for number in fences]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    assert not failures
    assert len(store.infos()) == len(fences)


CLAIMER = """
import sys
from tests.unit.store.samples import ELSEWHERE
from tunesafe.store import claims
from tunesafe.store.engine import open_engine, writing
from tunesafe.store.faults import TransientStorageError
from tunesafe.store.trial_rows import trial_row

url, study, n_trials = sys.argv[1], sys.argv[2], int(sys.argv[3])
engine = open_engine(url)
for number in range(n_trials):
    while True:
        try:
            with writing(engine) as connection:
                claim = claims.claim_free(connection, study, number, n_trials, ELSEWHERE, 0.0)
                row = trial_row(connection, study, number)
            with writing(engine) as connection:
                retaken = claims.retake(connection, study, row, ELSEWHERE, 0.0)
            break
        except TransientStorageError:
            pass
    for taken in (claim, retaken):
        if taken:
            print(taken.number, taken.fence, flush=True)
"""


def test_processes_that_claim_at_once_never_hold_the_same_fence(database_url: str, engine: Engine) -> None:
    """Every claim of a number, first or later, has a fence of its own; no number is claimed free twice."""
    n_trials = 12
    with writing(engine) as c:
        study = new_study(c, n_trials)
    command = [sys.executable, "-c", CLAIMER, database_url, study, str(n_trials)]
    claimers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    taken = [line for claimer in claimers for line in claimer.communicate(timeout=200)[0].splitlines()]
    assert [claimer.returncode for claimer in claimers] == [0, 0, 0]
    assert len(taken) == len(set(taken))
    with reading(engine) as c:
        fences = {row.number: row.fence for row in trial_rows(c, study)}
    assert len(taken) == sum(fences.values())
    assert all(fence >= 2 for fence in fences.values())
