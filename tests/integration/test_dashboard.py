"""The real optuna-dashboard over HTTP, on a study that runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from tests.integration.cli_project import command, environment, write_project
from tests.servers import free_port
from tunesafe.api import load_study

pytest.importorskip("optuna_dashboard")
pytestmark = pytest.mark.timeout(300)

STUDY = """\
name: live
trainable: train.py:train
objective: {metric: loss, direction: minimize}
budget: {examples: 48, virtual_epochs: 6}
parameters:
  lr: {type: float, low: 1.0e-3, high: 1.0e-1, log: true}
  layers: {type: int, low: 1, high: 3}
n_trials: 8
threads_per_worker: 1
pruner: {name: nop}
"""

TRAIN = """\
import time
from pathlib import Path

import torch

FOLDER = Path(__file__).parent


def train(trial):
    model = torch.nn.Linear(1, 1)
    trial.track(model=model)
    note = FOLDER / "note.txt"
    note.write_text(f"trial {trial.number}")
    trial.artifact(note)
    for epoch in trial.virtual_epochs((torch.zeros(8, 1),), batch_size=4):
        for _ in epoch:
            pass
        if trial.number in (1, 3) and epoch.index == 4:
            (FOLDER / f"waiting {trial.number}").touch()
            while not (FOLDER / f"go {trial.number}").exists():
                time.sleep(0.01)
        trial.report(loss=trial.params["lr"] + 1 / epoch.index)
"""


class Dashboard:
    """A running optuna-dashboard.

    Args:
        address: Where it answers.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def get(self, path: str) -> bytes:
        """What it answers; an error page is an error."""
        with urlopen(self._address + path, timeout=60) as answer:
            return bytes(answer.read())

    def study(self) -> dict[str, Any]:
        """The one study, as its page is drawn from."""
        [summary] = json.loads(self.get("/api/studies"))["study_summaries"]
        detail: dict[str, Any] = json.loads(self.get(f"/api/studies/{summary['study_id']}?after=0"))
        return detail | {"study_id": summary["study_id"]}

    def trial(self, number: int) -> dict[str, Any]:
        """One trial; {} while it has not begun."""
        return next((trial for trial in self.study()["trials"] if trial["number"] == number), {})

    def tell(self, trial_id: int, state: str) -> None:
        """What the button under a trial does."""
        body = json.dumps({"state": state}).encode()
        headers = {"Content-Type": "application/json"}
        urlopen(Request(f"{self._address}/api/trials/{trial_id}/tell", body, headers), timeout=60).close()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[Any] | None = None) -> None:
    """Wait for something that another process does; as long as that lives, if it is given."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        assert process is None or process.poll() is None, "the process has ended"
        time.sleep(0.02)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A study whose trials 1 and 3 wait half-way."""
    write_project(tmp_path, STUDY, TRAIN)
    return tmp_path


@pytest.fixture
def run(project: Path) -> Iterator[subprocess.Popen[Any]]:
    """``tunesafe run``, begun."""
    with (project / "run.log").open("w") as log:
        process = subprocess.Popen(
            command("run", "study.yaml"), cwd=project, env=environment(), stdout=log, stderr=subprocess.STDOUT
        )
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def dashboard(project: Path, run: subprocess.Popen[Any]) -> Iterator[Dashboard]:
    """The dashboard, started once trial 1 waits; on loopback."""
    wait_until((project / "waiting 1").exists, run)
    port = free_port()
    program = [sys.executable, "-c", "from optuna_dashboard._cli import main; main()"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--server", "wsgiref"]
    folder = ["--artifact-dir", str(project / "artifacts")]
    with (project / "dashboard.log").open("w") as log:
        process = subprocess.Popen(
            [*program, f"sqlite:///{project / 'live.db'}", *options, *folder], stdout=log, stderr=subprocess.STDOUT
        )
    dashboard = Dashboard(f"http://127.0.0.1:{port}")

    def answers() -> bool:
        try:
            return bool(dashboard.get("/api/meta"))
        except (URLError, ConnectionError):
            return False

    try:
        wait_until(answers, process)
        yield dashboard
    finally:
        process.kill()
        process.wait()


def test_the_dashboard_serves_a_study_while_it_runs(
    project: Path, run: subprocess.Popen[Any], dashboard: Dashboard
) -> None:
    """A live curve, artifacts, the button that ends a trial; and neither side ever finds the database locked."""
    live = dashboard.trial(1)
    assert live["state"] == "Running"
    assert [point["step"] for point in live["intermediate_values"]] == [1, 2, 3]
    assert {parameter["name"] for parameter in live["params"]} == {"lr", "layers"}
    [artifact] = live["artifacts"]
    assert artifact["filename"] == "note.txt"
    path = f"/artifacts/{live['study_id']}/{live['trial_id']}/{artifact['artifact_id']}"
    assert dashboard.get(path) == b"trial 1"
    assert dashboard.trial(0)["state"] == "Complete"
    assert {entry["key"]: entry["value"] for entry in dashboard.trial(0)["user_attrs"]}["examples_seen"] == "48"

    (project / "go 1").touch()
    wait_until((project / "waiting 3").exists, run)
    wait_until(lambda: dashboard.trial(3), run)  # it looks into the database every few seconds
    dashboard.tell(dashboard.trial(3)["trial_id"], "Fail")
    (project / "go 3").touch()
    polls = 0
    while run.poll() is None:
        polls += bool(dashboard.study()["trials"])

    assert run.wait() == 0, (project / "run.log").read_text()
    assert polls
    said = (project / "run.log").read_text() + (project / "dashboard.log").read_text()
    assert "locked" not in said
    assert "Traceback" not in said
    wait_until(lambda: dashboard.trial(7).get("state") == "Complete")
    detail = dashboard.study()
    assert [trial["state"] for trial in detail["trials"]] == ["Complete"] * 3 + ["Fail"] + ["Complete"] * 4
    study = load_study(project / "study.yaml")
    assert study.best_trial is not None
    assert [trial["number"] for trial in detail["best_trials"]] == [study.best_trial.number]
    assert [str(trial.state) for trial in study.trials] == ["complete"] * 3 + ["failed"] + ["complete"] * 4
    assert dashboard.get("/dashboard/").startswith(b"<!DOCTYPE html>")
    assert dashboard.get(f"/csv/{detail['study_id']}").count(b"\n") >= 8
    evaluated = json.loads(dashboard.get(f"/api/studies/{detail['study_id']}/param_importances"))
    assert {entry["name"] for entry in evaluated["param_importances"][0]} == {"lr", "layers"}
