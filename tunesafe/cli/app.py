"""The commands put together, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from tunesafe import __version__
from tunesafe.cli import checking, checkpoints, exporting, reading, restoring, running, starting
from tunesafe.errors import ExitCode, TunesafeError

__all__ = ["main"]

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_DISK_ADVICE = "What the study had committed is unharmed. Free some space, then run the same command again."
_app = typer.Typer(
    name="tunesafe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    starting.init,
    checking.check,
    running.run,
    reading.status,
    reading.show,
    reading.best,
    reading.logs,
    exporting.export,
    restoring.restore,
):
    _app.command()(_command)
_app.add_typer(checkpoints.app, name="checkpoints")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tunesafe {__version__}")
        raise typer.Exit


@_app.callback()
def _tunesafe(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hyperparameter tuning on Optuna that survives the machine it runs on.

    Exit codes: 0 done, nothing to do or timed out; 1 otherwise; 2 usage or study file; 3 storage;
    4 damaged state; 5 every worker lost its lease; 6 user code raised; 75 interrupted, run again to continue.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code.

    An error of tunesafe's own is its message on standard error, without a traceback;
    ``TUNESAFE_DEBUG=1`` shows that too.

    Args:
        arguments: What follows ``tunesafe`` on the command line; the process's own by default.

    Raises:
        SystemExit: Always; its code is an :class:`~tunesafe.errors.ExitCode`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a study may hold text that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        _app(args=arguments, prog_name="tunesafe")
    except TunesafeError as error:
        if os.environ.get("TUNESAFE_DEBUG"):
            raise
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _DISK or os.environ.get("TUNESAFE_DEBUG"):
            raise
        where = error.filename or "a disk"
        print(f"{where} cannot be written: {error.strerror}.\n{_DISK_ADVICE}", file=sys.stderr)
        sys.exit(ExitCode.STORAGE)
    raise AssertionError("Typer always exits")
