"""Who does a study's work: one worker here, or n supervised processes."""

from __future__ import annotations

from tunesafe.executors.here import run_study
from tunesafe.executors.results import RunResult
from tunesafe.executors.supervisor import supervise
from tunesafe.executors.untouched import finished_untouched

__all__ = ["RunResult", "finished_untouched", "run_study", "supervise"]
