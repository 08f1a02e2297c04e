"""What things may be called in a study file, and how --set finds and adds them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import jsonschema
import pytest

from tests.unit.spec.texts import STUDY, load, mapping, refusal, spoil
from tunesafe.errors import SpecError
from tunesafe.spec import spec_from_mapping
from tunesafe.spec.schema import study_schema

USABLE = ["rate", "_x", "optimizer.lr", "größe", "my rate", "a/b-c", "1x1", "学習率", "हिन्दी", "a.b.c", "𠀋", "x" * 200]
UNUSABLE = [
    "",
    " a",
    "a ",
    ".a",
    "a.",
    "-a",
    "a-",
    "a..b",
    "a|b",
    "a:b",
    "a?b",
    "a#b",
    "a%b",
    "a\tb",
    "a\nb",
    "a\u200db",
]


@pytest.mark.parametrize("name", USABLE)
def test_a_parameter_may_be_called_what_it_is_called(name: str, tmp_path: Path) -> None:
    """In every place of the study file that names it; an editor accepts it, too."""
    assert spec_from_mapping(mapping(parameters={name: 1}), base=None).constants == {name: 1}
    jsonschema.validate(mapping(trainable="a.b:c", parameters={name: 1}), study_schema())
    text = STUDY.replace("optimizer:  {", f'"{name}": {{').replace("{optimizer: sgd}", f'{{"{name}": sgd}}')
    assert load(text, tmp_path).is_active("momentum", {name: "sgd"})


@pytest.mark.parametrize("name", [*UNUSABLE, "x" * 201, "ö" * 101, unicodedata.normalize("NFD", "größe")])
def test_what_is_no_name_is_refused_on_one_line(name: str) -> None:
    """With what would be one; characters that cannot be seen are shown."""
    with pytest.raises(SpecError, match=r"^unusable name 'parameters\..*'; (use letters|it has|its accents)") as caught:
        spec_from_mapping(mapping(parameters={name: 1}), base=None)
    assert str(caught.value).isprintable()
    with pytest.raises(SpecError, match=r"^name cannot be '.*': (use letters|it has|its accents)") as caught:
        spec_from_mapping(mapping(name=name), base=None)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [name for name in UNUSABLE if name.isascii() and ".." not in name])
def test_an_editor_sees_what_is_no_name(name: str) -> None:
    """Of what a schema can say: dots in a row and what is beyond ASCII are not in it."""
    for changes in ({"name": name}, {"parameters": {name: 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(mapping(trainable="a.b:c", **changes), study_schema())


@pytest.mark.parametrize("name", ["größe", "my study", "1. Versuch", "学習", "a.b-c", "ö" * 100])
def test_a_study_may_be_called_what_it_is_called(name: str, tmp_path: Path) -> None:
    """And its database is a file of that name, with room for the endings that SQLite adds."""
    spec = load(STUDY.replace("name: digits", f"name: {name}").replace("storage: ", "# "), tmp_path)
    assert spec.storage == f"sqlite:///{tmp_path}/{name}.db"
    (tmp_path / f"{name}.db-journal").touch()
    jsonschema.validate(mapping(trainable="a.b:c", name=name), study_schema())


TWO = """\
name: two
trainable: a.py:train
objective: {metric: loss, direction: minimize}
budget: {examples: 8, virtual_epochs: 2}
parameters:
  ONE: {type: int, low: 0, high: 9}
  OTHER: {type: int, low: 0, high: 9}
n_trials: 2
"""


@pytest.mark.parametrize(
    ("one", "other"), [("lr", "LR"), ("größe", "Grosse"), ("a", "ä"), ("ガ", "か"), ("𠀋", "𠀌"), ("ﬁt", "fit")]
)
def test_names_that_mysql_takes_for_one_are_refused_there(one: str, other: str, tmp_path: Path) -> None:
    """The tables of Optuna would hold the first only; constants are not in them, and others tell the names apart."""
    text = TWO.replace("ONE", one).replace("OTHER", other)
    assert load(text, tmp_path).sampling_order() == (one, other)
    assert load(text, tmp_path, "storage=postgresql://host/db").sampling_order() == (one, other)
    for scheme in ("mysql", "mariadb", "mysql+pymysql"):
        error = refusal(text, tmp_path, f"storage={scheme}://host/db")
        assert error.startswith(f"study.yaml:7:3: '{other}' is '{one}' to Optuna's tables in MySQL and MariaDB")
    assert load(text, tmp_path, "storage=mysql://host/db", f"parameters.{other}=5").constants == {other: 5}


DOTTED = STUDY.replace("  lr: ", "  optimizer.lr: ").replace("{lr: 0.01, batch_size: 32}", "{}")


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("parameters.optimizer.lr=0.5", "0.5"),
        ("parameters.optimizer.lr.low=0.05", "low=0.05"),
        ("parameters.optimizer=adam", "'optimizer': 'adam'"),
        ("parameters.optimizer.choices.1=lion", "('sgd', 'lion')"),
        ("parameters.optimizer.choices.2=lion", "('sgd', 'adam', 'lion')"),
        ("initial_trials.0.optimizer.lr=0.05", "({'optimizer.lr': 0.05},)"),
        ("initial_trials.1.optimizer.lr=0.05", "({}, {'optimizer.lr': 0.05})"),
        ("initial_trials.1={optimizer.lr: 0.05}", "({}, {'optimizer.lr': 0.05})"),
        ("parameters.hidden.when.optimizer.lr=0.05", "{'optimizer.lr': (0.05,)}"),
        ("sampler.fixed_params.optimizer.lr=0.05", "'fixed_params': {'optimizer.lr': 0.05}"),
    ],
)
def test_the_longest_name_that_is_there_counts_in_an_override(override: str, shown: str, tmp_path: Path) -> None:
    """A parameter may hold the dots that separate the parts of a path."""
    spec = load(DOTTED, tmp_path, override)
    assert shown in f"{spec.parameters} {spec.initial_trials} {spec.sampler.options}"


def test_a_fault_of_a_dotted_name_has_its_place(tmp_path: Path) -> None:
    """Whenever it is found: while reading, or later by somebody who knows the path as text only."""
    text = DOTTED.replace("low: 1.0e-4", "low: -1")
    assert refusal(text, tmp_path).startswith("study.yaml:16:44: parameters.optimizer.lr.low must be above 0")
    spec = load(DOTTED, tmp_path)
    assert spec.where("parameters.optimizer.lr.low") == (str(tmp_path / "study.yaml"), 16, 44)
    assert spec.where("parameters.optimizer.choices.1") == (str(tmp_path / "study.yaml"), 15, 50)


@pytest.mark.parametrize(
    ("line", "override", "sampler"),
    [
        ("", "sampler.n_startup_trials=20", {"name": "tpe", "n_startup_trials": 20}),
        ("sampler:", "sampler.n_startup_trials=20", {"name": "tpe", "n_startup_trials": 20}),
        ("sampler: cmaes", "sampler.n_startup_trials=20", {"name": "cmaes", "n_startup_trials": 20}),
        ("sampler: {name: qmc}", "sampler.scramble=true", {"name": "qmc", "scramble": True}),
        ("", "sampler.name=random", {"name": "random"}),
    ],
)
def test_an_option_can_be_set_where_the_file_names_no_sampler(
    line: str, override: str, sampler: dict[str, object], tmp_path: Path
) -> None:
    """The name is then the default, or the bare one of the file."""
    spec = load(spoil("sampler: {name: tpe}", line), tmp_path, override)
    assert spec.sampler.model_dump() == sampler
    assert spec.where(override.partition("=")[0]) == (f"--set {override}", None, None)


def test_an_option_can_be_set_where_the_file_names_no_pruner(tmp_path: Path) -> None:
    """As for samplers; a misspelt bare name is still found where it stands."""
    spec = load(spoil("pruner: {name: hyperband, reduction_factor: 3}", ""), tmp_path, "pruner.n_warmup_steps=3")
    assert spec.pruner.model_dump() == {"name": "median", "n_warmup_steps": 3}
    text = spoil("{name: hyperband, reduction_factor: 3}", "medain")
    assert refusal(text, tmp_path, "pruner.n_warmup_steps=3").startswith("study.yaml:27:9: pruner.name is an unknown")


@pytest.mark.parametrize(
    ("lists", "overrides", "entries"),
    [
        ("", ["initial_trials.0.lr=0.1"], ({"lr": 0.1},)),
        ("", ["initial_trials.0.lr=0.1", "initial_trials.0.hidden=16"], ({"lr": 0.1, "hidden": 16},)),
        ("", ["initial_trials.0.lr=0.1", "initial_trials.1.lr=0.01"], ({"lr": 0.1}, {"lr": 0.01})),
        ("initial_trials:", ["initial_trials.0.lr=0.1"], ({"lr": 0.1},)),
        ("initial_trials: [{lr: 0.1}]", ["initial_trials.1={lr: 0.01}"], ({"lr": 0.1}, {"lr": 0.01})),
        ("initial_trials: [{lr: 0.1}]", ["initial_trials.0.lr=0.01"], ({"lr": 0.01},)),
    ],
)
def test_an_entry_can_be_appended_to_a_list(
    lists: str, overrides: list[str], entries: tuple[dict[str, object], ...], tmp_path: Path
) -> None:
    """Its index is one past the end, also of a list that is not there."""
    text = spoil("initial_trials: [{lr: 0.01, batch_size: 32}]", lists).replace("trackers: [tensorboard]", "")
    spec = load(text, tmp_path, *overrides, "trackers.0=tensorboard")
    assert spec.initial_trials == entries
    assert spec.trackers == ("tensorboard",)


@pytest.mark.parametrize("index", ["1", "2", "999999999999"])
def test_an_entry_far_past_the_end_is_refused(index: str, tmp_path: Path) -> None:
    """Nobody can know what should stand before it."""
    text = spoil("initial_trials: [{lr: 0.01, batch_size: 32}]", "")
    override = f"initial_trials.{index}.lr=0.1"
    expected = f"--set {override}: initial_trials has no entry '{index}': it is empty, and 0 appends one"
    assert refusal(text, tmp_path, override) == expected
