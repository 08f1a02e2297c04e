"""An S3 server of the tests' own: moto's, on loopback, in an environment of its own (`.s3-venv`, 140 MB, made once).

Not in `.venv`: what it needs would decide which versions of other things we test with.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import free_port

__all__ = ["CREDENTIALS", "SECRET", "MissingS3Error", "make_bucket", "server", "unfinished_uploads"]

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "tests" / "s3-constraints.txt"
SECRET = "hush-hush-key"
"""No message may show it."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
LIMIT_SECONDS = 100


class MissingS3Error(Exception):
    """The server's environment cannot be made."""


@contextmanager
def server() -> Iterator[str]:
    """The address of a server without buckets.

    Raises:
        MissingS3Error: If it cannot be installed, for want of a network perhaps.
    """
    program = _installed()
    port = free_port()
    command = [str(program), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, process)
            yield address
        finally:
            process.kill()


def make_bucket(address: str, name: str) -> None:
    """Make an empty bucket."""
    urllib.request.urlopen(urllib.request.Request(f"{address}/{name}", method="PUT"), timeout=LIMIT_SECONDS).close()


def unfinished_uploads(address: str, bucket: str) -> list[str]:
    """The names of objects of which parts have been sent, and which nobody has completed or given up."""
    with urllib.request.urlopen(f"{address}/{bucket}?uploads", timeout=LIMIT_SECONDS) as answer:
        return re.findall(r"<Key>(.*?)</Key>", answer.read().decode())


def _installed() -> Path:
    """The Python of the environment; made where it is not as the requirements say."""
    folder = Path(os.environ.get("TUNESAFE_TEST_S3_VENV", ROOT / ".s3-venv"))
    program, stamp, wanted = folder / "bin" / "python", folder / ".installed", REQUIREMENTS.read_text()
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _run(sys.executable, "-m", "venv", str(folder))
                _run(str(program), "-m", "pip", "install", "-q", "--no-deps", "-r", str(REQUIREMENTS))
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", "") or str(error)
                raise MissingS3Error(
                    f"the S3 server of the tests cannot be installed: {said.strip()[-300:]}"
                ) from error
            stamp.write_text(wanted)
    return program


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
            return
        except OSError:
            if process.poll() is not None:
                raise MissingS3Error("the S3 server of the tests ended at its start") from None
            assert time.monotonic() < deadline, "the S3 server of the tests does not answer"
            time.sleep(0.05)
