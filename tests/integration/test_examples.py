"""Whatever the repository shows runs: the examples and the committed studies, made small."""

from __future__ import annotations

import gzip
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tests.architecture.source import ROOT
from tests.working_here import working_here
from tunesafe import FixedTrial, load_study
from tunesafe.cli import main

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.yaml"))
SMALL = {
    "own_loop": ("budget.passes=2", "budget.virtual_epochs=2"),
    "class_door": ("budget.passes=0.5", "budget.virtual_epochs=2"),
    "augmentation": ("budget.passes=0.5", "budget.virtual_epochs=2"),
    "digits": ("budget.passes=1", "budget.virtual_epochs=3"),
    "fashion_mnist": ("budget.passes=1", "budget.virtual_epochs=2"),
}


def copied(name: str, folder: Path) -> Path:
    """A study of the repository, alone in a folder; returns its file."""
    home = "examples" if name in EXAMPLES else "studies"
    for suffix in (".py", ".yaml"):
        shutil.copy(ROOT / home / f"{name}{suffix}", folder)
    return folder / f"{name}.yaml"


def run(file: Path, *settings: str) -> int:
    """Exit code of ``tunesafe run``."""
    overrides = [word for setting in settings for word in ("--set", setting)]
    with pytest.raises(SystemExit) as ended:
        main(["run", str(file), *overrides])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_every_example_is_tried() -> None:
    """One that is added here has to be made small above."""
    committed = {path.stem for folder in ("examples", "studies") for path in (ROOT / folder).glob("*.yaml")}
    assert committed == SMALL.keys()


@pytest.mark.parametrize("name", ["own_loop", "class_door", "augmentation", "digits"])
def test_a_study_of_the_repository_runs(name: str, tmp_path: Path) -> None:
    """To its end, and every complete trial has consumed the same number of examples."""
    file = copied(name, tmp_path)
    with working_here():
        assert run(file, "n_trials=2", *SMALL[name]) == 0
    trials = load_study(file).trials
    assert [trial.number for trial in trials] == [0, 1]
    status = load_study(file).status()
    assert {trial.examples_seen for trial in trials if trial.state == "complete"} == {status.total_examples}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_script_too(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It trains once with fixed parameters, prints each report, and leaves no file behind."""
    file = copied(name, tmp_path).with_suffix(".py")
    runpy.run_path(str(file), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) >= 4
    assert {path.suffix for path in tmp_path.iterdir()} == {".py", ".yaml"}


RECIPES = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "recipes.md").read_text("utf-8"), re.M | re.S)
"""Those of Optuna's own need a study's database."""


class Model(nn.Module):
    """Part frozen, part not, as the recipes want it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, 3] of x [batch, 4]."""
        scores: Tensor = self.head(self.backbone(x).relu())
        return scores


def step(model: Model, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """The step the recipes leave out."""
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


@pytest.mark.parametrize("recipe", [text for text in RECIPES if "optuna." not in text])
def test_a_recipe_runs_as_it_is_printed(recipe: str) -> None:
    """Around it stands what its reader has: a trial, a model, an optimizer, data; a loop comes to its end."""
    data = torch.randn(40, 4), torch.arange(40) % 3
    model, trial = Model(), FixedTrial({"batch_size": 8}, passes=2, virtual_epochs=4, metric="val_loss")
    around: dict[str, Any] = {
        "F": F,
        "ShiftedDigits": TensorDataset,
        "accuracy": lambda model, data: 0.5,
        "evaluate": lambda model: 0.5,
        "images": data[0],
        "labels": data[1],
        "model": model,
        "optimizer": torch.optim.SGD(model.head.parameters(), lr=0.1),
        "step": step,
        "test_set": data,
        "torch": torch,
        "train_set": data,
        "trial": trial,
    }
    exec(recipe, around)
    assert trial.ended is ("trial.virtual_epochs" in recipe)


@pytest.fixture
def clothes(tmp_path: Path) -> Path:
    """A folder that looks like Fashion-MNIST with 64 images to train on: two files packed, two unpacked."""
    folder = tmp_path / "clothes"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for part, count in (("train", 10_064), ("t10k", 100)):
        images = generator.integers(0, 256, (count, 28, 28), np.uint8)
        header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes(), 1))
        header = np.array([0x801, count], ">i4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(i % 10 for i in range(count)))
    return folder


def test_fashion_mnist_reads_packed_and_unpacked_files(
    tmp_path: Path, clothes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the folder that FASHION_MNIST names; the test score is kept with the trial."""
    monkeypatch.setenv("FASHION_MNIST", str(clothes))
    file = copied("fashion_mnist", tmp_path)
    assert run(file, "n_trials=1", "initial_trials=[{channels: 8, batch_size: 32}]", *SMALL["fashion_mnist"]) == 0
    (trial,) = load_study(file).trials
    assert trial.examples_seen == 64
    assert 0 <= trial.result["test_accuracy"] <= 1


def test_fashion_mnist_without_its_images_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is created."""
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path / "nowhere"))
    file = copied("fashion_mnist", tmp_path)
    assert run(file) == 2
    said = capsys.readouterr().err
    assert "apt-get install dataset-fashion-mnist" in said
    assert "FASHION_MNIST" in said
    assert not list(tmp_path.glob("*.db*"))
