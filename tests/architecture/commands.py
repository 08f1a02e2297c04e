"""The command line as its own help describes it."""

from __future__ import annotations

import re
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO

import pytest

from tunesafe.cli import main

__all__ = ["commands", "help_of", "options"]


@cache
def help_of(*command: str) -> str:
    """What ``tunesafe COMMAND --help`` prints; empty if there is no such command."""
    printed = StringIO()
    with pytest.raises(SystemExit) as ended, redirect_stdout(printed), redirect_stderr(StringIO()):
        main([*command, "--help"])
    return printed.getvalue() if not ended.value.code else ""


def commands() -> list[str]:
    """Every command; one of a group with the group's name before it."""
    return [command for name in _listed() for command in ([f"{name} {each}" for each in _listed(name)] or [name])]


def _listed(*group: str) -> list[str]:
    _, _, listed = help_of(*group).partition("Commands:")
    return re.findall(r"^  (\w[\w-]*)", listed, re.MULTILINE)


def options(command: str) -> set[str]:
    """Long options of a command, without ``--help``."""
    _, _, listed = help_of(*command.split()).partition("Options:")
    return set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", listed, re.MULTILINE)) - {"--help"}
