"""Notices of a run as lines of text. Pure; nothing here prints."""

from __future__ import annotations

from typing import Any

from tunesafe.cli import render
from tunesafe.contracts import Notice
from tunesafe.spec import mask_password, render_diff

__all__ = ["ENDINGS", "Narrator"]

ENDINGS = {"completed": "complete", "pruned": "pruned", "failed": "failed"}
"""Kinds of notices that end a trial, and the words for it."""


class Narrator:
    """Notices as lines of text.

    Args:
        name: The study.
        metric: The objective's metric; it comes first among the reported ones.

    Example:
        >>> details = {"virtual_epoch": 5, "virtual_epochs": 15, "metrics": {"accuracy": 0.9, "val_loss": 0.43123}}
        >>> Narrator("digits", "val_loss")(Notice("reported", 3, details))
        'trial 3  virtual epoch 5/15  val_loss=0.4312  accuracy=0.9'
    """

    def __init__(self, name: str, metric: str) -> None:
        self._name, self._metric = name, metric

    def __call__(self, notice: Notice) -> str:
        """The notice in words; may be several lines."""
        details = dict(notice.details)
        match notice.kind:
            case "opened":
                return self._opened(details)
            case "claimed":
                return self._of(notice, f"starts  {render.assignments(details.get('params') or {})}")
            case "resumed" | "reclaimed":
                return self._of(notice, self._continued(details))
            case "reported":
                return self._of(notice, self._reported(details))
            case "completed" | "pruned" | "failed":
                return self._of(notice, self._ended(notice.kind, details))
            case "released":
                return self._of(notice, f"given back: {details.get('reason') or 'it continues with the next run'}")
            case "output":
                return f"trial {notice.number} | {details['text']}".rstrip()
            case _:
                kind = details.pop("event", notice.kind)
                return self._of(notice, f"event {kind}  {render.assignments(details)}".rstrip())

    def _of(self, notice: Notice, text: str) -> str:
        return text if notice.number is None else f"trial {notice.number}  {text}"

    def _opened(self, details: dict[str, Any]) -> str:
        ended, total = details["ended"], details["n_trials"]
        standing = "finished" if ended >= total else "continuing" if details.get("begun", ended) else "starting"
        storage = mask_password(details["storage"])
        line = f"study {self._name}: {ended} of {total} trials ended, {standing}; storage {storage}"
        if details.get("grid_points") and ended < total:
            line += f"\nthe grid has {details['grid_points']} points: the study ends with those"
        changes = details.get("changes")
        return f"{line}\nchanged since the last run:\n{render_diff(changes)}" if changes else line

    def _continued(self, details: dict[str, Any]) -> str:
        seen = details.get("examples_seen")
        reports = details.get("reports")
        where = f" after virtual epoch {reports}" if reports else ""
        where = f" at example {render.examples(seen)}" if seen is not None else where
        return f"continues{where}  attempt {details.get('attempt')}"

    def _reported(self, details: dict[str, Any]) -> str:
        metrics = dict(details["metrics"])
        first = {self._metric: metrics.pop(self._metric)} if self._metric in metrics else {}
        return (
            f"virtual epoch {details['virtual_epoch']}/{details['virtual_epochs']}  "
            f"{render.assignments({**first, **metrics})}"
        )

    def _ended(self, kind: str, details: dict[str, Any]) -> str:
        parts = [ENDINGS[kind]]
        if details.get("value") is not None:
            parts.append(f"{self._metric}={render.number(details['value'])}")
        if details.get("reason"):
            parts.append(f"({details['reason']})")
        line = "  ".join(parts)
        trace = details.get("traceback")
        return f"{line}\n{render.indented(trace)}" if trace else line
