"""``Study``: what a user holds. Made from a study file, from Python, or from a database."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesafe.api.checkpoints import (
    CheckpointContent,
    CheckpointList,
    PruneResult,
    VerifiedCheckpoint,
    checkpoint_content,
    list_checkpoints,
    verify_checkpoints,
)
from tunesafe.api.stored import StoredStudy, study_in
from tunesafe.api.views import RunResult, StudyPlan, StudyStatus, TrialView
from tunesafe.contracts import Event, LogChunk, Notice
from tunesafe.errors import SpecError
from tunesafe.spec import StudySpec, load_spec, spec_from_mapping

__all__ = ["Study", "load_study", "open_stored"]


class Study:
    """A study: N trials of one training function over one search space.

    Reading (``status``, ``trials``, ``best_trial``, ``logs``) gives values as they are stored
    now; it creates nothing and needs none of the user's code.

    Args:
        name: Its name, unique in its database.
        trainable: The training function or ``tunesafe.Trainable`` subclass, or where it is:
            ``"FILE.py:NAME"`` or ``"package.module:NAME"``.
        parameters: The search space: a mapping is searched, a bare value is a constant.
        budget: ``{"passes": …}`` or ``{"examples": …}``, and ``"virtual_epochs"``.
        objective: ``{"metric": …, "direction": "minimize" or "maximize"}``.
        n_trials: Trials in all, over every run.
        folder: What relative paths are relative to; the working directory by default.
        options: Every other key of the study file, e.g. ``seed=17`` or ``pruner={"name": "hyperband"}``.

    Raises:
        SpecError: All that is wrong with it, in one error.

    Example:
        >>> study = Study(
        ...     name="digits",
        ...     trainable="digits.py:train",
        ...     parameters={"lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True}},
        ...     budget={"passes": 14.3, "virtual_epochs": 15},
        ...     objective={"metric": "val_loss", "direction": "minimize"},
        ...     n_trials=50,
        ... )
        >>> study.spec.budget.total_examples(1437)
        20549
    """

    def __init__(
        self,
        *,
        name: str,
        trainable: Callable[..., Any] | str,
        parameters: Mapping[str, Any],
        budget: Mapping[str, Any],
        objective: Mapping[str, Any],
        n_trials: int,
        folder: Path | str | None = None,
        **options: Any,
    ) -> None:
        base = Path(folder or Path()).absolute()
        function = None if isinstance(trainable, str) else trainable
        if function is not None and not callable(function):
            raise SpecError(f"trainable must be a function, a class or 'FILE.py:NAME', found {function!r}")
        keys = {"name": name, "objective": objective, "budget": budget, "parameters": parameters, "n_trials": n_trials}
        reference = trainable if isinstance(trainable, str) else _reference_of(trainable, base)
        if reference is not None:
            keys["trainable"] = reference
        elif options.get("n_workers", 1) != 1:
            raise SpecError(
                f"n_workers is {options['n_workers']}, but {getattr(function, '__name__', function)!r} is defined in a "
                "notebook or inside another function, where other processes cannot find it. Nothing was started. "
                "Put it at the top of a file of its own, or use n_workers=1."
            )
        self._set(spec_from_mapping({**keys, **options}, base=base), base, None, function)

    def _set(self, spec: StudySpec, folder: Path | None, text: str | None, function: Callable[..., Any] | None) -> None:
        self._spec, self._folder, self._text, self._function = spec, folder, text, function
        self._stored = StoredStudy(spec.storage, spec.name)

    @classmethod
    def _make(cls, spec: StudySpec, folder: Path | None, text: str | None) -> Study:
        study = cls.__new__(cls)
        study._set(spec, folder, text, None)
        return study

    def __repr__(self) -> str:
        return f"<tunesafe.Study {self._spec.name!r}>"

    @property
    def spec(self) -> StudySpec:
        """The study file's content, validated, with defaults filled in."""
        return self._spec

    def run(self, notify: Callable[[Notice], None] | None = None, *, accept_changes: bool = False) -> RunResult:
        """Start the study, continue it, or find that there is nothing to do.

        Args:
            notify: Told what happens while it works.
            accept_changes: Go on after a change that makes finished trials mean something else.

        Returns:
            How it ended; an interruption and failing user code are ends, not errors.

        Raises:
            SpecError: Something the user has to change; nothing was started.
            StorageError: The database cannot be used.
        """
        # Brings torch and Optuna, which reading a study does without.
        from tunesafe.api import running  # noqa: PLC0415

        return running.run(
            self._spec, self._needs_folder(), self._text, self._function, notify or _nobody, accept_changes
        )

    def check(self) -> StudyPlan:
        """Validate everything that can be known without training; nothing is created.

        Raises:
            SpecError: What the user has to change.
        """
        # Brings torch and Optuna, as in run().
        from tunesafe.api import running  # noqa: PLC0415

        return running.check(self._spec, self._needs_folder(), self._function)

    def status(self) -> StudyStatus:
        """Where the study stands: trials by state, the best so far, who works on what.

        Raises:
            StorageError: If the study has not been started.
        """
        return self._stored.status()

    @property
    def trials(self) -> list[TrialView]:
        """Every trial that has begun, by number."""
        return self._stored.trials()

    def trial(self, number: int) -> TrialView:
        """One trial that has begun.

        Raises:
            SpecError: If there is no such trial.
        """
        return self._stored.trial(number)

    @property
    def best_trial(self) -> TrialView | None:
        """The complete trial with the best value; the lowest number among equals."""
        return self._stored.best()

    def logs(self, number: int) -> list[LogChunk]:
        """What a trial printed, in order.

        Raises:
            SpecError: If there is no such trial.
        """
        return self._stored.logs(number)

    def events(self, number: int) -> list[Event]:
        """What happened to a trial, in order: claims, interruptions, its end."""
        return self._stored.events(number)

    def export(self, directory: Path | str, trial: int | None = None, virtual_epoch: int | None = None) -> Path:
        """Write a trial's weights, its story and its code into a folder.

        ``model.safetensors`` holds the tracked object named ``model`` (or the only module
        tracked); other tracked modules are files of their own names. ``trial.json`` holds
        parameters, metrics, seeds, versions and fingerprints, ``source/`` the trainable's code.

        Args:
            directory: Made if it does not exist; must be empty.
            trial: Its number; the best by default.
            virtual_epoch: Which checkpoint; the selected one by default.

        Returns:
            The folder.

        Raises:
            SpecError: If there is no such trial or no such checkpoint; the kept ones are named.
            DamagedError: If the checkpoint asked for is damaged.
        """
        # Brings torch, which reading a study does without.
        from tunesafe.api import exporting  # noqa: PLC0415

        return exporting.export(self._stored, Path(directory), trial, virtual_epoch)

    def checkpoints(self, trial: int | None = None) -> CheckpointList:
        """The checkpoints there are, of the study or of one trial, and how many bytes they take.

        Raises:
            SpecError: If there is no such trial.
        """
        return list_checkpoints(self._stored, trial)

    def checkpoint(self, trial: int, virtual_epoch: int | None = None) -> CheckpointContent:
        """What one checkpoint consists of, tensor by tensor; the trial's newest by default.

        Raises:
            SpecError: If there is no such trial or no such checkpoint.
            DamagedError: If the list of its tensors is damaged.
        """
        return checkpoint_content(self._stored, trial, virtual_epoch)

    def verify_checkpoints(self, trial: int | None = None) -> Iterator[VerifiedCheckpoint]:
        """Read checkpoints to their last byte, one after the other; nothing is changed.

        Yields:
            Each as soon as it is read; ``damage`` says what is not as it was written.

        Raises:
            SpecError: If there is no such trial.
        """
        return verify_checkpoints(self._stored, trial)

    def prune_checkpoints(self, *, dry_run: bool = False) -> PruneResult:
        """Remove what ``checkpoint.keep`` does not ask for of trials that are over, and what killed processes left.

        The rules are those the study last ran with. Others may work on the study meanwhile; what a
        live trial goes on from is not touched.

        Args:
            dry_run: Only say what would be removed.
        """
        # Brings Optuna, which reading a study does without.
        from tunesafe.api import pruning  # noqa: PLC0415

        return pruning.prune_checkpoints(self._stored, dry_run=dry_run)

    def _needs_folder(self) -> Path:
        if self._folder is None:
            raise SpecError(
                f"study {self._spec.name!r} was opened by its storage, for reading. To run it, name its study file."
            )
        return self._folder


def load_study(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """The study of a study file.

    Args:
        path: The study file.
        overrides: ``key.path=value`` each, as ``--set`` takes them.

    Raises:
        SpecError: All that is wrong with it in one error, with file, line and column.
    """
    file = Path(path)
    return Study._make(load_spec(file, overrides), file.absolute().parent, file.read_text(encoding="utf-8-sig"))


def open_stored(url: str, name: str | None = None) -> Study:
    """A study by where it is stored, for reading only.

    Args:
        url: The database.
        name: The study; may be left out where the database holds only one.

    Raises:
        StorageError: If there is no such database or study; nothing is created.
    """
    stored = study_in(url, name)
    return Study._make(stored.spec(), None, None)


def _reference_of(function: Callable[..., Any], folder: Path) -> str | None:
    """Where another process finds a function; ``None`` in a notebook or inside a function.

    ``FILE.py:NAME``, or ``package.module:NAME`` for a module that may import its neighbours relatively.
    """
    module, name = sys.modules.get(function.__module__), getattr(function, "__qualname__", "")
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py") or getattr(module, name, None) is not function:
        return None
    if "." in function.__module__ and Path(file).with_name("__init__.py").exists():
        return f"{function.__module__}:{name}"
    return f"{os.path.relpath(file, folder)}:{name}"


def _nobody(notice: Notice) -> None:
    """Nobody watches."""
