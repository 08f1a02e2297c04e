"""The parameters of a study: what is searched, between which bounds, under which conditions.

A parameter is a range, a list of choices, or a bare constant. ``when`` makes it conditional
on others; it is then absent from a trial's parameters while a condition does not hold.
Everything here is a pure function of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from tunesafe.contracts import Parameter
from tunesafe.spec.faults import WRITTEN, Fault, KeyPath, nearest, raise_faults, refuse, unknown_key
from tunesafe.spec.values import Scalar, Section, name_pattern, same_scalar, why_no_name

__all__ = [
    "CategoricalParameter",
    "FloatParameter",
    "IntParameter",
    "ParameterSpec",
    "Parameters",
    "Searched",
    "condition_faults",
    "holds",
    "sampling_order",
]

_TYPES = ("float", "int", "categorical")
_IN_NAMES = "/. -"
_EXACT_INT = 2**53  # Optuna stores every value as a double


def _to_tuple(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


_Values = Annotated[
    tuple[Scalar, ...],
    Field(strict=False, min_length=1),
    BeforeValidator(_to_tuple, json_schema_input_type=Scalar | list[Scalar]),
]


class _Searched(Section):
    when: dict[str, _Values] = Field(default_factory=dict)
    """Conditions: the parameter exists while every named one has the value, or one of the values, given."""


class _Numeric(_Searched):
    low: float
    """Lowest value."""
    high: float
    """Highest value."""
    step: float | None
    log: bool = False
    """Search on a logarithmic scale."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.low > self.high:
            text = f"must not be above high, found low {WRITTEN} and high {WRITTEN}"
            refuse(text, "low", echoes=(("low",), ("high",)))
        if self.log and self.low <= 0:
            refuse(f"must be above 0 with log: true, found {WRITTEN}", "low")
        if self.log and self.step != type(self).model_fields["step"].default:
            refuse("cannot be given together with log: true; leave one of them out", "step")
        return self

    def values_in_words(self, at: KeyPath) -> tuple[str, tuple[KeyPath, ...]]:
        """For errors: which values it may have, with ``WRITTEN`` for the values at the returned key paths."""
        has_steps = self.step not in {None, 1}
        text = f"between {WRITTEN} and {WRITTEN}" + f" in steps of {WRITTEN}" * has_steps
        return text, ((*at, "low"), (*at, "high"), *[(*at, "step")] * has_steps)

    def _num_steps(self, value: float) -> Fraction:
        """Distance from low in steps, exact in the decimals of the file."""
        return (Fraction(repr(value)) - Fraction(repr(self.low))) / Fraction(repr(self.step or 1))

    def _contains(self, value: float) -> bool:
        return self.low <= value <= self.high and (self.step is None or self._num_steps(value).denominator == 1)


class FloatParameter(_Numeric):
    """A real number between two bounds, both included."""

    type: Literal["float"]
    """A real number."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Distance between neighbouring values, from low on; any value unless given."""

    @property
    def highest(self) -> float:
        """The highest value there is: high, or the last step not above it."""
        if self.step is None:
            return self.high
        return float(Fraction(repr(self.low)) + math.floor(self._num_steps(self.high)) * Fraction(repr(self.step)))

    def accepts(self, value: Parameter) -> bool:
        """Whether a trial can have this value; whole numbers count as real ones."""
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self._contains(float(value))


_ExactInt = Annotated[int, Field(ge=-_EXACT_INT, le=_EXACT_INT)]


class IntParameter(_Numeric):
    """A whole number between two bounds, both included."""

    type: Literal["int"]
    """A whole number."""
    low: _ExactInt
    """Lowest value."""
    high: _ExactInt
    """Highest value."""
    step: Annotated[int, Field(ge=1)] = 1
    """Distance between neighbouring values, from low on."""

    @property
    def highest(self) -> int:
        """The highest value there is: high, or the last step not above it."""
        return self.high - (self.high - self.low) % self.step

    def accepts(self, value: Parameter) -> bool:
        """Whether a trial can have this value."""
        return isinstance(value, int) and not isinstance(value, bool) and self._contains(value)


class CategoricalParameter(_Searched):
    """One of several values without an order."""

    type: Literal["categorical"]
    """One of several values."""
    choices: Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1)]
    """The values: text, numbers, true, false or null."""

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        for index, choice in enumerate(self.choices):
            # Compared as Optuna compares them: it could not tell 1, 1.0 and true apart.
            if choice in self.choices[:index]:
                first = self.choices.index(choice)
                same = same_scalar(self.choices[first], choice)
                hint = "" if same else ", equal to it in Python; make one of them text"
                echoes = ("choices", index), ("choices", first)
                refuse(f"is {WRITTEN}, which repeats {WRITTEN}{hint}", "choices", index, echoes=echoes)
        return self

    def accepts(self, value: Parameter) -> bool:
        """Whether a trial can have this value: one of the choices, of the same type."""
        return any(same_scalar(value, choice) for choice in self.choices)

    def values_in_words(self, at: KeyPath) -> tuple[str, tuple[KeyPath, ...]]:
        """For errors: which values it may have, with ``WRITTEN`` for the values at the returned key paths."""
        echoes = tuple((*at, "choices", index) for index in range(len(self.choices)))
        return "one of " + ", ".join([WRITTEN] * len(echoes)), echoes


Searched = FloatParameter | IntParameter | CategoricalParameter
"""A parameter that Optuna searches."""


def _check_shape(value: Any) -> Any:
    if isinstance(value, Mapping):
        kind = value.get("type")
        if "type" not in value:
            refuse(f"has no 'type', which it needs; types: {', '.join(_TYPES)}")
        if kind not in _TYPES:
            refuse(f"must be float, int or categorical, found {WRITTEN}{nearest(kind, _TYPES, what='types')}", "type")
    elif isinstance(value, (list, tuple)):
        refuse("is a list; to search over it write {type: categorical, choices: [...]}")
    return value


def _tag(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value["type"])
    return value.type if isinstance(value, Searched) else "constant"


ParameterSpec = Annotated[
    Annotated[FloatParameter, Tag("float")]
    | Annotated[IntParameter, Tag("int")]
    | Annotated[CategoricalParameter, Tag("categorical")]
    | Annotated[Scalar, Tag("constant")],
    Discriminator(_tag),
    BeforeValidator(_check_shape),
]
"""One entry of ``parameters``: a mapping is searched, a bare scalar is a constant."""


def _check_names(value: Any) -> Any:
    if isinstance(value, Mapping):
        unusable = {name: why for name in value if (why := why_no_name(name, _IN_NAMES))}
        if unusable:
            raise_faults([Fault(f"; {why}", (name,), key_is="unusable name") for name, why in unusable.items()])
    return value


Parameters = Annotated[
    dict[str, ParameterSpec],
    BeforeValidator(_check_names),
    Field(json_schema_extra={"propertyNames": {"pattern": name_pattern(_IN_NAMES)}}),
]
"""All parameters by name, in file order."""


def condition_faults(parameters: Mapping[str, Searched | Parameter]) -> list[Fault]:
    """What is wrong with the ``when`` of some parameters: unknown names, impossible values, circles."""
    faults: list[Fault] = []
    for name, parameter in parameters.items():
        if not isinstance(parameter, Searched):
            continue
        for other, values in parameter.when.items():
            at = ("parameters", name, "when", other)
            if other not in parameters:
                faults.append(unknown_key(at, parameters, "parameter"))
                continue
            target = parameters[other]
            if not isinstance(target, Searched):
                continue  # a constant may be meant to be overridden (--set): any value can be waited for
            words, echoes = target.values_in_words(("parameters", other))
            for index, value in enumerate(values):
                if not target.accepts(value):
                    text = f"can never be {WRITTEN}: '{other}' is {words}"
                    faults.append(Fault(text, at, echoes=((*at, index), *echoes)))
    if not faults:
        circle = _order(parameters)[1]
        if circle:
            text = f"goes in a circle: {' -> '.join([*circle, circle[0]])}"
            faults.append(Fault(text, ("parameters", circle[0], "when")))
    return faults


def sampling_order(parameters: Mapping[str, Searched | Parameter]) -> tuple[str, ...]:
    """The searched parameters, each after those its ``when`` names, otherwise in file order."""
    return _order(parameters)[0]


def _order(parameters: Mapping[str, Searched | Parameter]) -> tuple[tuple[str, ...], list[str]]:
    """The order of sampling, and the names that wait for each other, if any."""
    waiting = {name: parameter.when for name, parameter in parameters.items() if isinstance(parameter, Searched)}
    order: list[str] = []
    while waiting:
        ready = next((name for name, when in waiting.items() if not any(other in waiting for other in when)), None)
        if ready is None:
            return tuple(order), _circle(waiting)
        order.append(ready)
        del waiting[ready]
    return tuple(order), []


def _circle(waiting: Mapping[str, Iterable[str]]) -> list[str]:
    """One circle among parameters that all wait for another of them."""
    path = [next(iter(waiting))]
    while True:
        following = next(other for other in waiting[path[-1]] if other in waiting)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def holds(when: Mapping[str, tuple[Parameter, ...]], params: Mapping[str, Parameter]) -> bool:
    """Whether all conditions hold among the parameters so far; one that is absent has no value."""
    return all(name in params and any(_equal(params[name], value) for value in values) for name, values in when.items())


def _equal(one: Parameter, other: Parameter) -> bool:
    # A float parameter that is 1.0 meets `when: {momentum: 1}`; true and 1 stay two values.
    return one == other and isinstance(one, bool) is isinstance(other, bool)
