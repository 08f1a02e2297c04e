"""Machines that are taken away: signals, timeouts, and what the same command makes of it."""

from __future__ import annotations

import signal

import pytest

from tests.crash.command import command
from tests.crash.harness import Check, Laboratory, Study
from tests.crash.places import PLACES
from tests.crash.variations import BASE, VARIATIONS, Variation

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

INTERRUPTED = 75
MID_EPOCH = next(variation for variation in VARIATIONS if variation.name == "mid epoch")
STATEFUL = next(variation for variation in VARIATIONS if variation.name == "all that has state")
NO_GRACE = Variation("no grace", {"grace": 0})
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")


def interrupt(study: Study, at: str, passing: int, by: str = "SIGTERM") -> str:
    """One run in which a signal comes at a failpoint; returns how its death is called in the table."""
    ended = study.run(failpoint=at, passing=passing, action=by)
    assert ended.code == INTERRUPTED, f"{ended.code}: {ended.output}"
    assert "run the same command again to continue" in ended.output
    return f"{by} at {at}:{passing}"


@pytest.mark.parametrize(
    "variation", [BASE, STATEFUL, pytest.param(MID_EPOCH, marks=pytest.mark.slow)], ids=lambda variation: variation.name
)
def test_an_interrupted_study_continues_and_trains_nothing_again(
    variation: Variation, lab: Laboratory, survived: Check
) -> None:
    """Three signals in a row, each inside a virtual epoch: nothing is lost, saved there or at its end."""
    lab.reference(variation)
    study = lab.study(variation)
    deaths = [interrupt(study, "train.batch", passing, by) for passing, by in zip((3, 7, 23), SIGNALS, strict=True)]
    survival = lab.conclude(study, deaths)
    survived(survival)
    assert sum(survival.lost) == 0


def test_a_signal_in_the_last_batch_of_a_virtual_epoch_lets_it_report(lab: Laboratory, survived: Check) -> None:
    """What user code keeps in plain variables over a virtual epoch is gone with the process: the report comes first."""
    reference = lab.reference(STATEFUL)
    study = lab.study(STATEFUL)
    per_epoch = sum(b.number == 0 and b.start < STATEFUL.virtual_epoch_examples for b in reference.batches)
    survived(lab.conclude(study, [interrupt(study, "train.batch", per_epoch)]))


@pytest.mark.slow
def test_without_grace_an_interruption_costs_what_a_crash_costs(lab: Laboratory, survived: Check) -> None:
    """``grace: 0`` leaves at once; what was trained since the last checkpoint is trained again."""
    lab.reference(NO_GRACE)
    study = lab.study(NO_GRACE)
    survival = lab.conclude(study, [interrupt(study, "train.batch", passing) for passing in (3, 9, 23)])
    survived(survival)
    assert sum(survival.lost) > 0


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", [name for name in PLACES if not name.startswith(("open.", "restore."))])
@pytest.mark.parametrize("variation", [BASE, MID_EPOCH], ids=lambda variation: variation.name)
def test_a_signal_at_any_place_leaves_a_study_that_continues(
    variation: Variation, failpoint: str, lab: Laboratory, survived: Check
) -> None:
    """Whatever is going on when it comes, the command ends in order, and its successor makes the same study."""
    reference = lab.reference(variation)
    passing = max(reference.passings[failpoint] // 2, 1)
    study = lab.study(variation)
    survived(lab.conclude(study, [interrupt(study, failpoint, passing)]))


def hang_in(study: Study, laboratory: Laboratory, number: int) -> None:
    """Have user code wait in the third batch of a trial's second virtual epoch."""
    starts = [batch.start for batch in laboratory.reference(study.variation).batches if batch.number == number]
    third = [start for start in starts if start >= study.variation.virtual_epoch_examples][2]
    (study.folder / "hang").write_text(f"{number} {third}")


@pytest.mark.parametrize(
    ("variation", "name"),
    [
        (BASE, "SIGTERM"),
        pytest.param(BASE, "SIGINT", marks=pytest.mark.slow),
        pytest.param(MID_EPOCH, "SIGTERM", marks=pytest.mark.slow),
        pytest.param(MID_EPOCH, "SIGUSR1", marks=pytest.mark.slow),
    ],
)
def test_the_real_command_leaves_in_order_when_a_signal_comes(
    variation: Variation, name: str, lab: Laboratory, survived: Check
) -> None:
    """A fresh process, a signal in the middle of a user's batch: exit 75, and nothing is trained again."""
    lab.reference(variation)
    study = lab.study(variation)
    hang_in(study, lab, number=0)
    with command(study) as running:
        running.wait_until_it_hangs()
        running.signal(signal.Signals[name])
        running.let_go_once_asked()
        code, words = running.wait()
    assert code == INTERRUPTED, words
    assert f"interrupted by {name}" in words
    survival = lab.conclude(study, [f"{name} to the command"])
    survived(survival)
    assert sum(survival.lost) == 0


def test_a_second_signal_leaves_at_once(lab: Laboratory, survived: Check) -> None:
    """User code that never comes back from its batch cannot hold the command; the trial goes on elsewhere."""
    lab.reference(BASE)
    study = lab.study(BASE)
    hang_in(study, lab, number=0)
    with command(study) as running:
        running.wait_until_it_hangs()
        running.signal(signal.SIGTERM)
        running.signal(signal.SIGINT)
        code, words = running.wait()
        assert code == INTERRUPTED, words
        running.let_go()
    survived(lab.conclude(study, ["second signal to the command"]))


@pytest.mark.slow
def test_a_worker_of_the_real_command_that_dies_is_replaced(lab: Laboratory, survived: Check) -> None:
    """No zygote: a supervised worker dies inside the transaction that saves a checkpoint; the command goes on."""
    lab.reference(BASE)
    study = lab.study(BASE)
    with command(study, TUNESAFE_FAILPOINT="checkpoint.in_transaction:4") as running:
        code, words = running.wait()
        assert code == 0, words
    assert "SIGKILL" in words
    survived(lab.compare(study, ["checkpoint.in_transaction in a worker"]))


def test_the_real_command_killed_with_its_worker_continues(lab: Laboratory, survived: Check) -> None:
    """SIGKILL to the supervisor, in the middle of a user's batch: its worker goes with it, its successor goes on."""
    lab.reference(BASE)
    study = lab.study(BASE)
    hang_in(study, lab, number=0)
    with command(study) as running:
        running.wait_until_it_hangs()
        running.signal(signal.SIGKILL)
        running.wait()
    (study.folder / "hang").unlink()
    survived(lab.conclude(study, ["SIGKILL to the command"]))


def test_a_timeout_pauses_and_a_higher_one_continues(lab: Laboratory, survived: Check) -> None:
    """Used up, it is exit 0 however often one asks; raised, the study goes on as if nothing had been."""
    lab.reference(BASE)
    study = lab.study(BASE)
    for _ in range(2):
        ended = study.run(options=["--set", "timeout=0.05"])
        assert ended.code == 0, ended.output
        assert "paused" in ended.output
    assert len(study.batches()) < len(lab.reference(BASE).batches)
    ended = study.run(options=["--set", "timeout=1h"])
    assert ended.code == 0, ended.output
    survival = lab.compare(study, ["timeout"])
    survived(survival)
    assert sum(survival.lost) == 0
