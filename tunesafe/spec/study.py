"""A study file's content: one immutable, validated value.

What the file says and nothing else: no database, no Optuna, no torch. A spec knows where
each of its keys stands, so that whoever finds a fault later (a sampler's option, a missing
trainable) can report it at its line and column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, model_validator

from tunesafe.contracts import Parameter
from tunesafe.errors import SpecError
from tunesafe.spec.backup import BackupOrOff, elsewhere
from tunesafe.spec.budget import Budget
from tunesafe.spec.faults import (
    WRITTEN,
    Fault,
    KeyPath,
    Place,
    Places,
    faults_of,
    found,
    locate,
    raise_faults,
    refuse,
    resolved,
    spec_error,
    unknown_key,
)
from tunesafe.spec.parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Parameters,
    Searched,
    condition_faults,
    holds,
    sampling_order,
)
from tunesafe.spec.reader import parse
from tunesafe.spec.sections import Checkpoint, EarlyStopping, Objective, Pruner, Sampler
from tunesafe.spec.storage import mask_password, resolve_storage
from tunesafe.spec.values import (
    EXACT,
    Count,
    Duration,
    DurationOrOff,
    DurationOrZero,
    Frozen,
    Scalar,
    Section,
    SizeOrOff,
    name_pattern,
    plain_data,
    why_no_name,
)

__all__ = ["StudySpec"]

_IN_NAMES = ". -"
_TRAINABLE = r"^(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*$"


def _name(value: str) -> str:
    if why := why_no_name(value, _IN_NAMES):
        refuse(f"cannot be {WRITTEN}: {why}")
    return value


def _trainable(value: str) -> str:
    if not re.fullmatch(_TRAINABLE, value):
        refuse(f"must be FILE.py:NAME or package.module:NAME, found {found(value)}")
    return value


def _no_repetition(values: tuple[str, ...]) -> tuple[str, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            refuse(f"{found(value)} is given twice", index)
    return values


class StudySpec(Section):
    """Everything a study file says, with defaults filled in.

    Made by :func:`tunesafe.spec.load_spec`, :func:`tunesafe.spec.spec_from_mapping` and
    :meth:`from_json`. Two specs are equal if they say the same, wherever they were read.
    """

    name: Annotated[str, AfterValidator(_name), Field(json_schema_extra={"pattern": name_pattern(_IN_NAMES)})]
    """Name of the study, unique in its database."""
    trainable: Annotated[str, AfterValidator(_trainable), Field(json_schema_extra={"pattern": _TRAINABLE})] | None = (
        None
    )
    """The training code: FILE.py:NAME relative to the study file, or package.module:NAME."""
    storage: Annotated[str, Field(min_length=1)] = Field(
        default="", json_schema_extra={"default": "sqlite:///<name>.db"}
    )
    """Database URL: sqlite:///FILE.db (relative to the study file), postgresql://… or mysql://…"""
    objective: Objective
    """What is optimised."""
    budget: Budget
    """How long every trial trains: the same number of examples for each."""
    parameters: Parameters
    """The parameters by name: a mapping is searched, a bare value is a constant."""
    n_trials: Count
    """Number of trials of the whole study, over all runs."""
    n_workers: Count = 1
    """Trials that train at the same time on this machine."""
    threads_per_worker: Count | None = None
    """Processor threads of each worker; default: cores // n_workers at the first run, then fixed."""
    seed: Annotated[int, Field(ge=0)] = 0
    """What all randomness is derived from."""
    timeout: DurationOrOff = None
    """Working time after which the study pauses [s, or 90s, 10m, 1h30m, 2d]."""
    sampler: Sampler = Sampler(name="tpe")
    """What proposes parameters: an Optuna sampler and its options."""
    pruner: Pruner = Pruner(name="median")
    """What ends hopeless trials: an Optuna pruner and its options; {name: nop} for none."""
    initial_trials: Annotated[tuple[dict[str, Scalar], ...], Frozen] = ()
    """Parameters of the first trials; what an entry leaves out is sampled."""
    early_stopping: EarlyStopping | None = None
    """When a trial that no longer improves ends early; off unless given."""
    checkpoint: Checkpoint = Checkpoint()
    """When state is saved, and which of it is kept."""
    disk_limit: SizeOrOff = None
    """Most bytes that stored checkpoints take [bytes, or 500MB, 20GB, 4GiB]; off unless given."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Consecutive deaths in user code, without durable progress, that fail a trial."""
    max_failures: Count = 5
    """Exceptions of user code in a row that stop the study."""
    lease: Duration = 60.0
    """How long a worker that is not heard of keeps its trial [s]."""
    grace: DurationOrZero = 90.0
    """Longest time to finish a virtual epoch when the machine is taken away [s]."""
    stall_timeout: DurationOrOff = None
    """Time without a batch after which a worker counts as stuck [s]; off unless given."""
    storage_timeout: Duration = 600.0
    """How long to try again when the database cannot be reached [s]."""
    trackers: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Frozen, AfterValidator(_no_repetition)] = ()
    """Where metrics are also written, e.g. tensorboard."""
    blobs: Annotated[str, Field(min_length=1)] | None = None
    """Where large checkpoints are, instead of beside or in the database: s3://bucket/prefix, or a folder."""
    backup: BackupOrOff = None
    """A second place the study is copied to while it runs: s3://bucket/prefix, or a folder; off unless given."""

    _places: Places = PrivateAttr(default_factory=Places.empty)
    _file: Path | None = PrivateAttr(default=None)
    _folder: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = condition_faults(self.parameters) + self._batch_size_faults()
        if len(self.initial_trials) > self.n_trials:
            text = f"has {len(self.initial_trials)} entries, more than the study has trials ({WRITTEN})"
            faults.append(Fault(text, ("initial_trials",), echoes=(("n_trials",),)))
        for index, entry in enumerate(self.initial_trials):
            for name, value in entry.items():
                at = ("initial_trials", index, name)
                if name not in self.parameters:
                    faults.append(unknown_key(at, self.parameters, "parameter"))
                elif why := self._why_not_initial(name, value, entry, at):
                    faults.append(why)
        if faults:
            raise_faults(faults)
        return self

    def _batch_size_faults(self) -> list[Fault]:
        if "batch_size" not in self.parameters:
            return []
        at: KeyPath = ("parameters", "batch_size")
        values: list[tuple[KeyPath, Parameter]]
        match self.parameters["batch_size"]:
            case IntParameter(low=low):
                values = [((*at, "low"), low)]
            case FloatParameter(type=kind):
                return [
                    Fault(f"must be int or categorical: batch sizes are whole numbers, found {kind}", (*at, "type"))
                ]
            case CategoricalParameter(choices=choices):
                values = [((*at, "choices", index), choice) for index, choice in enumerate(choices)]
            case constant:
                values = [(at, constant)]
        text = f"must be a whole number of at least 1, found {WRITTEN}"
        return [Fault(text, place) for place, value in values if type(value) is not int or value < 1]

    def _why_not_initial(
        self, name: str, value: Parameter, entry: Mapping[str, Parameter], at: KeyPath
    ) -> Fault | None:
        """Why an initial trial cannot have this value; None if it can."""
        parameter = self.parameters[name]
        if not isinstance(parameter, Searched):
            return Fault("is a constant; initial trials give values to searched parameters", at)
        if not parameter.accepts(value):
            words, echoes = parameter.values_in_words(("parameters", name))
            return Fault(f"must be {words}, found {WRITTEN}", at, echoes=(*echoes, at))
        given = {**self.constants, **entry}
        for other, values in parameter.when.items():
            if other in given and not holds({other: values}, given):
                where = (*at[:-1], other) if other in entry else ("parameters", other)
                return Fault(f"is not used by this trial: '{other}' is {WRITTEN}", at, echoes=(where,))
        return None

    # -------------------------------------------------------------------- parameters

    @property
    def constants(self) -> dict[str, Parameter]:
        """The parameters that are not searched, in file order."""
        return {name: value for name, value in self.parameters.items() if not isinstance(value, Searched)}

    @property
    def searched(self) -> dict[str, Searched]:
        """The parameters that are searched, in file order."""
        return {name: value for name, value in self.parameters.items() if isinstance(value, Searched)}

    def sampling_order(self) -> tuple[str, ...]:
        """The searched parameters, each after those its ``when`` names, otherwise in file order."""
        return sampling_order(self.parameters)

    def is_active(self, name: str, params: Mapping[str, Parameter]) -> bool:
        """Whether a searched parameter exists, given the values of those before it in the sampling order.

        Args:
            name: A searched parameter.
            params: Values sampled so far; constants may be among them or not.
        """
        return holds(self.searched[name].when, {**self.constants, **params})

    def active_parameters(self, params: Mapping[str, Parameter]) -> tuple[str, ...]:
        """The searched parameters that exist given these values, in sampling order."""
        return tuple(name for name in self.sampling_order() if self.is_active(name, params))

    def initial_params(self, number: int) -> dict[str, Parameter]:
        """What ``initial_trials`` fixes for a trial: {} for most; values of float parameters are floats."""
        entry = self.initial_trials[number] if number < len(self.initial_trials) else {}
        is_float = {name for name, parameter in self.searched.items() if isinstance(parameter, FloatParameter)}
        return {
            name: float(value) if name in is_float and isinstance(value, int) else value
            for name, value in entry.items()
        }

    # ------------------------------------------------------------------------ places

    @property
    def file(self) -> Path | None:
        """The study file, absolute; None if the spec comes from Python or the database."""
        return self._file

    @property
    def folder(self) -> Path | None:
        """The folder that relative paths in the study file are relative to."""
        return self._folder

    def where(self, key_path: str, *, key: bool = False) -> Place | None:
        """Where a value (or its key) stands: file, line and column, 1-based; None if it is not in a file.

        Args:
            key_path: As ``--set`` writes it, e.g. ``sampler.n_startup_trials``.
            key: The key's place instead of the value's.
        """
        place, exact = locate(resolved(key_path, self._places), self._places, key=key)
        return place if exact else None

    def error(self, key_path: str, message: str, *, key: bool = False) -> SpecError:
        """An error about one key, at its place.

        A key that is not in the file is reported at the nearest mapping around it, by its path.

        Args:
            key_path: As ``--set`` writes it.
            message: What is wrong, the value found, the nearest right one.
            key: The key is wrong, not its value.
        """
        path = resolved(key_path, self._places)
        place, exact = locate(path, self._places, key=key)
        message = self._in_notation(message, path)
        if place is None:
            return SpecError(message, key=key_path)
        message = message if exact else f"{key_path}: {message}"
        return SpecError(message, file=place.file, line=place.line, column=place.column)

    def _in_notation(self, message: str, path: KeyPath) -> str:
        """A message that begins with a number, in the file's notation: who checks an option knows its value only."""
        number, space, rest = message.partition(" ")
        notation = self._places.numbers.get(path)
        is_it = notation is not None and str(parse(notation, file="").data) == number
        return f"{notation}{space}{rest}" if is_it else message

    @contextmanager
    def placing(self, key_path: str | None = None) -> Iterator[None]:
        """Give errors of the block that know their key, but not where it stands, their place.

        Args:
            key_path: The key of those that do not know it either.
        """
        try:
            yield
        except SpecError as error:
            key = error.key or key_path
            if error.line is not None or key is None:
                raise
            message = error.message if error.file is None else f"{error.file}: {error.message}"
            raise self.error(key, message) from error

    # ------------------------------------------------------------------- construction

    @classmethod
    def from_data(
        cls, data: object, *, places: Places | None = None, file: Path | None = None, folder: Path | None = None
    ) -> StudySpec:
        """Validate plain data.

        Args:
            data: What a study file holds.
            places: Where each key stands.
            file: The study file, absolute.
            folder: What relative paths are relative to; default: the working directory.

        Raises:
            SpecError: All that is wrong, in one error.
        """
        places = places or Places.empty()
        faults: list[Fault] = []
        given, data = data, plain_data(data, (), faults)
        if faults:
            raise spec_error([fault.worded(given, places) for fault in faults], places)
        try:
            spec = cls.model_validate(data)
        except ValidationError as error:
            raise spec_error(faults_of(error, data, places), places) from None
        spec._places, spec._file, spec._folder = places, file, folder
        try:
            storage = resolve_storage(spec.storage or f"sqlite:///{spec.name}.db", folder or Path.cwd())
        except SpecError as error:
            raise spec.error("storage", error.message) from None
        away = elsewhere(spec.backup, spec.blobs, storage, folder or Path.cwd(), spec.error)
        return spec.model_copy(update={"storage": storage, **away})

    def to_json(self) -> str:
        """The spec as JSON: what :meth:`from_json` reads back equal. Passwords are masked."""
        data = self.model_dump()
        data["storage"] = mask_password(self.storage)
        return json.dumps(data, default=str, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, storage: str | None = None, folder: Path | None = None) -> StudySpec:
        """Read a spec back.

        Args:
            text: What :meth:`to_json` wrote.
            storage: The database it was read from; the text holds its URL without password.
            folder: What relative paths, of the trainable, are relative to.

        Raises:
            SpecError: If it is not valid for this version.
        """
        data = json.loads(text)
        section, key = EXACT
        if data[section][key] is not None:
            data[section][key] = Decimal(data[section][key])
        return cls.from_data(data | ({"storage": storage} if storage else {}), folder=folder)

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, StudySpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())
