"""The command line: parses, calls the Python door, renders. One module per command group.

    app          the commands put together; errors become messages and exit codes
    targets      what a command is pointed at: a study file, a stored study, a trial
    running      run; watching: who is told meanwhile
    checking     check
    reading      status, show, best, logs
    exporting    export
    checkpoints  checkpoints list, show, verify, prune
    starting     init; template/: the project it writes
    render       values as text; narration, pages: notices, studies, trials
    documents    values as JSON
    terminal     what needs rich

Data goes to standard output, words about it to standard error.
"""

from __future__ import annotations

from tunesafe.cli.app import main

__all__ = ["main"]
