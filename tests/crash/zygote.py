"""A process that has imported everything once and forks for every run.

``tunesafe run`` spends three seconds importing torch and Optuna before it does anything worth
killing. Here that is paid once: this process imports, opens nothing, starts no thread, and forks
a child for each run. The child is a process of its own in every respect that matters to a crash;
what it runs is the command itself, ``tunesafe.cli.main``, with its one worker in the same process
instead of a supervised one: a death is then always the death of everything. Supervisors and their
workers are killed in ``test_preemption`` and ``test_storm_of_kills``.

Talks JSON, one line in, one line out; ends when its standard input does.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from tests.working_here import working_here

HUNG_SECONDS = 300
"""No run of these studies takes a tenth of this, on a busy machine either; one that does is stuck, and says so."""

_PRELOADED = (
    "tunesafe.cli.app",
    "tunesafe.api.running",
    "tunesafe.executors",
    "tunesafe.worker.training",
    "tunesafe.trial.trainable",
    "tests.crash.outcome",
    # What Optuna and torch import when they are first used.
    "alembic.command",
    "optuna.samplers._gp.sampler",
    "optuna._gp.gp",
    "optuna._gp.acqf",
    "optuna._gp.optim_mixed",
    "optuna._gp.search_space",
    "scipy.optimize",
    "scipy.stats.qmc",
    "cmaes",
    "torch._dynamo",
    "torch.utils.data",
    "torch.optim.swa_utils",
    "sqlalchemy.dialects.sqlite",
)
_PRELOADED_IF_THERE = ("tunesafe.store.postgres", "sqlalchemy.dialects.postgresql.psycopg", "pymysql")
"""The drivers of servers are extras."""


def main() -> None:
    """Serve jobs until standard input ends."""
    for module in _PRELOADED:
        importlib.import_module(module)
    for module in _PRELOADED_IF_THERE:
        with suppress(ModuleNotFoundError):
            importlib.import_module(module)
    import torch

    torch.set_num_threads(1)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_perform(json.loads(line))), flush=True)


def _perform(job: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait (or kill), and say how the child ended."""
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(job)
    killed = hung = False
    with os.fdopen(os.pidfd_open(pid)) as watched:
        limit = job.get("kill_after")
        if not select.select([watched], [], [], HUNG_SECONDS if limit is None else limit)[0]:
            killed, hung = limit is not None, limit is None
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return {
        "code": code,
        "killed": killed and code == -signal.SIGKILL,
        "hung": hung,
        "seconds": time.monotonic() - begun,
    }


def _child(job: dict[str, Any]) -> NoReturn:
    code = 70
    try:
        os.environ.update(job.get("environment", {}))
        os.chdir(job["folder"])
        output = os.open("output.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = {"run": _run, "restore": _restore, "read": _read}[job["do"]](job)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:  # noqa: BLE001 - whatever it is, the test wants to read it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@working_here()
def _run(job: dict[str, Any]) -> int:
    """``tunesafe run study.yaml``, watched at its failpoints.

    A job may say: ``failpoint``, ``passing`` and ``action`` (``kill``, ``raise``, or a signal's name); ``census``
    (count passings into census.json); ``max_pages`` (a full disk, as SQLite sees it); ``disk`` (a call that fails:
    see ``_on_failing_disk``); ``options`` of the command.
    """
    from tunesafe import failpoints
    from tunesafe.cli import main as tunesafe

    if "max_pages" in job:
        _limit_pages(job["max_pages"])
    action, name = job.get("action", "kill"), job.get("failpoint")
    if action in ("kill", "raise"):
        failpoints.arm(name, job.get("passing", 1), action)
    else:
        left = job.get("passing", 1)

        def passed(at: str) -> None:
            nonlocal left
            left -= at == name
            if at == name and left == 0:
                signal.raise_signal(signal.Signals[action])

        _watch_failpoints(passed)
    if job.get("census"):
        counts: Counter[str] = Counter()
        _watch_failpoints(lambda at: counts.update([at]))
        try:
            tunesafe(["run", "study.yaml", *job.get("options", ())])
        finally:
            Path("census.json").write_text(json.dumps(counts))
    with _on_failing_disk(job.get("disk")):
        tunesafe(["run", "study.yaml", *job.get("options", ())])


@contextmanager
def _on_failing_disk(asked: dict[str, Any] | None) -> Iterator[None]:
    """Let one call fail, or all from there on, and write into disk.json which one it was, if any.

    What is asked says ``at``, ``error``, ``lasting``, ``thread`` and either ``folders``, for calls on files in them,
    or nothing, for statements of SQLite.
    """
    if asked is None:
        yield
        return
    from tests.disk_faults import failing_disk, failing_sql
    from tunesafe.executors import second_place

    setattr(second_place, "_FAILING_SECONDS", 1.0)  # noqa: B010 - for this process only
    how = {"lasting": asked.get("lasting", False), "thread": asked.get("thread")}
    folders = [Path(folder) for folder in asked.get("folders", ())]
    failing = failing_disk if folders else failing_sql
    try:
        with failing(asked["at"], asked["error"], *folders, **how) as disk:
            yield
    finally:
        Path("disk.json").write_text(json.dumps(disk.failed))


def _restore(job: dict[str, Any]) -> int:
    """``tunesafe restore URL DIR``; a job may say ``failpoint`` and ``passing``."""
    from tunesafe import failpoints
    from tunesafe.cli import main as tunesafe

    failpoints.arm(job.get("failpoint"), job.get("passing", 1))
    tunesafe(["restore", job["url"], job["directory"]])


def _limit_pages(count: int) -> None:
    """Let no database of this process grow beyond so many pages: writes that would end in SQLITE_FULL."""
    import sqlalchemy

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
    def on_connect(connection: Any, record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {count}")


def _watch_failpoints(passed: Callable[[str], None]) -> None:
    """Call ``passed`` at every failpoint instead; everything that passes one is imported already."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tunesafe.") and name != "tunesafe.failpoints" and hasattr(module, "failpoint"):
            setattr(module, "failpoint", passed)  # noqa: B010 - a module's attribute is not known to a type checker


def _read(job: dict[str, Any]) -> int:
    from tests.crash.outcome import read_outcome

    Path("outcome.json").write_text(json.dumps(read_outcome(Path.cwd()), sort_keys=True))
    return 0


if __name__ == "__main__":
    main()
