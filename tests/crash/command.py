"""``tunesafe run`` in a fresh process, as a user starts it, and waiting for what it does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.harness import ROOT, Study

__all__ = ["Command", "command"]

LIMIT_SECONDS = 200


class Command:
    """A running command.

    Args:
        process: It.
        folder: Where the study lives.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def wait_until_it_hangs(self) -> None:
        """Wait until user code waits in the batch that the file ``hang`` names."""
        self._wait_for((self._folder / "hanging").exists)

    def let_go(self) -> None:
        """Let user code go on."""
        (self._folder / "hang").unlink()

    def let_go_once_asked(self) -> None:
        """Let user code go on as soon as a signal has reached it: the study could be over before."""
        (self._folder / "until asked").touch()
        self.let_go()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """Exit code and standard error."""
        _, words = self._process.communicate(timeout=LIMIT_SECONDS)
        return self._process.returncode, words

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition():
            assert self._process.poll() is None, f"the command ended early:\n{self._process.communicate()[1]}"
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.01)


@contextmanager
def command(study: Study, *options: str, **environment: str) -> Iterator[Command]:
    """Start ``tunesafe run study.yaml`` for a study; it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesafe", "run", "study.yaml", *options],
        cwd=study.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Command(process, study.folder)
        finally:
            process.kill()
