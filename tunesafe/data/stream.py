"""The stream a training loop reads: batches of any data, from any position on.

``open_stream`` serves the batches of a plan; ``EndlessStream`` serves equal batches for as
long as it is asked, and its whole state is one integer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from operator import index
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch

from tunesafe.data.blocks import Span
from tunesafe.data.loader import check_options, loader_batches
from tunesafe.data.order import Order
from tunesafe.data.sources import Columns, classify, num_examples
from tunesafe.data.tensors import tensor_batches
from tunesafe.errors import StateError, TrialError

__all__ = ["EndlessStream", "Stream", "num_examples", "open_stream"]


class Stream:
    """An iterator over batches; closing it stops its workers. Made by ``open_stream``.

    Args:
        batches: Where they come from.
    """

    def __init__(self, batches: Generator[Any, None, None]) -> None:
        self._batches = batches

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def close(self) -> None:
        """Stop the workers, if any; iterating ends here. Closing twice is harmless."""
        self._batches.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_stream(
    data: Any,
    spans: Iterable[Span],
    order: Order,
    *,
    device: torch.device | str | None = None,
    **options: Any,
) -> Stream:
    """Read the batches of a plan. Nothing is read, and no worker started, before the first is asked for.

    A tuple of tensors gives tuples, a list of tensors lists, a bare tensor bare tensors; a dataset gives what
    torch's DataLoader would. Tensors (a plain TensorDataset too) are indexed directly: options about workers do
    not concern them, and are ignored, unless a ``collate_fn`` asks for single examples.

    Args:
        data: A tuple or list of tensors of equal length, one tensor, or a map-style dataset.
        spans: Start and size of each batch, ``clock.Plan.batches(position)`` for a trial.
        order: Which example stands at which position; as long as the data.
        device: Where the batches are wanted; where the data are unless given.
        options: torch's DataLoader's, except those that would fight the stream.

    Raises:
        TrialError: If the data are not a source of examples or empty, or an option is refused.

    Example:
        >>> data = torch.arange(4), torch.arange(4) * 10
        >>> stream = EndlessStream(data, batch_size=3, seed=0, shuffle=False)
        >>> [x.tolist() for x, _ in (next(stream), next(stream))]
        [[0, 1, 2], [3, 0, 1]]
    """
    check_options(options)
    length = num_examples(data)
    assert order.n == length, f"an order of {order.n} examples for data of {length}"
    source = classify(data)
    if isinstance(source, Columns) and options.get("collate_fn") is None:
        return Stream(tensor_batches(source, spans, order, device))
    if isinstance(source, Columns):
        source = data if hasattr(data, "tensors") else torch.utils.data.TensorDataset(*source.tensors)
    return Stream(loader_batches(source, spans, order, device, options))


class _Range(NamedTuple):
    start: int
    size: int


class EndlessStream:
    """Equal batches without end, resumable at any of them; they do not count as training examples.

    Args:
        data: As in ``open_stream``.
        batch_size: Length of every batch [examples]; a batch may run over into the next pass.
        seed: The trial's seed.
        name: Streams of different names are independent.
        shuffle: A new shuffle in every pass, or in sequence.
        weights: Sample with replacement instead, one weight per example.
        device: Where the batches are wanted.
        options: torch's DataLoader's.

    Raises:
        TrialError: As ``open_stream``, or if ``batch_size`` is no whole number of at least 1.
    """

    def __init__(
        self,
        data: Any,
        batch_size: int,
        seed: int,
        name: str = "stream",
        *,
        shuffle: bool = True,
        weights: Any = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or index(batch_size) < 1:
            raise TrialError(
                f"batch_size of the stream {name!r} is {batch_size!r}; it must be a whole number of at least 1."
            )
        check_options(options)
        self._data, self._batch_size = data, index(batch_size)
        self._order = Order(num_examples(data), seed, shuffle=shuffle, weights=weights, stream=name)
        self._device, self._options = device, options
        self._position = 0
        self._open: Stream | None = None

    @property
    def position(self) -> int:
        """Examples handed out so far: all there is to restore."""
        return self._position

    def seek(self, position: int) -> None:
        """Continue as if this many examples had been handed out, in constant time."""
        if position != self._position:
            self.close()
            self._position = position

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._open is None:
            self._open = open_stream(self._data, self._spans(), self._order, device=self._device, **self._options)
        batch = next(self._open)
        self._position += self._batch_size
        return batch

    def _spans(self) -> Iterator[_Range]:
        start = self._position
        while True:
            yield _Range(start, self._batch_size)
            start += self._batch_size

    def state_dict(self) -> dict[str, int]:
        """The position, for ``trial.track``."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            StateError: If it is not the state of a stream.
        """
        position = state.get("position")
        if not isinstance(position, int) or position < 0:
            raise StateError(f"The state of the stream {self._order.stream!r} is {state!r}, without a valid position.")
        self.seek(position)

    def close(self) -> None:
        """Stop the workers, if any; asking for another batch starts them again."""
        if self._open is not None:
            self._open.close()
            self._open = None
