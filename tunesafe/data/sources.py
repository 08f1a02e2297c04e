"""What may be trained on, and what it is: columns of tensors, or a map-style dataset.

Whatever else is passed is refused here, with what to pass instead, before any of it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tunesafe.errors import TrialError, a_or_an

__all__ = ["Columns", "MapDataset", "Source", "classify", "num_examples"]


class MapDataset(Protocol):
    """A map-style dataset: what torch's DataLoader reads by index."""

    def __len__(self) -> int:
        """How many examples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """One example."""
        ...


class Columns(NamedTuple):
    """Tensors whose first dimension counts the examples.

    Args:
        tensors: At least one, of equal length.
        form: What a batch of them is: ``tuple``, ``list``, or None for a bare tensor.
    """

    tensors: tuple[Tensor, ...]
    form: type[tuple[Tensor, ...]] | type[list[Tensor]] | None

    def __len__(self) -> int:
        return self.tensors[0].shape[0]


Source = Columns | MapDataset


def num_examples(data: Any) -> int:
    """Length of one pass over the data [examples].

    Raises:
        TrialError: If the data are not a source of examples, or empty.

    Example:
        >>> num_examples(["an example", "another"])
        2
    """
    length = _length(classify(data))
    if length == 0:
        raise TrialError(f"The training data ({_name(data)}) are empty: a stream needs at least one example to repeat.")
    return length


def classify(data: Any) -> Source:
    """What kind of source the data are.

    Args:
        data: A tuple or list of tensors of equal length, one such tensor, or a map-style dataset. A TensorDataset of
            contiguous tensors counts as its tensors: indexing them gives the same bits as collating their rows.

    Raises:
        TrialError: If they are none of these; the message says what to pass instead.
    """
    if isinstance(data, Tensor):
        return _columns((data,), None, data)
    if type(data) is TensorDataset and all(type(t) is Tensor and t.is_contiguous() for t in data.tensors):
        return _columns(tuple(data.tensors), list, data)
    if isinstance(data, (tuple, list)) and any(isinstance(part, (Tensor, np.ndarray)) for part in data):
        others = [i for i, part in enumerate(data) if not isinstance(part, Tensor)]
        if others:
            raise TrialError(
                f"The training data are {a_or_an(type(data).__name__)} whose element {others[0]} is "
                f"{a_or_an(_name(data[others[0]]))}, not a tensor. Make every element a tensor with the examples along "
                "its first dimension (torch.from_numpy for arrays), or pass a map-style dataset."
            )
        return _columns(tuple(data), list if isinstance(data, list) else tuple, data)
    _refuse_foreign(data)
    return cast(MapDataset, data)


def _columns(
    tensors: tuple[Tensor, ...], form: type[tuple[Tensor, ...]] | type[list[Tensor]] | None, data: Any
) -> Columns:
    shapes = [list(t.shape) for t in tensors]
    if not all(shapes):
        raise TrialError(
            f"The training data ({_name(data)}) hold a tensor without dimensions (shapes {shapes}); "
            "the first dimension of each must count the examples."
        )
    if len({shape[0] for shape in shapes}) > 1:
        raise TrialError(
            f"The training tensors differ in length: their shapes are {shapes}, and the first dimension of each must "
            "count the same examples. (For a list of examples rather than of columns, pass a map-style dataset.)"
        )
    return Columns(tensors, form)


def _refuse_foreign(data: Any) -> None:
    instead = "Pass the map-style dataset itself (with __len__ and __getitem__), or a tuple of tensors"
    if isinstance(data, DataLoader):
        raise TrialError(
            f"The training data are a ready DataLoader, which cannot be resumed inside a pass. {instead}, and give "
            "its options (num_workers, collate_fn, …) to virtual_epochs. Ready loaders come in a later version."
        )
    map_style = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (Mapping, str))
    if isinstance(data, IterableDataset) or (isinstance(data, Iterable) and not map_style):
        hint = " (a mapping of columns becomes a tuple of its values)" if isinstance(data, Mapping) else ""
        raise TrialError(
            f"The training data ({_name(data)}) can only be iterated, not read by position. {instead}{hint}. "
            "Iterable datasets come in a later version."
        )
    if not map_style:
        raise TrialError(f"The training data ({_name(data)}) have no __len__ and __getitem__. {instead}.")


def _length(source: Sequence[Any] | Source) -> int:
    try:
        return len(source)
    except (TypeError, NotImplementedError) as error:
        raise TrialError(f"The training data ({_name(source)}) do not know their length: {error}.") from error


def _name(data: Any) -> str:
    return type(data).__name__
