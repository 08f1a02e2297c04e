"""A script in the place of a worker: it starts in a moment and does what a test wants."""

from __future__ import annotations

from pathlib import Path

from tunesafe.worker.wire import Job

__all__ = ["JOB", "StandIn"]

JOB = Job("sqlite:///study.db", "s", "/", "train.py:train", "one", 0, -1, 0, [], "somewhere")

_HEAD = """\
import json, os, signal, sys, time
job = json.loads(sys.stdin.readline())

def raw(data):
    while data:
        data = data[os.write(job["messages"], data):]

def say(type, **values):
    raw(("\\n" + json.dumps({"type": type, **values}) + "\\n").encode())

def claim(number, fence=1):
    say("Notice", kind="claimed", number=number, details={"fence": fence})

def went_before(name):
    # Whether another worker of this test has been here.
    try:
        os.close(os.open(os.path.join(os.path.dirname(__file__), name), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return True
    return False

"""


class StandIn:
    """The script.

    Args:
        file: Where it is.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, body: str) -> None:
        """Let workers started from now on run these lines."""
        self.file.write_text(_HEAD + body + "\n")
