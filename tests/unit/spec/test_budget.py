from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.spec.texts import small
from tunesafe.errors import SpecError
from tunesafe.spec import Budget
from tunesafe.spec.reader import parse


@given(hundredths=st.integers(1, 10_000), examples_per_pass=st.integers(1, 10**7))
def test_sizes_are_exact_as_written(hundredths: int, examples_per_pass: int) -> None:
    """`0.29` of 100 is 29, from the file and from Python alike."""
    text = f"{hundredths // 100}.{hundredths % 100:02}"
    exact = parse(f"budget: {{passes: {text}}}", file="x", exact={("budget", "passes")}).data["budget"]["passes"]
    for passes in (exact, float(text), Decimal(text)):
        budget = small(budget={"passes": passes, "virtual_epochs": 1}).budget
        assert budget.total_examples(examples_per_pass) == hundredths * examples_per_pass // 100


@given(st.decimals(Decimal("1e-9"), Decimal("1e9")), st.integers(1, 10**12))
def test_the_total_is_the_floor_of_the_true_product(passes: Decimal, examples_per_pass: int) -> None:
    """No rounding, however many digits."""
    total = Budget(passes=passes, virtual_epochs=1).total_examples(examples_per_pass)
    assert total <= Fraction(passes) * examples_per_pass < total + 1


def test_a_budget_in_examples_does_not_ask_for_the_data() -> None:
    """The length of the training set is then only its own."""
    assert small(budget={"examples": 20_549, "virtual_epochs": 15}).budget.total_examples(7) == 20_549


@pytest.mark.parametrize(
    ("budget", "error"),
    [
        ({"examples": 10, "virtual_epochs": 11}, "budget.virtual_epochs must be at most 10"),
        ({"passes": 0.5, "examples_per_pass": 21, "virtual_epochs": 11}, "budget.virtual_epochs must be at most 10"),
        ({"passes": 0.1, "examples_per_pass": 3, "virtual_epochs": 1}, "budget.virtual_epochs must be at most 0"),
        ({"passes": 1, "virtual_epochs": 0}, "budget.virtual_epochs must be at least 1, found 0"),
        ({"passes": 1}, "budget has no 'virtual_epochs', which it needs"),
        ({"virtual_epochs": 1}, "budget has neither 'passes' nor 'examples'; give one of them"),
        ({"passes": 0, "virtual_epochs": 1}, "budget.passes must be above 0 and at most 1e9, found 0"),
        ({"passes": 1e10, "virtual_epochs": 1}, "budget.passes must be above 0 and at most 1e9, found 10000000000.0"),
        ({"passes": True, "virtual_epochs": 1}, "budget.passes must be a number, found true"),
        ({"passes": Fraction(1, 3), "virtual_epochs": 1}, "budget.passes must be plain data, found Fraction"),
        ({"examples": 1.5, "virtual_epochs": 1}, "budget.examples must be a whole number, found 1.5"),
        (7, "budget must be a mapping, found 7"),
    ],
)
def test_an_impossible_budget_is_refused(budget: object, error: str) -> None:
    """As soon as it can be known."""
    with pytest.raises(SpecError) as caught:
        small(budget=budget)
    assert str(caught.value).startswith(error)


def test_more_virtual_epochs_than_examples_wait_for_the_data_when_its_length_is_unknown() -> None:
    """The first trial settles it."""
    assert small(budget={"passes": 1, "virtual_epochs": 1000}).budget.examples_per_pass is None
