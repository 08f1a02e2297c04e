from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.spec.texts import STUDY, load, mapping, refusal, spoil
from tunesafe.errors import SpecError
from tunesafe.spec import load_spec, spec_from_mapping

# What is written instead of what, and the whole error.
GOLDEN = [
    ("n_trials: 50", "n_trails: 50", "study.yaml:21:1: unknown key 'n_trails'; did you mean 'n_trials'?"),
    ("n_trials: 50", "n_trials: many", "study.yaml:21:11: n_trials must be a whole number, found 'many'"),
    ("n_trials: 50", "n_trials: '50'", "study.yaml:21:11: n_trials must be a whole number, found '50'"),
    ("n_trials: 50", "n_trials: true", "study.yaml:21:11: n_trials must be a whole number, found true"),
    ("n_trials: 50", "n_trials: 1e3", "study.yaml:21:11: n_trials must be a whole number, found 1e3; write 1000"),
    ("n_trials: 50", "n_trials: 0", "study.yaml:21:11: n_trials must be at least 1, found 0"),
    ("n_trials: 50", "n_trials: 3000000000", "study.yaml:21:11: n_trials must be at most 2147483647, found 3000000000"),
    ("n_trials: 50\n", "", "study.yaml:2:1: the study has no 'n_trials', which it needs"),
    (
        "trainable: digits.py:train  ",
        "#",
        "study.yaml:2:1: the study has no 'trainable', which it needs; write FILE.py:NAME or package.module:NAME",
    ),
    (
        "digits.py:train",
        "digits",
        "study.yaml:3:12: trainable must be FILE.py:NAME or package.module:NAME, found 'digits'",
    ),
    ("metric: val_loss, ", "", "study.yaml:5:12: objective has no 'metric', which it needs"),
    (
        "select: last}",
        "select: lsat}",
        "study.yaml:5:60: objective.select must be 'last' or 'best', found 'lsat'; did you mean 'last'?",
    ),
    ("passes: 14.3", "passes: -1", "study.yaml:8:11: budget.passes must be above 0 and at most 1e9, found -1"),
    ("passes: 14.3", "passes: .inf", "study.yaml:8:11: budget.passes must be a finite number, found .inf"),
    ("passes: 14.3", "examples: -5", "study.yaml:8:13: budget.examples must be at least 1, found -5"),
    (
        "passes: 14.3",
        "passes: 1\n  examples: 9",
        "study.yaml:8:3: budget has both 'passes' and 'examples'; give one of them",
    ),
    (
        "virtual_epochs: 15",
        "virtual_epochs: 21_000",
        "study.yaml:9:19: budget.virtual_epochs must be at most 20,549, the examples of a whole trial, found 21_000",
    ),
    (
        "high: 1.0e-1",
        "high: 1e-5",
        "study.yaml:16:34: parameters.lr.low must not be above high, found low 1.0e-4 and high 1e-5",
    ),
    ("low: 1.0e-4", "low: 0", "study.yaml:16:34: parameters.lr.low must be above 0 with log: true, found 0"),
    ("low: 1.0e-4", "low: .nan", "study.yaml:16:34: parameters.lr.low must be a finite number, found .nan"),
    ("step: 16", "step: 0", "study.yaml:17:53: parameters.hidden.step must be at least 1, found 0"),
    (
        "step: 16",
        "step: 16, log: true",
        "study.yaml:17:53: parameters.hidden.step cannot be given together with log: true; leave one of them out",
    ),
    (
        "type: int",
        "type: integer",
        "study.yaml:17:22: parameters.hidden.type must be float, int or categorical, found 'integer'"
        "; did you mean 'int'?",
    ),
    ("step: 16", "stop: 16", "study.yaml:17:47: unknown key 'parameters.hidden.stop'; did you mean 'step'?"),
    (
        "weight_decay: 1.0e-4",
        "weight_decay: [0, 1]",
        "study.yaml:19:17: parameters.weight_decay is a list; "
        "to search over it write {type: categorical, choices: [...]}",
    ),
    (
        "when: {optimizer: sgd}",
        "when: {optimiser: sgd}",
        "study.yaml:18:58: unknown parameter 'parameters.momentum.when.optimiser'; did you mean 'optimizer'?",
    ),
    (
        "when: {optimizer: sgd}",
        "when: {optimizer: sdg}",
        "study.yaml:18:69: parameters.momentum.when.optimizer can never be 'sdg': 'optimizer' is one of 'sgd', 'adam'",
    ),
    (
        "when: {optimizer: sgd}",
        "when: {momentum: 0.5}",
        "study.yaml:18:57: parameters.momentum.when goes in a circle: momentum -> momentum",
    ),
    (
        "choices: [16,",
        "choices: [0,",
        "study.yaml:14:45: parameters.batch_size.choices.0 must be a whole number of at least 1, found 0",
    ),
    (
        "choices: [sgd, adam]",
        "choices: [1, true]",
        "study.yaml:15:48: parameters.optimizer.choices.1 is true, which repeats 1, equal to it in Python; "
        "make one of them text",
    ),
    (
        "choices: [sgd, adam]",
        "choices: []",
        "study.yaml:15:44: parameters.optimizer.choices must not be empty, found an empty list",
    ),
    (
        "when: {optimizer: sgd}",
        "when: {optimizer: []}",
        "study.yaml:18:69: parameters.momentum.when.optimizer must not be empty, found an empty list",
    ),
    ("name: tpe", "name: tpa", "study.yaml:26:17: sampler.name is an unknown sampler 'tpa'; did you mean 'tpe'?"),
    (
        "{name: hyperband, reduction_factor: 3}",
        "{name: patient, patience: 3, wrapped_pruner: {name: medain}}",
        "study.yaml:27:61: pruner.wrapped_pruner.name is an unknown pruner 'medain'; did you mean 'median'?",
    ),
    ("lr: 0.01", "lrr: 0.01", "study.yaml:28:19: unknown parameter 'initial_trials.0.lrr'; did you mean 'lr'?"),
    ("lr: 0.01", "lr: 7", "study.yaml:28:23: initial_trials.0.lr must be between 1.0e-4 and 1.0e-1, found 7"),
    (
        "lr: 0.01",
        "optimizer: adam, momentum: 0.5",
        "study.yaml:28:46: initial_trials.0.momentum is not used by this trial: 'optimizer' is 'adam'",
    ),
    (
        "every: {virtual_epochs: 1}",
        "every: often",
        "study.yaml:31:10: checkpoint.every must be auto or a mapping such as {virtual_epochs: 1}, found 'often'",
    ),
    (
        "every: {virtual_epochs: 1}",
        "every: {seconds: 60}",
        "study.yaml:31:20: checkpoint.every.seconds saves inside virtual epochs and needs checkpoint.mid_epoch: true",
    ),
    (
        "lease: 60s",
        "lease: 60 parsecs",
        "study.yaml:36:8: lease must be a duration such as 90, 90s, 10m or 1h30m, found '60 parsecs'",
    ),
    ("timeout: 2h", "timeout: 0", "study.yaml:25:10: timeout must be above 0, found 0"),
    (
        "sqlite:///digits.db",
        "digits.db",
        "study.yaml:4:10: 'digits.db' is not a database URL; did you mean 'sqlite:///digits.db'?",
    ),
    (
        "sqlite:///digits.db",
        "redis://cache/0",
        "study.yaml:4:10: 'redis://cache/0' is not a database tunesafe can use; "
        "databases: sqlite, postgresql, mysql, mariadb",
    ),
    ("seed: 17", "seed: 17\nseed: 18", "study.yaml:25:1: key 'seed' is given twice, first in line 24"),
    ("seed: 17", "seed:\t17", "study.yaml:24:6: tab found; YAML separates and indents with spaces only"),
    ("  passes", "\tpasses", "study.yaml:8:1: tab found; YAML separates and indents with spaces only"),
    (
        "seed: 17",
        "seed: !!python/object/apply:os.system [ls]",
        "study.yaml:24:7: tag '!!python/object/apply:os.system' is not allowed; a study file holds plain values only",
    ),
    ("name: digits", "name: di/gits", "study.yaml:2:7: name cannot be 'di/gits': use letters, digits and '_', and "
     "between them single dots, spaces and '-'"),
    ("  lr: ", "  l|r: ", "study.yaml:16:3: unusable name 'parameters.l|r'; use letters, digits and '_', and between "
     "them '/', single dots, spaces and '-'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "error"), GOLDEN, ids=[f"{new}" for _, new, _ in GOLDEN])
def test_a_fault_is_one_error_with_place_found_value_and_nearest_right_one(
    old: str, new: str, error: str, tmp_path: Path
) -> None:
    """Each spoiled study file is refused with exactly this message, exit code 2, and nothing is created."""
    assert refusal(spoil(old, new), tmp_path) == error


@pytest.mark.parametrize("key", ["warm_start", "batch_size_rule", "constraints"])
def test_keys_of_later_versions_are_unknown(key: str, tmp_path: Path) -> None:
    """A file that needs a newer tunesafe does not half work."""
    assert refusal(STUDY + f"{key}: 1\n", tmp_path).startswith(f"study.yaml:38:1: unknown key '{key}'")


def test_all_faults_come_in_one_error_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Nobody wants to learn of five mistakes in five runs."""
    text = spoil("seed: 17", "seed: no").replace("retries: 3", "retries: -1").replace("high: 256", "high: wide")
    assert refusal(text, tmp_path).splitlines() == [
        "study.yaml:17:42: parameters.hidden.high must be a whole number, found 'wide'",
        "study.yaml:24:7: seed must be a whole number, found 'no'",
        "study.yaml:34:10: retries must be at least 0, found -1",
    ]


def test_a_circle_of_conditions_names_its_members(tmp_path: Path) -> None:
    """`when` must lead somewhere."""
    text = spoil("choices: [sgd, adam]}", "choices: [sgd, adam], when: {hidden: 16}}").replace(
        "step: 16}", "step: 16, when: {momentum: [0.5, 0.9]}}"
    )
    expected = "parameters.optimizer.when goes in a circle: optimizer -> hidden -> momentum -> optimizer"
    assert refusal(text, tmp_path) == f"study.yaml:15:63: {expected}"


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    """A misspelt path is the most common mistake."""
    (tmp_path / "digits.yaml").write_text(STUDY)
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "digit.yaml")
    assert str(caught.value) == f"{tmp_path}/digit.yaml: no such file; did you mean '{tmp_path}/digits.yaml'?"


def test_a_folder_is_not_a_study_file(tmp_path: Path) -> None:
    """Neither is a device, which could be read for ever."""
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(SpecError, match="is not a file; a study file is YAML text"):
            load_spec(path)


OVERRIDES = [
    ("n_trails=5", "--set n_trails=5: unknown key 'n_trails'; did you mean 'n_trials'?"),
    ("n_trials=five", "--set n_trials=five: n_trials must be a whole number, found 'five'"),
    ("n_trials", "--set n_trials: must be key.path=value, e.g. --set n_trials=100"),
    ("=5", "--set =5: must be key.path=value, e.g. --set n_trials=100"),
    ("name.first=x", "--set name.first=x: name is 'digits', which has no 'first'"),
    (
        "initial_trials.7.lr=0.1",
        "--set initial_trials.7.lr=0.1: initial_trials has no entry '7': it has 1, counted from 0, and 1 appends one",
    ),
    (
        "initial_trials.0.lr=7",
        "--set initial_trials.0.lr=7: initial_trials.0.lr must be between 1.0e-4 and 1.0e-1, found 7",
    ),
    ("initial_trials.x=1", "--set initial_trials.x=1: initial_trials has no entry 'x': it has 1, counted from 0, and 1 "
     "appends one"),
    ("trackers.2=x", "--set trackers.2=x: trackers has no entry '2': it has 1, counted from 0, and 1 appends one"),
    ("initial_trials.1.lr=1e3", "--set initial_trials.1.lr=1e3: initial_trials.1.lr must be between 1.0e-4 and 1.0e-1, "
     "found 1e3"),
    ("n_workers=0x0", "--set n_workers=0x0: n_workers must be at least 1, found 0x0"),
    ("seed.first=1", "--set seed.first=1: seed is 17, which has no 'first'"),
    ("seed=[1", "--set seed=[1: not YAML: expected ',' or ']', but got '<stream end>'"),
    (
        "pruner={name: medain}",
        "--set pruner={name: medain}: pruner.name is an unknown pruner 'medain'; did you mean 'median'?",
    ),
    ("seed=!!python/name:os.system x", "--set seed=!!python/name:os.system x: tag '!!python/name:os.system' is not "
     "allowed; a study file holds plain values only"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "error"), OVERRIDES)
def test_a_fault_in_an_override_names_the_override(override: str, error: str, tmp_path: Path) -> None:
    """The file is right; the command line is not."""
    assert refusal(STUDY, tmp_path, override) == error


def test_a_fault_elsewhere_keeps_its_line_when_there_are_overrides(tmp_path: Path) -> None:
    """Overrides do not blur where the file is wrong."""
    text = refusal(spoil("seed: 17", "seed: x"), tmp_path, "pruner={name: nop}", "n_trials=3")
    assert text == "study.yaml:24:7: seed must be a whole number, found 'x'"


def test_errors_of_the_python_door_name_the_key_path() -> None:
    """There is no file to point into."""
    with pytest.raises(SpecError) as caught:
        spec_from_mapping(mapping(budget={"examples": 10, "virtual_epochs": 11}), base=None)
    assert str(caught.value) == (
        "budget.virtual_epochs must be at most 10, the examples of a whole trial, found 11"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"sampler": object()}, "sampler must be plain data, found object"),
        ({"seed": float("nan")}, "seed must be a finite number, found .nan"),
        ({"parameters": {1: 2}}, "parameters must have text as keys, found 1"),
        (
            {"name": "a\n"},
            "name cannot be 'a\\n': use letters, digits and '_', and between them single dots, spaces and '-'",
        ),
        ({"seed": 2**63}, "seed must fit into 64 bits, found 9223372036854775808"),
        ({"parameters": {"a": 16**5000}}, "parameters.a must fit into 64 bits, found a number of more than 60 digits"),
        ({"name": "a\0b"}, "name holds a NUL or half a character, which no database stores"),
    ],
)
def test_what_no_study_file_could_hold_is_refused_from_python_too(changes: dict[str, object], error: str) -> None:
    """One kind of data, whichever door it comes through."""
    with pytest.raises(SpecError) as caught:
        spec_from_mapping(mapping(**changes), base=None)
    assert str(caught.value) == error


def test_later_faults_are_reported_at_their_place(tmp_path: Path) -> None:
    """Whoever checks a sampler's options, later and elsewhere, still points into the file."""
    spec = load(spoil("{name: tpe}", "{name: tpe, n_startup_trails: 3}"), tmp_path)
    file = str(tmp_path / "study.yaml")
    assert spec.where("sampler.n_startup_trails") == (file, 26, 40)
    assert spec.where("sampler.n_startup_trails", key=True) == (file, 26, 22)
    assert spec.where("initial_trials.0.lr") == (file, 28, 23)
    assert spec.where("grace") is None
    assert str(spec.error("sampler.n_startup_trails", "no such option", key=True)) == f"{file}:26:22: no such option"
    assert str(spec.error("sampler.seed", "not here")) == f"{file}:26:1: sampler.seed: not here"
    assert str(spec.error("grace", "too short")) == f"{file}:2:1: grace: too short"
    python = spec_from_mapping(mapping(), base=None)
    assert str(python.error("grace", "too short")) == "grace: too short"
