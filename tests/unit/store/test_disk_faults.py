"""A disk that is full or broken at one call after the other: what was there is whole, and the next attempt works.

Every open, write, sync, rename and removal, and every statement of SQLite, in turn; once, and from there on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from sqlalchemy import Engine

from tests.disk_faults import Fault, failing_disk, failing_sql, until_none_fails
from tests.unit.store.samples import claimed_study, open_ready, snapshot
from tunesafe.contracts import CheckpointInfo
from tunesafe.errors import DamagedError, StorageError
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.packs import PackFolder, packs_beside

LARGE = 1 << 20
WEIGHTS = {1}
ERRORS = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
LASTING = pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
LAYERS = pytest.mark.parametrize("layer", ["files", "statements"])


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """A database with our tables."""
    engine = open_ready(sqlite_url)
    yield engine
    engine.dispose()


class Bench:
    """A store in which every state is another one, and large.

    Args:
        engine: Of its database.
    """

    def __init__(self, engine: Engine) -> None:
        packs = packs_beside(engine.url)
        assert packs is not None
        self.packs: PackFolder = packs
        self.store = CheckpointStore(engine, claimed_study(engine)[0], packs)
        self._count = 0
        self.states: dict[int, list[bytes]] = {}

    def fault(self, layer: str, error: int, *, lasting: bool) -> Fault:
        """What fails, for the number of the call at which it does."""
        if layer == "files":
            return lambda at: failing_disk(at, error, self.packs.path.parent, lasting=lasting)
        return partial(failing_sql, error=error, lasting=lasting)

    def save(self, *, alone: bool = False) -> CheckpointInfo:
        """A new state; in the place of all others if it is to be alone."""
        self._count += 1
        state = [bytes([self._count % 256, part]) * (LARGE // 2) for part in range(3)]
        self.states[self._count] = state
        return self.store.save(
            snapshot(self._count, state, f"{{{self._count}}}"),
            number=0,
            fence=1,
            surplus=lambda infos: [info.checkpoint_id for info in infos] if alone else (),
        )

    def check(self) -> set[int]:
        """All that is named is what was saved, whole or its weights; which states that are."""
        there = set()
        for info in self.store.infos(0):
            found, saved = self.store.load(info), self.states[info.position.virtual_epoch]
            expected = [data if not info.weights_only or i in WEIGHTS else None for i, data in enumerate(saved)]
            assert [None if data is None else bytes(data) for data in found.tensors] == expected
            there.add(info.position.virtual_epoch)
        return there

    def check_space(self) -> None:
        """After a sweep nothing is left but what is named."""
        self.store.sweep_orphans(-1)
        named = sum(info.num_bytes for info in self.store.infos(0))
        stored = sum(file.stat().st_blocks * 512 for file in self.packs.path.iterdir())
        assert stored <= named + (1 << 16)


@contextmanager
def said() -> Iterator[list[StorageError]]:
    """A failure, if there is one, is of the one kind, and says what it was and that nothing else is harmed."""
    errors: list[StorageError] = []
    try:
        yield errors
    except StorageError as error:
        errors.append(error)
    for words in map(str, errors):
        assert any(what in words for what in ("no space left", "could not be", "failed")), words
        assert "unharmed" in words


@LAYERS
@LASTING
@ERRORS
def test_a_save_that_fails_anywhere_harms_nothing_and_succeeds_when_tried_again(
    error: int, lasting: bool, layer: str, engine: Engine
) -> None:
    """The states before it are whole, and it is there or not; without a message it is there."""
    bench = Bench(engine)
    bench.save()
    for failing in until_none_fails(bench.fault(layer, error, lasting=lasting), 4):
        before = bench.check()
        with failing, said() as errors:
            info = bench.save(alone=len(before) > 2)
        there = bench.check()
        if errors:
            assert there >= before or bench._count in there
        else:
            assert info.position.virtual_epoch in there
        bench.save(alone=True)
        assert bench.check() == {bench._count}
        bench.save()
    bench.check_space()


@LAYERS
@LASTING
@ERRORS
def test_what_is_given_up_is_whole_or_given_up_wherever_the_disk_fails(
    error: int, lasting: bool, layer: str, engine: Engine
) -> None:
    """Thinned, removed, swept: done in part is not done, and done again it is."""
    bench = Bench(engine)
    give_up: dict[str, Callable[[CheckpointInfo], object]] = {
        "thin": lambda info: bench.store.keep_weights(info, lambda structure: WEIGHTS),
        "remove": lambda info: bench.store.remove([info.checkpoint_id]),
        "sweep": lambda info: bench.store.sweep_orphans(-1),
    }
    for what, act in give_up.items():
        only_removals = what == "sweep" or (layer, error) == ("files", errno.ENOSPC)  # which a full disk does
        for failing in until_none_fails(bench.fault(layer, error, lasting=lasting), 0 if only_removals else 1):
            info, kept = bench.save(alone=True), bench.save()
            with failing, said(), suppress(DamagedError):  # a pack that cannot be read is given up by nobody
                act(info)
            assert bench.check() >= {kept.position.virtual_epoch}
            for left in bench.store.infos(0):
                if left.position == info.position:
                    act(left)
            assert bench.check() >= {kept.position.virtual_epoch}
            bench.check_space()
