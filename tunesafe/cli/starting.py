"""``tunesafe init``: a small project that works as it is, to be changed into one's own."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from tunesafe.errors import SpecError
from tunesafe.spec.schema import study_schema

__all__ = ["init"]

_SUFFIX = ".tmpl"


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it; made if it does not exist.")],
) -> None:
    """Write a small working project: a study file, a training function, data that come with scikit-learn."""
    project = _project()
    _refuse_collisions(directory, project)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in project.items():
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise SpecError(f"{error.filename} cannot be written: {error.strerror}. Name another folder.") from None
    say = f"wrote {', '.join(project)}; now: cd {shlex.quote(str(directory))} && tunesafe run study.yaml"
    print(say, file=sys.stderr)
    if find_spec("sklearn") is None:
        print("scikit-learn, which brings the digits, is missing: pip install 'tunesafe[examples]'", file=sys.stderr)


def _project() -> dict[str, str]:
    template = files("tunesafe.cli") / "template"
    texts = {
        entry.name.removesuffix(_SUFFIX): entry.read_text(encoding="utf-8")
        for entry in template.iterdir()
        if entry.name.endswith(_SUFFIX)
    }
    schema = json.dumps(study_schema(), indent=2, ensure_ascii=False) + "\n"
    return {**dict(sorted(texts.items())), "study.schema.json": schema}


def _refuse_collisions(directory: Path, project: dict[str, str]) -> None:
    if directory.exists() and not directory.is_dir():
        raise SpecError(f"{directory} is a file. Nothing was written. Name a folder.")
    taken = [name for name in project if (directory / name).exists()]
    if taken:
        raise SpecError(f"{directory} already holds {', '.join(taken)}. Nothing was written. Name another folder.")
