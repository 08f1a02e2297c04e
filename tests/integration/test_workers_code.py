"""User code that does what it should not does it to its own trial only."""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.cli_project import STUDY, TRAIN, tunesafe, tunesafe_here, write_project
from tests.integration.workers_project import Project, is_running, started, wait_for

pytestmark = pytest.mark.timeout(240)

MISBEHAVE = """
first = trial.attempt == 1 and seen == 16
if trial.number == 0 and seen == 16:
    ctypes.string_at(0)
elif trial.number == 1 and seen == 16:
    os._exit(0)
elif trial.number == 2 and seen == 16:
    sys.exit(3)
elif trial.number == 3 and first:
    sys.stdout.close()
    os.close(1)
    sys.stdin.close()
    sys.stderr = None
elif trial.number == 4 and first:
    for descriptor in (1, 2, *map(int, os.listdir("/proc/self/fd"))):
        try:
            if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("/"):
                os.write(descriptor, b"\\x00\\xff{\\"type\\": 3}\\n[1]\\n\\xfe")
        except OSError:
            pass
elif trial.number == 5 and first:
    if os.fork() == 0:
        if (forked := os.fork()) == 0:
            time.sleep(600)
            os._exit(0)
        (FOLDER / "forked.pid").write_text(str(forked))
        raise RuntimeError("a fork that comes back is not the worker")
    os.wait()
    os.kill(os.getpid(), signal.SIGKILL)
elif trial.number == 6 and first:
    os.chdir("/")
    threading.Thread(target=threading.Event().wait).start()
elif trial.number == 7 and first:
    assert os.read(0, 10) == b"", "it has read what the supervisor says"
"""


IMPATIENT = "from tunesafe.executors import crew; crew._AFTER_GOODBYE_SECONDS = 1.0"
"""A worker whose thread outlives its work is not waited for as long as in earnest."""


def test_whatever_user_code_does_to_its_process_costs_no_other_trial_anything(tmp_path: Path) -> None:
    """Poison trials fail by the rule of retries, all others complete, and nothing is left running."""
    project = Project.make(tmp_path, act=MISBEHAVE, n_trials=8, more="retries: 2")
    with started(project, "-w", "2", first=IMPATIENT) as run:
        assert run.wait() == 0, run.words
        assert run.workers() == []
    assert project.phases() == ["told"] * 8, run.words
    states = dict(project.optuna_states())
    assert [number for number, state in states.items() if state == "FAIL"] == [0, 1, 2]
    assert set(states.values()) == {"FAIL", "COMPLETE"}
    reasons = [row.outcome.reason for row in project.rows() if row.outcome is not None]
    assert reasons[:3] == [
        "its process died 2 times in a row without progress, last by SIGSEGV",
        "its process died 2 times in a row without progress, last by exit code 0",
        "SystemExit: 3",
    ]
    assert [row.attempt for row in project.rows()] == [2, 2, 1, 1, 1, 2, 1, 1]
    forked = int((tmp_path / "forked.pid").read_text())
    wait_for(lambda: not is_running(forked))


SUDDEN = """
if trial.number == 0 and seen == 8 and trial.attempt <= DEATHS:
    if trial.attempt == 1:
        os.kill(os.getppid(), signal.SIGSTOP)
    os._exit(1)
hold(f"hold-{trial.number}-{seen}")
"""
"""Trial 0 dies, the first time while its supervisor can count nothing."""


LOGGED = """

from tunesafe.study.claiming import Claimant


def claim(claimant, _claim=Claimant.claim):
    found = _claim(claimant)
    log = os.open(FOLDER / "claims.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{os.getpid()} {found is None}\\n".encode())
    os.close(log)
    return found


Claimant.claim = claim
"""
"""Every claim is noted, with whether there was nothing to claim."""


def claims_in_vain(folder: Path) -> Counter[str]:
    """How often there was nothing to claim, by the process that asked."""
    log = folder / "claims.log"
    return Counter(line.split()[0] for line in log.read_text().splitlines() if line.endswith("True"))


def test_no_colleague_takes_a_dead_workers_trial_before_its_death_is_counted(tmp_path: Path) -> None:
    """With two deaths allowed nobody dies of it a third time, however late the supervisor is."""
    project = Project.make(tmp_path, act=SUDDEN.replace("DEATHS", "9"), n_trials=3, more="retries: 2\nlease: 1h")
    (tmp_path / "train.py").write_text((tmp_path / "train.py").read_text() + LOGGED)
    for number in range(3):
        project.hold(number)
    with started(project, "-w", "3") as run:
        for number in range(3):
            project.wait_until_held(number)
        for number in range(3):
            project.let_go(number)
        wait_for(lambda: project.phases() == ["claimed", "told", "told"])
        wait_for(lambda: sum(count > 1 for count in claims_in_vain(tmp_path).values()) == 2)  # both have looked again
        assert project.events("reclaimed") == []
        run.signal(signal.SIGCONT)
        assert run.wait() == 0, run.words
    assert [row.attempt for row in project.rows()] == [2, 1, 1]
    assert [event.details["deaths"] for event in project.events("died")] == [1, 2]
    assert dict(project.optuna_states()) == {0: "FAIL", 1: "COMPLETE", 2: "COMPLETE"}


def test_a_death_counts_although_another_commands_worker_has_taken_the_trial(tmp_path: Path) -> None:
    """That command knows nothing of the first one's supervisor, and does not wait for it."""
    project = Project.make(tmp_path, act=SUDDEN.replace("DEATHS", "1"), n_trials=1, more="retries: 2")
    project.hold(0)
    project.hold(0, 8)
    with ExitStack() as commands:
        first = commands.enter_context(started(project, "-w", "1"))
        project.wait_until_held(0)
        second = commands.enter_context(started(project, "-w", "1", name="second"))
        project.let_go(0)
        assert project.wait_until_held(0, 8) in second.workers()
        assert project.events("died") == []
        first.signal(signal.SIGCONT)
        wait_for(lambda: project.events("died"))
        project.let_go(0, 8)
        assert (first.wait(), second.wait()) == (0, 0), first.words + second.words
    assert [event.details["deaths"] for event in project.events("died")] == [1]
    assert [row.attempt for row in project.rows()] == [2]
    assert project.optuna_states() == [(0, "COMPLETE")]


def test_data_that_changed_their_length_are_refused_at_their_place_in_the_study_file(tmp_path: Path) -> None:
    """The worker that finds it knows the key, the supervisor its line; no trial ends over it."""
    study = STUDY.replace("budget: {examples: 64,", "budget: {passes: 2,").replace("n_trials: 3", "n_trials: 1")
    write_project(tmp_path, study=study)
    assert tunesafe_here("run", "study.yaml", cwd=tmp_path).code == 0
    write_project(tmp_path, study=study.replace("n_trials: 1", "n_trials: 2"), train=TRAIN.replace("32", "33"))
    run = tunesafe("run", "study.yaml", "--accept-changes", cwd=tmp_path)
    assert run.code == 2
    line = study.splitlines().index("budget: {passes: 2, virtual_epochs: 2}") + 1
    assert f"study.yaml:{line}:9: the training set has 33 examples now; this study counts 32 to a pass" in run.err
    assert "Traceback" not in run.err
