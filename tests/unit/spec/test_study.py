from __future__ import annotations

import json
import re
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.spec.texts import STUDY, load, mapping, small, spoil
from tunesafe.spec import CategoricalParameter, FloatParameter, IntParameter, StudySpec, spec_from_mapping


def test_the_example_of_the_design_is_read_as_it_says(tmp_path: Path) -> None:
    """Every value of the file, and every default it leaves out."""
    spec = load(STUDY, tmp_path)
    assert spec.name == "digits"
    assert spec.trainable == "digits.py:train"
    assert spec.storage == f"sqlite:///{tmp_path}/digits.db"
    assert spec.objective.model_dump() == {"metric": "val_loss", "direction": "minimize", "select": "last"}
    assert spec.budget.passes == Decimal("14.3")
    assert list(spec.parameters) == ["batch_size", "optimizer", "lr", "hidden", "momentum", "weight_decay"]
    assert spec.parameters["lr"] == FloatParameter(type="float", low=1e-4, high=0.1, log=True)
    assert spec.parameters["hidden"] == IntParameter(type="int", low=16, high=256, step=16)
    assert spec.parameters["optimizer"] == CategoricalParameter(type="categorical", choices=("sgd", "adam"))
    assert spec.constants == {"weight_decay": 0.0001}
    assert (spec.n_trials, spec.n_workers, spec.threads_per_worker, spec.seed) == (50, 1, 1, 17)
    assert (spec.sampler.name, spec.sampler.options) == ("tpe", {})
    assert (spec.pruner.name, spec.pruner.options) == ("hyperband", {"reduction_factor": 3})
    assert spec.early_stopping is not None
    assert spec.early_stopping.patience == 5
    assert (spec.timeout, spec.lease, spec.grace, spec.stall_timeout, spec.storage_timeout) == (7200, 60, 90, None, 600)
    assert spec.trackers == ("tensorboard",)
    assert (spec.file, spec.folder) == (tmp_path / "study.yaml", tmp_path)


def test_what_is_left_out_has_the_documented_default() -> None:
    """The smallest study says only what cannot be guessed."""
    spec = small()
    assert spec.storage == "sqlite:////somewhere/small.db"
    assert (spec.n_workers, spec.threads_per_worker, spec.seed, spec.timeout) == (1, None, 0, None)
    assert (spec.sampler.name, spec.pruner.name, spec.initial_trials, spec.trackers) == ("tpe", "median", (), ())
    assert spec.checkpoint.model_dump() == {
        "every": {"virtual_epochs": 1, "examples": None, "seconds": None},
        "mid_epoch": False,
        "keep": {"last": 1, "best": 1, "study_best": 1, "every": None, "finished": "full"},
        "in_database": 512 << 10,
    }
    assert (spec.retries, spec.max_failures, spec.early_stopping, spec.trainable) == (3, 5, None, None)
    assert (spec.objective.select, spec.budget.batching) == ("last", "exact")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(60, 60), (0.5, 0.5), ("60s", 60), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800),
     ("1h 30m", 5400), ("off", None), (None, None)],
)  # fmt: skip
def test_durations_are_seconds_or_numbers_with_units(text: object, seconds: float | None) -> None:
    """One spelling is as good as another."""
    assert small(timeout=text).timeout == seconds


@pytest.mark.parametrize("text", ["", "s", "1", "1x", "1m1h", "-1s", "nan", True, [1]])
def test_what_is_no_duration_is_refused(text: object) -> None:
    """A bare number in quotes has no unit; units go from long to short."""
    with pytest.raises(Exception, match="timeout must be a duration such as"):
        small(timeout=text)


def test_overrides_replace_values_of_the_file(tmp_path: Path) -> None:
    """Anywhere in the file, whether it stands there or not."""
    spec = load(
        STUDY, tmp_path, "n_trials=7", "budget.passes=0.29", "parameters.optimizer=sgd", "initial_trials.0.lr=2e-2",
        "checkpoint={mid_epoch: true}", "checkpoint.every.seconds=5m", "timeout=", "sampler=random",
    )  # fmt: skip
    assert spec.n_trials == 7
    assert spec.budget.passes == Decimal("0.29")
    assert spec.constants["optimizer"] == "sgd"
    assert spec.initial_trials[0]["lr"] == 0.02
    assert spec.checkpoint.model_dump()["every"] == {"virtual_epochs": None, "examples": None, "seconds": 300.0}
    assert (spec.timeout, spec.sampler.name) == (None, "random")


def test_two_specs_are_equal_if_they_say_the_same(tmp_path: Path) -> None:
    """Comments, layout and spelling do not matter; types do."""
    spec = load(STUDY, tmp_path)
    assert spec == load(spoil("14.3  ", "14.30  # more"), tmp_path)
    assert spec == load(spoil("name: hyperband", "name: HyperbandPruner"), tmp_path)
    assert hash(spec) == hash(load(STUDY.replace("2h", "120m"), tmp_path))
    assert spec != load(spoil("weight_decay: 1.0e-4", "weight_decay: '1.0e-4'"), tmp_path)
    assert small(parameters={"a": 1}) != small(parameters={"a": 1.0})
    assert small(parameters={"a": 1}) != small(parameters={"a": True})


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)  # fmt: skip
names = st.from_regex(r"\w([\w/. -]{0,7}\w)?", fullmatch=True).filter(
    lambda name: name != "batch_size" and ".." not in name and unicodedata.is_normalized("NFC", name)
)
floats = st.builds(
    lambda low, width, log: {"type": "float", "low": low, "high": low + width, "log": log},
    st.floats(1e-6, 1e6), st.floats(0, 1e6), st.booleans(),
)  # fmt: skip
ints = st.builds(
    lambda low, width, step: {"type": "int", "low": low, "high": low + width, "step": step},
    st.integers(-1000, 1000), st.integers(0, 1000), st.integers(1, 50),
)  # fmt: skip
categoricals = st.builds(
    lambda choices: {"type": "categorical", "choices": choices},
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4), min_size=1, unique=True),
)


@settings(max_examples=50)
@given(
    parameters=st.dictionaries(names, st.one_of(scalars, floats, ints, categoricals), max_size=6),
    passes=st.decimals(Decimal("0.001"), 1000, places=4),
    options=st.dictionaries(names, scalars, max_size=3),
)
def test_a_spec_survives_the_database(parameters: dict[str, Any], passes: Decimal, options: dict[str, Any]) -> None:
    """JSON and back: order, exact numbers and types are kept."""
    spec = small(
        parameters=parameters,
        budget={"passes": passes, "virtual_epochs": 1},
        sampler={"name": "tpe"} | {f"x{key}": value for key, value in options.items()},
    )
    again = StudySpec.from_json(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()
    assert list(again.parameters) == list(parameters)
    assert again.budget.passes == passes
    assert [(type(value), value) for value in again.constants.values()] == [
        (type(value), value) for value in spec.constants.values()
    ]


def test_the_example_survives_the_database_without_its_password(tmp_path: Path) -> None:
    """The database does not hold the key to itself."""
    spec = load(spoil("sqlite:///digits.db", "postgresql://me:secret@host/studies"), tmp_path)
    assert spec.storage == "postgresql+psycopg://me:secret@host/studies"
    assert "secret" not in spec.to_json()
    assert StudySpec.from_json(spec.to_json(), storage=spec.storage, folder=tmp_path).storage == spec.storage
    assert json.loads(spec.to_json())["budget"]["passes"] == "14.3"


def test_numbers_of_numpy_are_numbers() -> None:
    """The Python door takes what arithmetic gives."""
    numpy = pytest.importorskip("numpy")
    spec = small(n_trials=numpy.int64(3), parameters={"a": numpy.float64(0.5), "b": numpy.bool_(True)})
    assert [(type(value), value) for value in (spec.n_trials, *spec.constants.values())] == [
        (int, 3), (float, 0.5), (bool, True),
    ]  # fmt: skip


def test_samplers_and_pruners_keep_their_options_in_nested_ones_too() -> None:
    """Names are canonical at every depth; a bare name is enough."""
    pruner = {
        "name": "PatientPruner",
        "patience": 3,
        "wrapped_pruner": {"name": "successive_halving", "min_resource": 1},
    }
    spec = small(pruner=pruner, sampler="CmaEs")
    assert spec.sampler.name == "cmaes"
    assert spec.pruner.options == {"patience": 3, "wrapped_pruner": {"name": "successivehalving", "min_resource": 1}}


def test_a_spec_cannot_be_changed() -> None:
    """It is shared by everyone who works on the study."""
    with pytest.raises(Exception, match="frozen"):
        small().n_trials = 6  # type: ignore[misc]


def test_the_python_door_needs_no_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative paths are then relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    assert spec_from_mapping(mapping(), base=None).storage == f"sqlite:///{tmp_path}/small.db"


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        (1, 1), (1e9, 10**9), ("512B", 512), ("20GB", 20 * 10**9), ("20 gb", 20 * 10**9), ("1.5TB", 1_500_000_000_000),
        ("4GiB", 4 << 30), ("0.5KiB", 512), ("1.001KB", 1001), ("3MiB", 3 << 20), ("8mb", 8_000_000), ("off", None),
        (None, None), (2**63 - 1, 2**63 - 1),
    ],
)  # fmt: skip
def test_sizes_are_bytes_or_numbers_with_units(text: object, num_bytes: int | None) -> None:
    """Powers of ten without an i, powers of two with one; exactly as written."""
    assert small(disk_limit=text).disk_limit == num_bytes
    spec = small(disk_limit=text)
    assert StudySpec.from_json(spec.to_json()).disk_limit == num_bytes


def test_what_goes_into_the_database_is_a_size_that_others_can_wait_for() -> None:
    """Off is nothing at all."""
    assert small().checkpoint.in_database == 512 << 10
    assert small(checkpoint={"in_database": "off"}).checkpoint.in_database is None
    assert small(checkpoint={"in_database": "64MiB"}).checkpoint.in_database == 64 << 20
    with pytest.raises(Exception, match="must be at most 64MiB, for others wait meanwhile, found '1GB'"):
        small(checkpoint={"in_database": "1GB"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("20G", "must be a size such as 20GB, found '20G'"),
        ("4Gi", "must be a size such as 4GiB, found '4Gi'"),
        ("20", "must be a size such as 20B, found '20'"),
        ("20 parsecs", "must be a size such as 20GB, 512MiB, 1000000 or off, found '20 parsecs'"),
        (True, "must be a size such as 20GB, 512MiB, 1000000 or off, found true"),
        ([1], "must be a size such as 20GB"),
        ("-1GB", "must be a size such as 20GB"),
        ("1.0001KB", "must be a whole number of bytes, found '1.0001KB'"),
        (0.5, "must be a whole number of bytes, found 0.5"),
        (0, "must be at least 1 byte and less than 8 EiB, or off, found 0"),
        ("0GB", "must be at least 1 byte"),
        ("9000000TiB", "must be at least 1 byte and less than 8 EiB"),
    ],
)
def test_what_is_no_size_is_refused(text: object, why: str) -> None:
    """With the nearest that is one."""
    with pytest.raises(Exception, match=f"disk_limit {re.escape(why)}"):
        small(disk_limit=text)
