"""Which checkpoints a running study still has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.unit.study.studies import PRUNED, RAISED, Desk, complete, opened
from tunesafe.contracts import Claim, Outcome, Position, Snapshot, TensorBytes, TrialPhase
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.packs import packs_beside
from tunesafe.study.retaining import Retainer, Unneeded, unneeded_of_ended

MODULE = '{"$ordered": [["w", {"$tensor": {"of": 0}}]], "attributes": [["_metadata", {}]]}'


def state(virtual_epoch: int, weights: bytes) -> Snapshot:
    """A module and an optimizer at a boundary."""
    parts = [("model/w", weights), ("optimizer/w", b"average of " + weights)]
    tensors = [TensorBytes(path, "uint8", (len(data),), memoryview(data)) for path, data in parts]
    structure = f'{{"tree": {{"model": {MODULE}, "optimizer": {{"$tensor": {{"of": 1}}}}, "at": {virtual_epoch}}}}}'
    return Snapshot(Position(10 * virtual_epoch, virtual_epoch), structure, tuple(tensors))


class Trainer:
    """Saves, reports and ends trials as a worker does."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.checkpoints = CheckpointStore(desk.engine, desk.uuid, packs_beside(desk.engine.url))
        self._retainer = Retainer(desk.study, self.checkpoints)

    def save(self, claim: Claim, virtual_epoch: int, data: bytes) -> None:
        """One checkpoint, with what it makes superfluous."""
        surplus = self._retainer.of_live(claim.number, self.desk.records(claim.number))
        self.checkpoints.save(state(virtual_epoch, data), number=claim.number, fence=claim.fence, surplus=surplus)

    def train(self, *values: float) -> Claim:
        """A trial that reports and saves at every boundary."""
        claim = self.desk.claim()
        for virtual_epoch, value in enumerate(values, start=1):
            self.desk.report(claim, value)
            self.save(claim, virtual_epoch, f"{claim.number} {virtual_epoch}".encode())
        return claim

    def end(self, claim: Claim, outcome: Outcome) -> None:
        """Its end, told unless it raised."""
        if self.desk.ledger.finish(claim, outcome) is TrialPhase.CLOSING:
            self.desk.ledger.close(claim)
            self._retainer.after_end(claim.number)

    def thinned(self) -> dict[int, list[int]]:
        """Virtual epochs of the checkpoints of which only the weights are left, by trial."""
        return self.kept(weights_only=True)

    def kept(self, *, weights_only: bool = False) -> dict[int, list[int]]:
        """Virtual epochs of the checkpoints there are, by trial."""
        found: dict[int, list[int]] = {}
        for info in self.checkpoints.infos():
            if info.weights_only or not weights_only:
                found.setdefault(info.number, []).append(info.position.virtual_epoch)
        return {number: sorted(epochs) for number, epochs in sorted(found.items())}


@contextmanager
def training(url: str, **changes: Any) -> Iterator[Trainer]:
    """A study to be trained."""
    with opened(url, n_trials=4, **changes) as study:
        yield Trainer(Desk(study))


def objective(select: str) -> dict[str, str]:
    """The objective, with checkpoint selection."""
    return {"metric": "loss", "direction": "minimize", "select": select}


@pytest.mark.parametrize(
    ("select", "kept"),
    [("last", [3, 4]), ("best", [1, 3, 4])],
)
def test_a_live_trial_keeps_its_newest_two(select: str, kept: list[int], sqlite_url: str) -> None:
    """One to resume from and one to fall back on; and its best, where that is what counts."""
    with training(sqlite_url, objective=objective(select), checkpoint={"keep": {"best": 0}}) as trainer:
        trainer.train(1.0, 4.0, 3.0, 2.0)
        assert trainer.kept() == {0: kept}


def test_a_live_trial_keeps_the_best_it_will_be_asked_for(sqlite_url: str) -> None:
    """The best virtual epoch of a complete trial is kept by default: it must not be gone by then."""
    with training(sqlite_url, objective=objective("last")) as trainer:
        trainer.train(1.0, 4.0, 3.0, 2.0)
        assert trainer.kept() == {0: [1, 3, 4]}


@pytest.mark.parametrize("outcome", [PRUNED, RAISED])
def test_what_was_pruned_keeps_nothing_and_what_is_held_keeps_its_state(outcome: Outcome, sqlite_url: str) -> None:
    """A held trial may run again, from where it was."""
    with training(sqlite_url) as trainer:
        trainer.end(trainer.train(1.0, 2.0), outcome)
        assert trainer.kept() == ({} if outcome is PRUNED else {0: [1, 2]})


def test_a_complete_trial_keeps_what_the_study_file_asks_for(sqlite_url: str) -> None:
    """Its last and its best virtual epoch, by default."""
    with training(sqlite_url, objective=objective("best")) as trainer:
        trainer.end(trainer.train(4.0, 1.0, 3.0, 2.0), complete(1.0))
        assert trainer.kept() == {0: [2, 4]}


def test_the_studys_best_keeps_its_place_until_it_is_displaced(sqlite_url: str) -> None:
    """``keep: {last: 0, best: 0, study_best: 1}``: one trial of the whole study has a checkpoint, the best."""
    keep = {"keep": {"last": 0, "best": 0, "study_best": 1}}
    with training(sqlite_url, checkpoint=keep) as trainer:
        for value, best in ((3.0, 0), (2.0, 1), (2.0, 1), (1.0, 3)):  # a tie goes to the lower number
            trainer.end(trainer.train(9.0, 9.0, 9.0, value), complete(value))
            assert trainer.kept() == {best: [4]}


def test_what_is_kept_can_be_loaded(sqlite_url: str) -> None:
    """Removing one trial's surplus takes no bytes from another that shares them."""
    with training(sqlite_url) as trainer:
        claims = [trainer.desk.claim() for _ in range(2)]
        for claim in claims:
            for virtual_epoch in (1, 2, 3, 4):
                trainer.save(claim, virtual_epoch, b"frozen")
        trainer.end(claims[0], PRUNED)
        assert trainer.kept() == {1: [3, 4]}
        infos = trainer.checkpoints.infos(1)
        assert [bytes(trainer.checkpoints.load(info).tensors[0]) for info in infos] == [b"frozen"] * 2


def test_by_hand_only_what_trials_that_are_over_need_not_keep_is_named(sqlite_url: str) -> None:
    """Claimed, held and closing trials keep everything, whatever the rules say."""
    every = {"keep": {"last": 4, "best": 4, "study_best": 1}}
    with training(sqlite_url, checkpoint=every) as trainer:
        trainer.end(trainer.train(4.0, 1.0, 3.0, 2.0), complete(2.0))
        trainer.end(trainer.train(4.0, 1.0, 3.0, 9.0), complete(9.0))
        trainer.end(trainer.train(5.0, 5.0), RAISED)
        closing = trainer.train(1.0, 1.0, 1.0, 1.0)
        trainer.desk.ledger.finish(closing, complete(1.0))
        before = trainer.kept()
        assert {number: before[number] for number in (0, 1, 2)} == {0: [1, 2, 3, 4], 1: [1, 2, 3, 4], 2: [1, 2]}
        uuid, spec = trainer.desk.uuid, trainer.desk.study.spec
        assert unneeded_of_ended(trainer.desk.engine, uuid, spec, trainer.checkpoints) == Unneeded((), ())
        fewer = spec.model_copy(
            update={
                "checkpoint": spec.checkpoint.model_copy(update={"keep": type(spec.checkpoint.keep)(last=1, best=0)})
            }
        )
        unwanted = unneeded_of_ended(trainer.desk.engine, uuid, fewer, trainer.checkpoints).surplus
        trainer.checkpoints.remove([info.checkpoint_id for info in unwanted])
        assert trainer.kept() == {**before, 0: [4], 1: [4]}
        assert unneeded_of_ended(trainer.desk.engine, uuid, fewer, trainer.checkpoints) == Unneeded((), ())


def test_every_kth_virtual_epoch_is_kept_for_who_looks_back(sqlite_url: str) -> None:
    """While the trial lives, too; of pruned trials nothing stays."""
    with training(sqlite_url, checkpoint={"keep": {"last": 0, "best": 0, "study_best": 0, "every": 2}}) as trainer:
        claim = trainer.train(1.0, 1.0, 1.0, 1.0)
        assert trainer.kept() == {0: [2, 3, 4]}
        trainer.end(claim, complete(1.0))
        trainer.end(trainer.train(2.0, 2.0, 2.0, 2.0), PRUNED)
        assert trainer.kept() == {0: [2, 4]}


def test_finished_trials_keep_their_weights_and_all_others_everything(sqlite_url: str) -> None:
    """A claimed, a held and a closing trial may go on, or are not over yet."""
    with training(sqlite_url, checkpoint={"keep": {"finished": "weights"}}) as trainer:
        trainer.end(trainer.train(4.0, 1.0, 3.0, 2.0), complete(2.0))
        assert (trainer.kept(), trainer.thinned()) == ({0: [2, 4]}, {0: [2, 4]})
        trainer.end(trainer.train(5.0, 5.0), RAISED)
        trainer.desk.ledger.finish(trainer.train(1.0, 1.0, 1.0, 1.0), complete(0.5))
        trainer.train(1.0)
        assert trainer.thinned() == {0: [2, 4]}
        thin = trainer.checkpoints.load(trainer.checkpoints.infos(0)[0])
        assert thin.tensors == (b"0 4", None)


def test_what_a_worker_died_over_the_next_one_does(sqlite_url: str) -> None:
    """Between a trial's end and its surplus: nobody looks at that trial again but who tidies up."""
    with training(sqlite_url, checkpoint={"keep": {"finished": "weights"}}) as trainer:
        for outcome in (complete(1.0), PRUNED):
            claim = trainer.train(4.0, 1.0, 3.0, 2.0)
            trainer.desk.ledger.finish(claim, outcome)
            trainer.desk.ledger.close(claim)
        assert trainer.kept() == {0: [2, 3, 4], 1: [2, 3, 4]}
        Retainer(trainer.desk.study, trainer.checkpoints).tidy_up()
        assert (trainer.kept(), trainer.thinned()) == ({0: [2, 4]}, {0: [2, 4]})


def test_rules_that_changed_are_not_applied_to_what_is_tidied(sqlite_url: str) -> None:
    """Nobody who lowers a number in the study file loses what older trials were asked to keep, but by hand."""
    with training(sqlite_url) as trainer:
        trainer.end(trainer.train(4.0, 1.0, 3.0, 2.0), complete(2.0))
    with training(sqlite_url, checkpoint={"keep": {"last": 0, "best": 0, "study_best": 0}}) as trainer:
        Retainer(trainer.desk.study, trainer.checkpoints).tidy_up()
        assert trainer.kept() == {0: [2, 4]}
