"""What a command is pointed at: a study file, a stored study, a trial of it.

Reading commands take ``study.yaml`` or ``STORAGE_URL#name``; without either, the one study
file of the current folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from tunesafe.api import Study, load_study, open_stored
from tunesafe.errors import SpecError

__all__ = ["AnyStudy", "AsJson", "Overrides", "StudyAndNumber", "StudyFile", "open_target", "split_number"]

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file.", show_default=False)]
AnyStudy = Annotated[
    str | None,
    typer.Argument(
        metavar="[STUDY]",
        help="The study file, or STORAGE_URL#name; by default the one study file in this folder.",
        show_default=False,
    ),
]
StudyAndNumber = Annotated[
    list[str],
    typer.Argument(metavar="[STUDY] NUMBER", help="As for status; then the trial's number.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Override a key of the study file; repeatable.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_LOOKS_LIKE_A_STUDY = re.compile(r"^budget\s*:", re.MULTILINE)


def open_target(target: str | None) -> Study:
    """The study a reading command means.

    Raises:
        SpecError: If it names no study, or the folder holds none or several.
        StorageError: If a stored study's database cannot be read.
    """
    if target is None:
        return load_study(_only_study_file(Path()))
    if "://" in target:
        url, hash_, name = target.rpartition("#")
        url, name = (url, name) if hash_ else (target, "")
        return open_stored(url, name or None)
    return load_study(Path(target))


def split_number(words: list[str]) -> tuple[str | None, int]:
    """Take ``[STUDY] NUMBER`` apart.

    Raises:
        SpecError: If the last word is no trial number, or there are too many.

    Example:
        >>> split_number(["study.yaml", "17"])
        ('study.yaml', 17)
        >>> split_number(["17"])
        (None, 17)
    """
    *study, number = words
    if len(study) > 1 or not number.isascii() or not number.isdigit():
        raise SpecError(
            f"{' '.join(words)!r} is not [STUDY] NUMBER: give a study file and a trial's number, such as study.yaml 17"
        )
    return (study[0] if study else None), int(number)


def _only_study_file(folder: Path) -> Path:
    files = [
        path
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
        if _LOOKS_LIKE_A_STUDY.search(path.read_text(encoding="utf-8", errors="replace"))
    ]
    if len(files) != 1:
        found = f"several study files: {', '.join(map(str, files))}" if files else "no study file"
        raise SpecError(f"this folder holds {found}; name the one you mean, e.g. tunesafe status study.yaml")
    return files[0]
