from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tunesafe.contracts import CheckpointInfo, Ending, Position
from tunesafe.store.retention import Direction, Keep, Loss, Need, TrialKeep, dispensable, surplus, to_be_thinned

EXAMPLES_PER_EPOCH = 10
Study = tuple[list[CheckpointInfo], dict[int, TrialKeep]]
directions: st.SearchStrategy[Direction] = st.sampled_from(["minimize", "maximize"])
everies = st.one_of(st.none(), st.integers(1, 3))
keeps = st.builds(Keep, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.booleans(), everies)
objectives = st.sampled_from([0.0, 1.0, 2.0, float("nan"), float("inf")])
positions = st.builds(
    lambda epoch, into: Position(EXAMPLES_PER_EPOCH * epoch + into, epoch),
    st.integers(0, 6),
    st.sampled_from([0, 0, 3]),
)


@st.composite
def studies(draw: st.DrawFn) -> Study:
    """Trials of every kind with checkpoints at boundaries and between them."""
    infos: list[CheckpointInfo] = []
    trials: dict[int, TrialKeep] = {}
    for number in range(draw(st.integers(0, 4))):
        ending = draw(st.sampled_from([None, *Ending]))
        history = draw(st.lists(objectives, max_size=6))
        curve = {Position(EXAMPLES_PER_EPOCH * (i + 1), i + 1): value for i, value in enumerate(history)}
        complete = ending is Ending.COMPLETE and history
        trials[number] = TrialKeep(ending, history[-1] if complete else None, len(history) if complete else None, curve)
        for position in sorted(draw(st.sets(positions, max_size=8))):
            infos.append(CheckpointInfo(len(infos) + 1, number, position, 100, 0.0))
    return draw(st.permutations(infos)), trials


def kept(study: Study, keep: Keep, direction: Direction) -> list[CheckpointInfo]:
    """What stays, newest first."""
    infos, trials = study
    gone = surplus(infos, trials, keep, direction)
    stays = [info for info in infos if info.checkpoint_id not in gone]
    return sorted(stays, key=lambda info: (info.position, info.number), reverse=True)


@given(studies(), keeps, directions)
def test_a_live_trial_keeps_its_newest_two(study: Study, keep: Keep, direction: Direction) -> None:
    """Whatever the rules say about finished ones: one to resume from, one to fall back on."""
    infos, trials = study
    stays = kept(study, keep, direction)
    for number, trial in trials.items():
        if trial.ending is None:
            newest = sorted((i for i in infos if i.number == number), key=lambda i: i.position, reverse=True)[:2]
            assert [info for info in stays if info.number == number][: len(newest)] == newest


@given(studies(), keeps, directions)
def test_pruned_and_failed_trials_keep_nothing(study: Study, keep: Keep, direction: Direction) -> None:
    """Their bytes go at once."""
    ended = {number for number, trial in study[1].items() if trial.ending in (Ending.PRUNED, Ending.FAILED)}
    assert not [info for info in kept(study, keep, direction) if info.number in ended]


@given(studies(), keeps, directions)
def test_retention_is_idempotent_and_blind_to_order(study: Study, keep: Keep, direction: Direction) -> None:
    """Asked again about what it kept, it gives up nothing more."""
    stays = kept(study, keep, direction)
    assert kept((stays[::-1], study[1]), keep, direction) == stays


@given(studies(), keeps, directions)
def test_asking_to_keep_more_never_loses_anything(study: Study, keep: Keep, direction: Direction) -> None:
    """Each rule only ever adds."""
    stays = {info.checkpoint_id for info in kept(study, keep, direction)}
    for more in (
        replace(keep, last=keep.last + 1),
        replace(keep, best=keep.best + 1),
        replace(keep, study_best=keep.study_best + 1),
        replace(keep, select_best=True),
        replace(keep, every=1),
    ):
        assert stays <= {info.checkpoint_id for info in kept(study, more, direction)}


@given(studies(), directions)
def test_a_complete_trial_keeps_no_more_than_it_is_asked_to(study: Study, direction: Direction) -> None:
    """One newest, one best."""
    stays = kept(study, Keep(last=1, best=1, study_best=0), direction)
    for number, trial in study[1].items():
        if trial.ending is Ending.COMPLETE:
            assert len([info for info in stays if info.number == number]) <= 2


@given(studies(), directions)
def test_the_best_trial_keeps_the_checkpoint_its_value_is_of(study: Study, direction: Direction) -> None:
    """What export uses survives the strictest rules."""
    infos, trials = study
    finite = {n: t.value for n, t in trials.items() if t.value is not None and abs(t.value) < 1e9}
    if not finite:
        return
    sign = 1 if direction == "minimize" else -1
    best = min(finite, key=lambda number: (sign * finite[number], number))
    selected = Position(EXAMPLES_PER_EPOCH * len(trials[best].objectives), len(trials[best].objectives))
    there = [info for info in infos if (info.number, info.position) == (best, selected)]
    stays = kept(study, Keep(last=0, best=0, study_best=1), direction)
    assert set(there) <= set(stays)
    assert all(info.number == best for info in stays if trials[info.number].ending is not None)


def test_the_best_checkpoint_is_at_a_boundary_and_the_earliest_on_a_tie() -> None:
    """A checkpoint part-way in a virtual epoch has no objective of its own."""
    infos = [
        CheckpointInfo(i, 0, position, 100, 0.0)
        for i, position in enumerate([Position(10, 1), Position(13, 1), Position(20, 2), Position(30, 3)])
    ]
    trial = TrialKeep(Ending.COMPLETE, 0.7, 3, {Position(10, 1): 0.5, Position(20, 2): 0.5, Position(30, 3): 0.7})
    assert surplus(infos, {0: trial}, Keep(last=0, best=1, study_best=0), "minimize") == {1, 2, 3}


def test_checkpoints_of_a_trial_nobody_described_are_kept() -> None:
    """Not knowing is no reason to delete."""
    assert surplus([CheckpointInfo(1, 7, Position(10, 1), 100, 0.0)], {}, Keep(0, 0, 0), "minimize") == set()


@given(studies(), keeps, st.integers(1, 3), directions)
def test_every_kth_boundary_stays_from_the_first_to_the_end(
    study: Study, keep: Keep, every: int, direction: Direction
) -> None:
    """In live trials as well, or it would be gone by the time they are over; part-way states are no boundaries."""
    infos, trials = study
    stays = kept(study, replace(keep, every=every), direction)
    for info in infos:
        trial = trials[info.number]
        at_boundary = info.position in trial.objectives
        if at_boundary and info.position.virtual_epoch % every == 0 and trial.ending in (None, Ending.COMPLETE):
            assert info in stays


@given(studies(), keeps)
def test_only_trials_that_are_complete_give_up_their_optimizers(study: Study, keep: Keep) -> None:
    """If that is what is asked for; and what has done so is not asked again."""
    infos, trials = study
    assert to_be_thinned(infos, trials, keep) == []
    wanted = replace(keep, weights_only=True)
    assert to_be_thinned(infos, trials, wanted) == [i for i in infos if trials[i.number].ending is Ending.COMPLETE]
    assert to_be_thinned([replace(info, weights_only=True) for info in infos], trials, wanted) == []


def given_up(study: Study, keep: Keep, direction: Direction) -> list[Loss]:
    """Everything that can be."""
    return dispensable(*study, keep, direction)


@given(studies(), keeps, directions)
def test_without_room_the_essential_stays(study: Study, keep: Keep, direction: Direction) -> None:
    """A live trial's newest two, its best where that is what counts, and what the study's best value is of."""
    infos, trials = study
    gone = {loss.info.checkpoint_id for loss in given_up(study, keep, direction)}
    stays = kept(study, keep, direction)
    for number, trial in trials.items():
        own = [info for info in stays if info.number == number]
        if trial.ending is None:
            assert not gone & {info.checkpoint_id for info in own[:2]}
            at = [info for info in own if abs(trial.objectives.get(info.position, float("nan"))) < 1e9]
            sign = 1 if direction == "minimize" else -1
            best = min(at, key=lambda info: (sign * trial.objectives[info.position], info.position), default=None)
            assert not (keep.select_best and best is not None and best.checkpoint_id in gone)
    least = kept(study, Keep(last=0, best=0, study_best=1), direction)
    most = {info.checkpoint_id for info in infos if trials[info.number].ending is not None and info in least}
    assert not gone & (most & {info.checkpoint_id for info in stays})


@given(studies(), keeps, directions)
def test_what_nobody_asked_for_goes_first_and_each_thing_once(study: Study, keep: Keep, direction: Direction) -> None:
    """Then optimizers of trials that are over; then more and more of what was asked for, worse trials first."""
    losses = given_up(study, keep, direction)
    assert [loss.need for loss in losses] == sorted(loss.need for loss in losses)
    surplus_ids = surplus(study[0], study[1], keep, direction)
    assert {loss.info.checkpoint_id for loss in losses if loss.need is Need.NONE} == surplus_ids
    whole = [loss.info.checkpoint_id for loss in losses if loss.need is not Need.STATE]
    assert len(whole) == len(set(whole))
    thin = {loss.info.checkpoint_id for loss in losses if loss.need is Need.STATE}
    assert thin <= set(whole) - surplus_ids
    assert all(study[1][loss.info.number].ending is Ending.COMPLETE for loss in losses if loss.need is Need.STATE)
    sign = 1 if direction == "minimize" else -1
    for need in (Need.SPARE, Need.SELECTED, Need.STUDY_BEST):
        values = [study[1][loss.info.number].value for loss in losses if loss.need is need]
        finite = [sign * value for value in values if value is not None and abs(value) < 1e9]
        assert finite == sorted(finite, reverse=True)


def test_the_order_in_which_a_study_gives_up_what_it_keeps() -> None:
    """Of a far trial and of the best one; every second, the last, the best and what the value is of."""
    curve = {Position(10 * epoch, epoch): value for epoch, value in enumerate([4.0, 1.0, 3.0, 2.0], start=1)}
    trials = {number: TrialKeep(Ending.COMPLETE, value, 4, curve) for number, value in enumerate([2.0, 9.0, 5.0])}
    trials[3] = TrialKeep(None, objectives=curve)
    infos = [
        CheckpointInfo(10 * number + epoch, number, Position(10 * epoch, epoch), 100, 0.0, weights_only=True)
        for number in trials
        for epoch in (1, 2, 3, 4)
    ]
    keep = Keep(last=2, best=1, study_best=2, every=1)
    losses = dispensable(infos, trials, keep, "minimize")
    assert [(loss.need, loss.rule, loss.info.checkpoint_id) for loss in losses] == [
        (Need.EVERY, "every", 11), (Need.EVERY, "every", 21), (Need.EVERY, "every", 1), (Need.EVERY, "every", 31),
        (Need.SPARE, "best", 12), (Need.SPARE, "last", 13), (Need.SPARE, "best", 22), (Need.SPARE, "last", 23),
        (Need.SPARE, "best", 2), (Need.SPARE, "last", 3),
        (Need.SELECTED, "selected", 14), (Need.STUDY_BEST, "study_best", 24), (Need.LIVE_BEST, "best", 32),
    ]  # fmt: skip
