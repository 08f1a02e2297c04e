"""``tunesafe check``: is this study ready to run?"""

from __future__ import annotations

from tunesafe.api import load_study
from tunesafe.cli import documents, pages
from tunesafe.cli.targets import AsJson, Overrides, StudyFile

__all__ = ["check"]


def check(study: StudyFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Validate a study file and what it names, and say what it will do; nothing is created."""
    plan = load_study(study, overrides or ()).check()
    print(documents.to_json(documents.plan_document(plan)) if as_json else pages.plan_page(plan))
