"""Imports only go down: the floors of DESIGN 5, and no circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.architecture.source import Import, Module, modules

# Bottom to top. A room may import rooms of lower floors, never a neighbour. The ground floor is
# one room in several files: values, errors and pure arithmetic.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"contracts", "errors", "seeds", "failpoints"}),
    # options and rehearsal serve the sampling of study/ and the verdicts of schedulers/, which do not know each other.
    frozenset({"spec", "data", "state", "store", "trackers", "clock", "options", "rehearsal"}),
    frozenset({"trial", "study", "schedulers"}),
    frozenset({"worker", "report"}),
    frozenset({"executors"}),
    frozenset({"api"}),
    frozenset({"cli"}),
)
GROUND = FLOORS[0]
# The front door (``import tunesafe``) and ``python -m tunesafe`` look into every room; nobody looks back at them,
# but for the version.
ROOF = frozenset({"__init__", "__main__"})
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}

EVERY_MODULE = pytest.mark.parametrize("module", modules().values(), ids=str)


def room(name: str) -> str:
    """The room a dotted module name belongs to."""
    _, _, inside = name.partition(".")
    return inside.split(".")[0] if inside else "__init__"


def imported(module: Module) -> Iterator[tuple[Import, str]]:
    """What a module imports from the package: the import and the module it means."""
    for each in module.imports:
        submodule = f"{each.module}.{each.name}"
        target = submodule if submodule in modules() else each.module
        if target.split(".")[0] == "tunesafe":
            yield each, target


@EVERY_MODULE
def test_every_module_belongs_to_a_room(module: Module) -> None:
    """A new room gets a floor (and a line in ARCHITECTURE.md) before it gets importers."""
    assert room(module.name) in FLOOR_OF.keys() | ROOF, f"{module} stands on no floor: add it to FLOORS"


@EVERY_MODULE
def test_imports_only_go_down(module: Module) -> None:
    """A module imports its own room and rooms of lower floors, wherever the import stands."""
    here = room(module.name)
    if here in ROOF:
        return
    for each, target in imported(module):
        there = room(target)
        if there == here or (here in GROUND and there in GROUND):
            continue
        if there == "__init__" and each.name == "__version__":
            continue
        assert there in FLOOR_OF, f"{module}:{each.line} imports {target}, which stands on no floor"
        assert FLOOR_OF[there] < FLOOR_OF[here], (
            f"{module}:{each.line} imports {target}: {here} (floor {FLOOR_OF[here] + 1}) may only use lower floors, "
            f"{there} stands on {FLOOR_OF[there] + 1}"
        )


def test_modules_import_each_other_in_no_circle() -> None:
    """Any module can be read after the ones it imports; imports inside functions count."""
    graph = {
        module.name: {target for _, target in imported(module) if target != module.name}
        for module in modules().values()
        if room(module.name) not in ROOF
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("imports run in a circle: " + " -> ".join(reversed(error.args[1])))


@EVERY_MODULE
def test_no_import_hides_behind_type_checking(module: Module) -> None:
    """An import that only the type checker sees hides a circle."""
    lines = [node.lineno for node in ast.walk(module.tree) if isinstance(node, ast.Name) and node.id == "TYPE_CHECKING"]
    assert not lines, f"{module}:{lines[0]} imports behind TYPE_CHECKING: move the type down a floor instead"
