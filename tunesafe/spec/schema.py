"""The JSON Schema of study files, for editors that complete and check while one types.

``python -m tunesafe.spec.schema > studies/study.schema.json`` writes it; a test holds the
committed file to the models.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tunesafe.spec.study import StudySpec

__all__ = ["study_schema"]


def study_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a study file."""
    schema = StudySpec.model_json_schema()
    # Only Python's door may leave it out.
    schema["required"] = sorted({*schema["required"], "trainable"}, key=list(schema["properties"]).index)
    for key in ("sampler", "pruner"):  # a bare name will do
        described = schema["properties"][key]
        described["anyOf"] = [{"$ref": described.pop("$ref")}, {"type": "string"}]
    schema["properties"]["backup"]["anyOf"] += [{"const": "off"}, {"type": "string"}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "tunesafe study",
        "description": "A study: what is tuned, for how long, and how it is judged.",
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(study_schema(), indent=2, ensure_ascii=False) + "\n")
