"""Killed at random instants, several times over, a study ends as if nothing had happened."""

from __future__ import annotations

import random

import pytest

from tests.crash.harness import Check, Laboratory, Survival
from tests.crash.variations import BASE, PRUNERS, SAMPLERS, VARIATIONS, Variation

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

EVERYTHING = (BASE, *SAMPLERS, *PRUNERS, *VARIATIONS)
DEATHS_EACH = 4  # of 28 kinds of study


def die_at_random(lab: Laboratory, variation: Variation, deaths: int, seed: int) -> list[Survival]:
    """Kill studies of one kind at random instants until so many deaths have happened.

    The instants are real ones: they fall inside transactions, imports, and the operating system.
    """
    drawn, survivals, left = random.Random(seed), [], deaths
    while left:
        study, died = lab.study(variation), 0
        while left:
            ended = study.run(kill_after=drawn.uniform(0.0, 0.5) * lab.reference(variation).seconds)
            if not ended.killed:
                assert ended.code == 0, ended.output
                break
            died, left = died + 1, left - 1
        survivals.append(lab.conclude(study, ["random instant"] * died))
    return survivals


def test_a_study_killed_at_random_instants_ends_identical(lab: Laboratory, survived: Check) -> None:
    """Six real deaths."""
    survived(die_at_random(lab, BASE, 6, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("variation", EVERYTHING, ids=lambda variation: variation.name)
def test_a_study_of_any_kind_killed_at_random_instants_ends_identical(
    variation: Variation, lab: Laboratory, survived: Check
) -> None:
    """More than a hundred real deaths in all."""
    assert len(EVERYTHING) * DEATHS_EACH >= 100
    survived(die_at_random(lab, variation, DEATHS_EACH, seed=1 + EVERYTHING.index(variation)))
