"""Training one trial: the only module of this floor that imports torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from tunesafe.contracts import Assignment, Outcome
from tunesafe.errors import ExitCode
from tunesafe.spec import StudySpec
from tunesafe.trial.context import Trial
from tunesafe.trial.preemption import SignalWatch
from tunesafe.trial.runner import run_trial
from tunesafe.trial.services import TrialServices
from tunesafe.trial.settings import TrialSettings

__all__ = ["train_trial"]


def train_trial(
    train: Callable[..., Any],
    assignment: Assignment,
    spec: StudySpec,
    services: TrialServices,
    signals: SignalWatch,
    num_threads: int,
    index: int,
) -> Outcome:
    """Run the user's code on one trial.

    Args:
        train: The user's function, or ``Trainable`` class.
        assignment: Which trial.
        spec: The study file.
        services: The study's side.
        signals: Asked whether to leave.
        index: Which of several workers this is, 0-based.
        num_threads: Threads of torch's operators; they change the last bits of sums, hence fixed per study.

    Raises:
        Preempted, LeaseLostError, StorageError, SpecError: The attempt ends without an outcome.
    """
    torch.set_num_threads(num_threads)
    settings = TrialSettings(spec.budget, spec.objective, spec.checkpoint, spec.grace)
    trial = Trial(assignment, settings, services, device=_device(index), signals=signals)
    worker = os.getpid()
    try:
        return run_trial(train, trial)
    finally:
        if os.getpid() != worker:  # user code forked, and its child came back: the trial is not the child's to end
            os._exit(ExitCode.FAILED)


def _device(index: int) -> str:
    """Devices are dealt out round-robin where there are any."""
    return f"cuda:{index % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
