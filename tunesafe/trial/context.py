"""``tunesafe.Trial``: what user code holds.

A facade: every rule of the loop that user code can break is checked here or in ``loop``,
and every ending it could swallow is held by the trial's latch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tunesafe.contracts import Assignment, Outcome, Parameter, Position, Report, Verdict
from tunesafe.data.order import Order
from tunesafe.data.sources import num_examples
from tunesafe.data.stream import EndlessStream, Stream, open_stream
from tunesafe.errors import TrialError
from tunesafe.state.tracked import check_trackable
from tunesafe.trial.checkpointer import Checkpointer
from tunesafe.trial.endings import Latch, TrialPruned
from tunesafe.trial.epoch import Epoch
from tunesafe.trial.loop import Loop
from tunesafe.trial.memory import OWN, Memory, Notes
from tunesafe.trial.metrics import require_objective, to_float, to_floats
from tunesafe.trial.planning import settle_plan
from tunesafe.trial.preemption import SignalWatch
from tunesafe.trial.schedule import Schedule
from tunesafe.trial.services import TrialServices
from tunesafe.trial.settings import TrialSettings

__all__ = ["PRUNED_BECAUSE", "Trial"]


class Trial:
    """One attempt at one trial, in the hands of user code.

    Args:
        assignment: Which trial, and what earlier attempts reported.
        settings: What is the same for all trials of the study.
        services: The world outside.
        device: Where to train, e.g. ``"cuda:1"``.
        signals: Notes signals while a runner has entered it.
        now: A monotonic clock [s].

    Example:
        >>> from tunesafe.trial import FixedTrial
        >>> trial = FixedTrial({"batch_size": 5}, examples=10)
        >>> for epoch in trial.virtual_epochs((torch.arange(10),)):
        ...     for (x,) in epoch:
        ...         mean = trial.mean("loss", x.float().mean(), len(x))
        ...     trial.report(loss=mean)
        >>> trial.examples_seen, trial.reports[0].metrics
        (10, {'loss': 4.5})
    """

    def __init__(
        self,
        assignment: Assignment,
        settings: TrialSettings,
        services: TrialServices,
        *,
        device: str | torch.device = "cpu",
        signals: SignalWatch | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.assignment, self.settings = assignment, settings
        self.device = torch.device(device)
        self.signals = SignalWatch(now) if signals is None else signals
        self.latch = Latch()
        self.memory = Memory()
        self._services, self._now = services, now
        self._checkpointer = Checkpointer(services, now)
        self._loop: Loop | None = None
        self.outcome: Outcome | None = None
        """How the trial ended, once a runner has seen it end."""
        self._data: Stream | None = None

    # ------------------------------------------------------------------ identity and position

    @cached_property
    def params(self) -> Mapping[str, Parameter]:
        """Sampled and constant parameters; read-only."""
        return MappingProxyType(dict(self.assignment.params))

    @property
    def number(self) -> int:
        """The trial's identity in its study, 0..N-1."""
        return self.assignment.number

    @property
    def attempt(self) -> int:
        """Which try at it this is, 1-based."""
        return self.assignment.attempt

    @property
    def seed(self) -> int:
        """Derived from the study's seed and the number; the same at every attempt."""
        return self.assignment.seed

    @cached_property
    def _start(self) -> Position | None:
        with self.latch.catching():
            newest = self._checkpointer.newest()
            return None if newest is None else newest[0]

    @cached_property
    def stored_notes(self) -> Notes | None:
        """What the newest checkpoint remembers of the trial; ``None`` where there is none."""
        with self.latch.catching():
            return self._checkpointer.newest_notes()

    @property
    def resumed(self) -> bool:
        """Whether this attempt continues from a checkpoint."""
        return self._start is not None

    @property
    def examples_seen(self) -> int:
        """Position in training [examples]; right from the start of a resumed attempt."""
        if self._loop is not None:
            return self._loop.examples_seen
        return 0 if self._start is None else self._start.examples_seen

    @property
    def progress(self) -> float:
        """Share of the trial's budget consumed, 0..1."""
        if self._loop is not None:
            return self.examples_seen / self._loop.plan.total
        return 0.0 if self.stored_notes is None else self.examples_seen / self.stored_notes.total

    # ------------------------------------------------------------------ before the loop

    @property
    def tracked(self) -> Mapping[str, Any]:
        """What ``track`` has registered, by name; read-only."""
        return MappingProxyType(self.memory.tracked)

    def track(self, /, **objects: Any) -> None:
        """Register objects whose state is saved and restored together.

        Args:
            objects: Anything with ``state_dict`` and ``load_state_dict``, or plain dicts, by name.

        Raises:
            TrialError: If one cannot be tracked, a name is taken, or the loop has begun.
        """
        with self.latch.holding():
            self._before_loop("track")
            for name, value in objects.items():
                if name == OWN or name in self.memory.tracked:
                    raise TrialError(f"trial.track({name}=…): the name {name!r} is taken; choose another.")
                check_trackable(name, value)
            self.memory.tracked.update(objects)

    def schedule(self, optimizer: torch.optim.Optimizer, fn: Callable[[float], float]) -> Schedule:
        """Multiply an optimizer's base learning rates by ``fn(progress)``, before each batch.

        Args:
            optimizer: Its parameter groups' present rates are the base rates.
            fn: From progress in ``[0, 1)`` to a factor.

        Returns:
            A handle; calling its ``step()`` is harmless and not needed.

        Raises:
            TrialError: If the loop has begun.
        """
        with self.latch.holding():
            self._before_loop("schedule")
            schedule = Schedule(optimizer, fn)
            self.memory.schedules.append(schedule)
            return schedule

    def stream(self, name: str, data: Any, batch_size: int, **options: Any) -> EndlessStream:
        """A second endless loader that resumes where it was; its examples are not counted.

        Args:
            name: Names its order and its place in the state.
            data: A tuple of tensors or a map-style dataset.
            batch_size: Length of every batch [examples].
            options: ``shuffle``, ``weights``, ``device`` and DataLoader options, as in ``virtual_epochs``.

        Raises:
            TrialError: If the name is taken, or the loop has begun.
        """
        with self.latch.holding():
            self._before_loop("stream")
            if name in self.memory.streams or name == "train":
                raise TrialError(f"trial.stream({name!r}, …): the name is taken; choose another.")
            stream = self.memory.streams[name] = EndlessStream(data, batch_size, self.seed, name, **options)
            return stream

    def _before_loop(self, call: str) -> None:
        if self._loop is not None:
            raise TrialError(
                f"trial.{call}() was called after trial.virtual_epochs(), which restores everything at once. "
                f"Call it before the loop; trial.examples_seen is right by then, so what training adds later "
                f"can be rebuilt."
            )

    # ------------------------------------------------------------------ the loop

    def virtual_epochs(
        self,
        data: Any,
        batch_size: int | None = None,
        accumulate: int = 1,
        shuffle: bool = True,
        weights: Any = None,
        device: str | torch.device | None = None,
        **loader_options: Any,
    ) -> Iterator[Epoch]:
        """The virtual epochs that are left to train.

        Args:
            data: A tuple of tensors of equal length, or a map-style dataset.
            batch_size: Length of a batch [examples]; default ``params["batch_size"]``.
            accumulate: Batches per optimizer step.
            shuffle: Whether every pass is in a new order.
            weights: Relative frequency of each example: sampling with replacement. Shape ``[len(data)]``.
            device: Where batches are moved; ``None`` leaves them where the data are.
            loader_options: For torch's DataLoader, e.g. ``num_workers``.

        Returns:
            An iterator of virtual epochs; when the first is asked for, state is restored.

        Raises:
            TrialError: If it is called a second time, or the data or an option cannot be used.
            SpecError: If the budget does not fit the data, or the sizes are out of range.
        """
        with self.latch.holding():
            if self._loop is not None:
                raise TrialError("trial.virtual_epochs() was called a second time; a trial has one loop.")
            length = num_examples(data)
            plan = settle_plan(
                self.assignment, self.settings, self._services, self.stored_notes, length, batch_size, accumulate
            )
            start = Position(0, 0) if self._start is None else self._start
            order = Order(length, self.seed, shuffle=shuffle, weights=weights)
            self._data = open_stream(data, plan.batches(start), order, device=device, **loader_options)
            self._loop = Loop(
                plan,
                self._data,
                start,
                memory=self.memory,
                checkpointer=self._checkpointer,
                settings=self.settings,
                services=self._services,
                signals=self.signals,
                latch=self.latch,
                now=self._now,
            )
            return self._loop.epochs()

    def report(self, /, **metrics: Any) -> None:
        """Report what was measured, once per virtual epoch, after its batches.

        Durable when it returns, then judged.

        Args:
            metrics: Numbers, 0-d tensors or numpy scalars; the objective's metric among them.

        Raises:
            TrialError: If it comes early, twice, outside a virtual epoch, or a value is no number.
            TrialPruned: If the trial is to be pruned; swallowing it changes nothing.
        """
        with self.latch.holding():
            loop = self._open_epoch("report")
            loop.require_exhausted("trial.report()")
            epoch = loop.virtual_epoch + 1
            if epoch in self.memory.notes.history:
                raise TrialError(
                    f"trial.report() was called a second time in virtual epoch {epoch}; it belongs there once."
                )
            values = to_floats("report", metrics)
            require_objective(values, self.settings.objective)
            judgement = self._services.record(Report(epoch, loop.examples_seen, values))
            self.memory.notes.history[epoch] = self._recorded(epoch, values)
            loop.improved = judgement.improved
            match judgement.verdict:
                case Verdict.PRUNE | Verdict.DIVERGED:
                    raise TrialPruned(PRUNED_BECAUSE[judgement.verdict].format(epoch))
                case Verdict.STOP:
                    self.memory.notes.stopped = f"early stopping after virtual epoch {epoch}"

    def _recorded(self, epoch: int, values: dict[str, float]) -> dict[str, float]:
        """What the trial's history holds: an earlier attempt's record stands, whatever was measured now."""
        earlier = (record.report for record in self.assignment.records)
        return next((dict(report.metrics) for report in earlier if report.virtual_epoch == epoch), values)

    def stop(self, reason: str) -> None:
        """End the trial early on purpose, as complete, after a report.

        The loop gives no further virtual epoch; leaving it, or returning, is right too.

        Raises:
            TrialError: If the current virtual epoch has not reported.
        """
        with self.latch.holding():
            if not self.ended:
                epoch = self._open_epoch("stop").virtual_epoch + 1
                if epoch not in self.memory.notes.history:
                    raise TrialError(
                        f"trial.stop() came before trial.report() in virtual epoch {epoch}: a trial ends with a value."
                    )
            if self.memory.notes.stopped is None:
                self.memory.notes.stopped = str(reason)

    def _open_epoch(self, call: str) -> Loop:
        if self._loop is None or self._loop.epoch is None:
            raise TrialError(
                f"trial.{call}() was called outside of a virtual epoch; it belongs into the loop over "
                f"trial.virtual_epochs()."
            )
        return self._loop

    # ------------------------------------------------------------------ values

    def mean(self, name: str, value: Any, n: float = 1) -> float:
        """Add to a running mean over this virtual epoch; it survives resumption inside it.

        Args:
            name: Which mean.
            value: A number or 0-d tensor, the mean over ``n`` examples.
            n: What it weighs [examples].

        Returns:
            The mean so far; NaN while nothing has weight.

        Raises:
            TrialError: If ``value`` is no number, or ``n`` is negative.
        """
        with self.latch.holding():
            weight = to_float(f"trial.mean({name!r}, …, n)", n)
            if weight < 0:
                raise TrialError(f"trial.mean({name!r}, …) got n={n}; a weight cannot be negative.")
            return self.memory.means.add(name, to_float(f"trial.mean({name!r}, …)", value), weight)

    def result(self, /, **metrics: Any) -> None:
        """Give final metrics that are not judged, such as a test score."""
        with self.latch.holding():
            self.memory.notes.result.update(to_floats("result", metrics))

    def log(self, /, **values: Any) -> None:
        """Hand values to trackers, at the present position."""
        with self.latch.holding():
            self._services.log(to_floats("log", values), self.examples_seen)

    def artifact(self, path: str | Path) -> None:
        """Keep a copy of a file with the trial.

        Raises:
            TrialError: If there is no such file.
        """
        with self.latch.holding():
            if not Path(path).is_file():
                raise TrialError(f"trial.artifact({str(path)!r}): there is no such file.")
            self._services.artifact(Path(path))

    # ------------------------------------------------------------------ for the runner

    @property
    def ended(self) -> bool:
        """Whether the loop has no virtual epoch left, its last one reported."""
        return self._loop is not None and self._loop.ended

    def finish(self) -> None:
        """Check that user code was right to return, and save the final state; for ``run_trial``."""
        with self.latch.holding():
            if self._loop is None:
                raise TrialError("User code returned without calling trial.virtual_epochs(): nothing was trained.")
            self._loop.finish()

    def close(self) -> None:
        """Let go of the data; loader workers end."""
        for stream in (self._data, *self.memory.streams.values()):
            if stream is not None:
                stream.close()


PRUNED_BECAUSE = {
    Verdict.PRUNE: "pruned after virtual epoch {}",
    Verdict.DIVERGED: "diverged in virtual epoch {}: the objective is NaN or infinite",
}
"""What an ending by verdict is called, by the virtual epoch it came in."""
