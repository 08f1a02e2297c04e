"""What ``import tunesafe`` and the command line offer: frozen, so that a change is a decision."""

from __future__ import annotations

import ast
import subprocess
import sys

from tests.architecture.commands import commands, options
from tests.architecture.source import PACKAGE, ROOT, modules

# A name added here is a promise, a name removed breaks somebody: both stand in CHANGELOG.md.
PUBLIC_NAMES = {
    "ChangeRefusedError",
    "DamagedError",
    "ExitCode",
    "FixedTrial",
    "LeaseLostError",
    "MissingExtraError",
    "Preempted",
    "SpecError",
    "StateError",
    "StorageError",
    "Study",
    "Trainable",
    "Trial",
    "TrialError",
    "TrialPruned",
    "TrialView",
    "TunesafeError",
    "__version__",
    "load_study",
    "open_stored",
}

COMMANDS = {
    "init": set[str](),
    "check": {"--set", "--json"},
    "run": {"--workers", "--set", "--accept-changes"},
    "status": {"--json", "--watch"},
    "show": {"--json"},
    "best": {"--json"},
    "logs": {"--json"},
    "export": {"--json", "--output", "--trial", "--virtual-epoch"},
    "restore": set[str](),
    "checkpoints list": {"--json", "--trial"},
    "checkpoints show": {"--json", "--virtual-epoch"},
    "checkpoints verify": {"--json", "--trial"},
    "checkpoints prune": {"--json", "--dry-run"},
}


def test_public_names_are_the_agreed_ones() -> None:
    """The ratchet: add or remove a name here when you mean it."""
    assert set(modules()["tunesafe"].exported) == PUBLIC_NAMES


def test_type_checkers_see_the_same_names() -> None:
    """``__init__.pyi`` stands in for imports made on first use, and must not fall behind them."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    seen = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    seen |= {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert seen == PUBLIC_NAMES


def test_every_public_name_can_be_had() -> None:
    """Each in a fresh interpreter's own first import of the package."""
    statement = (
        f"import tunesafe\nfor name in {sorted(PUBLIC_NAMES)!r}:\n    assert getattr(tunesafe, name) is not None"
    )
    run = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr


def test_commands_and_options_are_the_agreed_ones() -> None:
    """Scripts of our users hold them; keys of the study file are held by the committed schema."""
    assert {command: options(command) for command in commands()} == COMMANDS
