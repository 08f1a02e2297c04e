"""Changing one value in the text of a study file, so that all the rest stays as its author wrote it.

For a study that is brought back elsewhere: the text is the one its author wrote, valid or not here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from tunesafe.errors import SpecError
from tunesafe.spec.reader import parse

__all__ = ["keys_of", "with_value"]


def keys_of(text: str) -> Mapping[str, Any]:
    """The keys and plain values of a study file's text; none if it is not one."""
    try:
        data = parse(text, file="the stored study file").data
    except SpecError:
        return {}
    return data if isinstance(data, dict) else {}


def with_value(text: str, path: tuple[str, ...], value: str) -> str | None:
    r"""The text with another value at a path of keys; ``None`` if there is no scalar at that path.

    Example:
        >>> with_value("name: a  # mine\nbackup: old  # there\n", ("backup",), "new")
        'name: a  # mine\nbackup: "new"  # there\n'
    """
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except YAMLError:
        return None
    for key in path:
        if not isinstance(node, MappingNode):
            return None
        node = next((item for name, item in node.value if name.value == key), None)
    if not isinstance(node, ScalarNode):
        return None
    written = json.dumps(value, ensure_ascii=False)  # as YAML reads it, too
    return text[: node.start_mark.index] + written + text[node.end_mark.index :]
