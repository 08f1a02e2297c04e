"""Your own training loop: what changes, and nothing else.

A plain PyTorch loop on scikit-learn's breast-cancer table (569 patients, 30 measurements).
The four lines that tunesafe needs are marked; the rest is what stood there before.

    tunesafe run own_loop.yaml     a study
    python own_loop.py             one trial, without any study
"""

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn import functional as F

import tunesafe

PARAMS = {"batch_size": 32, "lr": 0.05, "gamma": 0.9, "width": 32}

Data = tuple[Tensor, Tensor]


def load_data() -> tuple[Data, Data, Data]:
    """Training, validation and test set: measurements [n, 30] in units of their spread, diagnoses [n]."""
    table, target = load_breast_cancer(return_X_y=True)
    x, y = torch.tensor(table, dtype=torch.float32), torch.tensor(target)
    train, valid, test = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split([369, 100, 100])
    x = (x - x[train].mean(0)) / x[train].std(0)
    return (x[train], y[train]), (x[valid], y[valid]), (x[test], y[test])


@torch.no_grad()
def evaluate(model: nn.Module, data: Data) -> tuple[Tensor, Tensor]:
    """Loss and accuracy."""
    model.eval()
    scores = model(data[0])
    return F.cross_entropy(scores, data[1]), (scores.argmax(1) == data[1]).float().mean()


def train(trial: tunesafe.Trial) -> None:
    """Train one configuration; reports ``val_loss`` and ``val_accuracy``."""
    params = trial.params  # 1: where the parameters come from
    train_set, valid_set, test_set = load_data()
    width = params["width"]
    model = nn.Sequential(nn.Linear(30, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=params["lr"], momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=params["gamma"])
    trial.track(model=model, optimizer=optimizer, scheduler=scheduler)  # 2: what must survive

    # 3: was `for epoch in range(num_epochs)`, with a DataLoader of its own
    for epoch in trial.virtual_epochs(train_set, batch_size=params["batch_size"]):
        model.train()
        for x, y in epoch:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        val_loss, val_accuracy = evaluate(model, valid_set)
        trial.report(val_loss=val_loss, val_accuracy=val_accuracy)  # 4: was `print`
        scheduler.step()

    trial.result(test_accuracy=evaluate(model, test_set)[1])  # not needed: kept with the trial, never judged


if __name__ == "__main__":
    # The same function without a study: for a debugger, a notebook, a quick look.
    trial = tunesafe.FixedTrial(PARAMS, passes=10, virtual_epochs=10)
    train(trial)
    for report in trial.reports:
        print(report.virtual_epoch, {name: round(value, 4) for name, value in report.metrics.items()})
