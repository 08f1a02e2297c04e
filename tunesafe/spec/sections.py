"""The smaller sections of a study file: objective, judges, early stopping, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema, model_validator

from tunesafe.errors import SpecError
from tunesafe.spec.faults import WRITTEN, Fault, KeyPath, raise_faults, refuse
from tunesafe.spec.names import PRUNERS, SAMPLERS, Kind, canonical_name
from tunesafe.spec.values import Count, Duration, Section, SizeOrOff

__all__ = ["Checkpoint", "Component", "EarlyStopping", "Every", "Keep", "Objective", "Pruner", "Sampler"]

_MOST_IN_DATABASE = 64 << 20


class Objective(Section):
    """What is optimised."""

    metric: Annotated[str, Field(min_length=1)]
    """Name of the reported metric that is optimised."""
    direction: Literal["minimize", "maximize"]
    """Whether less or more of it is better."""
    select: Literal["last", "best"] = "last"
    """Which checkpoint a trial is represented by: its last, or the one with the best metric."""


class EarlyStopping(Section):
    """When a trial that no longer improves ends early, as complete."""

    patience: Count
    """Virtual epochs without improvement after which a trial ends."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Least change of the metric that counts as improvement."""


class Every(Section):
    """How often a trial is checkpointed; the first that is due counts."""

    virtual_epochs: Count | None = None
    """Virtual epochs between checkpoints."""
    examples: Count | None = None
    """Examples between checkpoints; needs mid_epoch."""
    seconds: Duration | None = None
    """Seconds between checkpoints; needs mid_epoch."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.virtual_epochs is self.examples is self.seconds is None:
            refuse("is empty; give virtual_epochs, examples or seconds")
        return self


class Keep(Section):
    """How many checkpoints of completed trials are kept."""

    last: Annotated[int, Field(ge=0)] = 1
    """The newest of each trial."""
    best: Annotated[int, Field(ge=0)] = 1
    """The best of each trial."""
    study_best: Annotated[int, Field(ge=0)] = 1
    """The best trials of the study whose selected checkpoint is kept."""
    every: Count | None = None
    """Of each trial those at the end of every so many virtual epochs, too; off unless given."""
    finished: Literal["full", "weights"] = "full"
    """What is kept of them: the full state, or the weights of tracked modules only."""


def _check_every(value: Any) -> Any:
    if value != "auto" and not isinstance(value, Mapping):
        refuse(f"must be auto or a mapping such as {{virtual_epochs: 1}}, found {WRITTEN}")
    return value


_EveryOrAuto = Annotated[
    Annotated[Literal["auto"], Tag("auto")] | Annotated[Every, Tag("every")],
    Discriminator(lambda value: "auto" if value == "auto" else "every"),
    BeforeValidator(_check_every),
]


class Checkpoint(Section):
    """When state is saved, and which of it is kept."""

    every: _EveryOrAuto = Every(virtual_epochs=1)
    """How often: auto (at most 3 % of the time), or a mapping."""
    mid_epoch: bool = False
    """Whether trials may be saved and resumed inside a virtual epoch; `tunesafe check` proves that they can be."""
    keep: Keep = Keep()
    """How many checkpoints of completed trials are kept."""
    in_database: SizeOrOff = 512 << 10
    """Up to so many new bytes are stored with the row that names them; more where large states are; off: none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults: list[Fault] = []
        if isinstance(self.every, Every) and not self.mid_epoch:
            given = [key for key in ("examples", "seconds") if getattr(self.every, key) is not None]
            text = "saves inside virtual epochs and needs checkpoint.mid_epoch: true"
            faults += [Fault(text, ("every", key)) for key in given]
        if (self.in_database or 0) > _MOST_IN_DATABASE:
            text = f"must be at most 64MiB, for others wait meanwhile, found {WRITTEN}"
            faults.append(Fault(text, ("in_database",)))
        if faults:
            raise_faults(faults)
        return self


class Component(BaseModel):
    """A sampler or pruner: its name, and its options as further keys.

    The options are checked against the class's signature where Optuna is imported.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, use_attribute_docstrings=True)
    kind: ClassVar[Kind]

    name: str
    """Optuna's class name, or it without suffix, ignoring case and underscores."""

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, data: Any) -> Any:
        faults: list[Fault] = []
        result = _canonical(data, cls.kind, (), faults)
        if faults:
            raise_faults(faults)
        return result

    @property
    def options(self) -> dict[str, Any]:
        """The options as plain data; nested samplers and pruners are mappings with a canonical ``name``."""
        return dict(self.__pydantic_extra__ or {})


def _canonical(data: Any, kind: Kind, at: KeyPath, faults: list[Fault]) -> Any:
    """A copy of a component with canonical names, in those nested in it as well."""
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, Mapping):
        example = "{name: nop} to prune nothing" if kind == "pruner" else "{name: tpe}"
        faults.append(Fault(f"must be a mapping such as {example}, found {WRITTEN}", at))
        return data
    name = data.get("name")
    if not isinstance(name, str):
        text = f"must be text, found {WRITTEN}" if "name" in data else "is missing"
        faults.append(Fault(f"has no usable name: 'name' {text}", at, echoes=((*at, "name"),) * ("name" in data)))
        return data
    result = dict(data)
    try:
        result["name"] = canonical_name(name, kind)
    except SpecError as error:
        faults.append(Fault(f"is an {error.message}", (*at, "name")))
    for option, value in data.items():
        if isinstance(value, Mapping) and option.endswith(("sampler", "pruner")):
            nested: Kind = "sampler" if option.endswith("sampler") else "pruner"
            result[option] = _canonical(value, nested, (*at, option), faults)
    return result


def _names_schema(names: Mapping[str, str]) -> dict[str, Any]:
    # Any spelling is right; editors complete these.
    return {"anyOf": [{"enum": list(names)}, {"type": "string"}]}


class Sampler(Component):
    """What proposes parameters."""

    kind = "sampler"
    name: Annotated[str, WithJsonSchema(_names_schema(SAMPLERS))]
    """An Optuna sampler; its options are further keys."""


class Pruner(Component):
    """What ends hopeless trials."""

    kind = "pruner"
    name: Annotated[str, WithJsonSchema(_names_schema(PRUNERS))]
    """An Optuna pruner; its options are further keys, pruners nested in it mappings."""
