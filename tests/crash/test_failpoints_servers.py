"""The same deaths on a database server, where a transaction outlives its process by a moment."""

from __future__ import annotations

import pytest

from tests.crash.harness import Check, Kill, Laboratory
from tests.crash.places import ON_SERVERS, SERVERS, deaths_at, in_turn, one_now
from tests.crash.variations import BASE, VARIATIONS, Variation

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

FEW = (
    "open.schema",
    "open.study",
    "claim.in_transaction",
    "report.in_transaction",
    "checkpoint.in_transaction",
    "finish.recorded",
    "tell.in_transaction",
)
"""Inside every kind of transaction, and between ours and Optuna's."""


def test_a_study_on_a_server_that_dies_again_and_again_ends_identical(
    server_url: str, lab: Laboratory, survived: Check
) -> None:
    """Seven deaths in one study, compared with one on SQLite that nothing happened to."""
    survived(lab.kill_at(BASE, [Kill(failpoint) for failpoint in FEW], server_url))


@pytest.mark.parametrize("server_url", one_now(SERVERS, "postgres"), indirect=True)
def test_a_study_on_a_server_with_its_large_states_elsewhere_ends_identical(
    server_url: str, lab: Laboratory, survived: Check
) -> None:
    """Between the object that is durable and the row that names it, in every other transaction, and when bytes go."""
    elsewhere = next(variation for variation in VARIATIONS if variation.name == "blobs elsewhere")
    places = ("pack.durable", "checkpoint.in_transaction", "checkpoint.committed", "restore.after", "checkpoint.swept")
    survived(lab.kill_at(elsewhere, [Kill(failpoint) for failpoint in places], server_url))


FORGETFUL = {
    "thinned": next(variation for variation in VARIATIONS if variation.name == "weights only"),
    "thinned, elsewhere": Variation(
        "weights only, elsewhere",
        {"checkpoint": {"keep": {"last": 1, "best": 1, "every": 2, "finished": "weights"}}, "blobs": "blobs"},
    ),
}
FORGETTING = [
    Kill(failpoint, passing)
    for passing in (1, 2, 3)
    for failpoint in ("forget.in_transaction", "forget.committed", "checkpoint.swept")
]


@pytest.mark.parametrize("server_url", one_now(SERVERS, "mariadb"), indirect=True)
@pytest.mark.parametrize("kind", one_now(list(FORGETFUL), "thinned"))
def test_a_study_on_a_server_that_dies_while_it_forgets_ends_identical(
    kind: str, server_url: str, lab: Laboratory, survived: Check
) -> None:
    """Inside the transaction, before the bytes go and after: rows, chunks and objects are those of a calm study."""
    survived(lab.kill_at(FORGETFUL[kind], FORGETTING, server_url))


@pytest.mark.slow
def test_one_study_on_a_server_that_dies_at_every_failpoint_in_turn_ends_identical(
    server_url: str, lab: Laboratory, survived: Check
) -> None:
    """None is left out."""
    survived(lab.kill_at(BASE, [Kill(failpoint) for failpoint in in_turn() if failpoint in ON_SERVERS], server_url))


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", ON_SERVERS)
def test_a_study_on_a_server_killed_once_at_a_failpoint_ends_identical(
    failpoint: str, server_url: str, lab: Laboratory, survived: Check
) -> None:
    """One death per study, in the middle of it."""
    survived(lab.kill_at(BASE, deaths_at(failpoint, "middle", lab.reference(BASE)), server_url))
