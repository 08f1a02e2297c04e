"""``tunesafe checkpoints``: what is stored of states. All but ``prune`` only read, without torch and Optuna."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tunesafe.api import Study, VerifiedCheckpoint
from tunesafe.cli import documents, pages
from tunesafe.cli.targets import AnyStudy, AsJson, StudyAndNumber, open_target, split_number
from tunesafe.errors import DamagedError

__all__ = ["app", "list_", "prune", "show", "verify"]

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, show, verify and prune the checkpoints of a study."
)

_OneTrial = Annotated[int | None, typer.Option("--trial", metavar="N", help="Of this trial only.", show_default=False)]


@app.command("list")
def list_(study: AnyStudy = None, trial: _OneTrial = None, as_json: AsJson = False) -> None:
    """List the checkpoints there are, and how many bytes they take."""
    opened = open_target(study)
    found = opened.checkpoints(trial)
    if as_json:
        print(documents.to_json(documents.checkpoints_document(opened.spec.name, found)))
    else:
        print(pages.checkpoints_page(found))


@app.command()
def show(
    words: StudyAndNumber,
    virtual_epoch: Annotated[
        int | None,
        typer.Option(
            "--virtual-epoch",
            metavar="K",
            help="The checkpoint at the end of it; the newest by default.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint of a trial consists of, tensor by tensor."""
    study, number = split_number(words)
    found = open_target(study).checkpoint(number, virtual_epoch)
    print(documents.to_json(documents.checkpoint_document(found)) if as_json else pages.checkpoint_page(found))


@app.command()
def verify(study: AnyStudy = None, trial: _OneTrial = None, as_json: AsJson = False) -> None:
    """Read every checkpoint and compare every byte with its hash; ends with 4 if any is damaged."""
    opened = open_target(study)
    found: list[VerifiedCheckpoint] = []
    for checkpoint in opened.verify_checkpoints(trial):
        found.append(checkpoint)
        if not as_json:
            print(pages.verified_line(checkpoint), flush=True)
    if as_json:
        print(documents.to_json(documents.verified_document(opened.spec.name, found)))
    _end(opened, found)


@app.command()
def prune(
    study: AnyStudy = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what checkpoint.keep does not ask for.

    Of trials that are over only, by the rules the study last ran with; and what killed processes
    left behind more than an hour ago. Others may work on the study meanwhile.
    """
    opened = open_target(study)
    result = opened.prune_checkpoints(dry_run=dry_run)
    if as_json:
        print(documents.to_json(documents.prune_document(opened.spec.name, result)))
        return
    if result.removed or result.thinned:
        print(pages.removed_page(result))
    print(pages.prune_sentence(result), file=sys.stderr)


def _end(opened: Study, found: list[VerifiedCheckpoint]) -> None:
    damaged = sum(checkpoint.damage is not None for checkpoint in found)
    checkpoints = f"{len(found)} {'checkpoint' if len(found) == 1 else 'checkpoints'} of study {opened.spec.name!r}"
    if damaged:
        raise DamagedError(
            f"{damaged} of {checkpoints} {'is' if damaged == 1 else 'are'} damaged. Nothing was changed; all "
            "others are as they were written. A trial that is resumed continues from its newest intact checkpoint."
        )
    print(f"{checkpoints}: intact" if found else f"no checkpoints of study {opened.spec.name!r}", file=sys.stderr)
