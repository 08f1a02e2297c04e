from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from tests.unit.spec.texts import STUDY, mapping, spoil
from tunesafe.spec.schema import study_schema

COMMITTED = Path(__file__).parents[3] / "studies" / "study.schema.json"


def plain(text: str) -> Any:
    """What any YAML reader makes of it."""
    return YAML(typ="safe", pure=True).load(text)


def test_the_committed_schema_is_current() -> None:
    """Otherwise: python -m tunesafe.spec.schema > studies/study.schema.json."""
    made = subprocess.run([sys.executable, "-m", "tunesafe.spec.schema"], capture_output=True, text=True, check=True)
    assert made.stdout == COMMITTED.read_text(encoding="utf-8")
    assert json.loads(made.stdout) == study_schema()


def test_the_schema_is_a_schema_and_the_design_example_fits_it() -> None:
    """Editors accept what tunesafe accepts."""
    jsonschema.Draft202012Validator.check_schema(study_schema())
    jsonschema.validate(plain(STUDY), study_schema())
    jsonschema.validate(mapping(trainable="a.b:c", sampler={"name": "TPESampler", "seed": 1}), study_schema())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n_trials: 50", "n_trails: 50"),
        ("n_trials: 50", "n_trials: many"),
        ("n_trials: 50", "n_trials: 0"),
        ("select: last}", "select: lsat}"),
        ("metric: val_loss, ", ""),
        ("type: int", "type: integer"),
        ("step: 16", "step: 0"),
        ("step: 16", "stop: 16"),
        ("lease: 60s", "lease: 60 parsecs"),
        ("digits.py:train", "digits"),
        ("every: {virtual_epochs: 1}", "every: often"),
    ],
)
def test_an_editor_sees_what_tunesafe_refuses(old: str, new: str) -> None:
    """For what a schema can say."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain(spoil(old, new)), study_schema())


def test_every_key_is_described() -> None:
    """An editor shows the description beside the key."""
    schema = study_schema()
    for section in (schema, *schema["$defs"].values()):
        for key, value in section["properties"].items():
            target = schema["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else value
            assert target.get("description") or value.get("description"), f"{section['title']}.{key}"
