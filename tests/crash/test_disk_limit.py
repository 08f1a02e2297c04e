"""A study that may not store what it is asked to keep, killed while it gives some of it up."""

from __future__ import annotations

import pytest

from tests.crash.harness import Kill, Laboratory
from tests.crash.outcome import differences
from tests.crash.variations import Variation

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

KEPT = {"keep": {"last": 2, "best": 2, "study_best": 2, "every": 1}}
ROOMY = Variation("room for all", {"checkpoint": KEPT})
LIMITED = Variation("disk limit", {"checkpoint": KEPT, "disk_limit": "60KB"})
DEATHS = (
    Kill("forget.in_transaction", 2),
    Kill("checkpoint.committed", 3),
    Kill("forget.committed", 4),
    Kill("tell.after"),
    Kill("checkpoint.swept", 5),
    Kill("forget.in_transaction"),
)


def test_a_limit_changes_what_is_kept_and_nothing_else(lab: Laboratory) -> None:
    """Killed or not: the same trials, values and decisions as with room for all, and what is left is the same bits."""
    check(lab)


@pytest.mark.slow
def test_a_limit_on_a_server_changes_what_is_kept_and_nothing_else(lab: Laboratory, server_url: str) -> None:
    """The collector's transactions are others there: what is forgotten goes after the commit, in one of its own."""
    check(lab, server_url)


def check(lab: Laboratory, storage: str | None = None) -> None:
    """A limited study that dies again and again, compared with one that has room for all."""
    roomy = dict(lab.reference(ROOMY).outcome)
    study = lab.study(LIMITED, storage)
    for kill in DEATHS:
        study.run_and_die(kill)
    study.finish()
    limited = study.outcome()
    everything, kept = roomy.pop("checkpoints"), limited.pop("checkpoints")
    assert differences(roomy, limited) == []
    num_kept = sum(map(len, kept.values()))
    assert 0 < num_kept < sum(map(len, everything.values()))
    for number, states in kept.items():
        for position, state in states.items():
            whole = everything[number][position]
            assert state["structure"] == whole["structure"]
            pairs = zip(state["tensors"], whole["tensors"], strict=True)
            assert all(data in (None, expected) for data, expected in pairs)
    best = max(kept[str(limited["best"])], key=lambda position: int(position.split()[1]))
    assert None not in kept[str(limited["best"])][best]["tensors"]
