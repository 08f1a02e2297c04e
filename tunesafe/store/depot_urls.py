"""Which kind of depot a URL names, and where a study's packs are.

The library for object stores is imported only for one.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import URL

from tunesafe.errors import MissingExtraError
from tunesafe.store.depots import Depot
from tunesafe.store.distant_packs import DistantPacks
from tunesafe.store.folders import FolderDepot
from tunesafe.store.packs import Packs, packs_beside

__all__ = ["open_depot", "packs_of"]

_FOLDER = "file://"


def open_depot(url: str, *, quick: bool = False) -> Depot:
    """The place of a URL; nothing is made or asked yet.

    Args:
        url: As ``tunesafe.spec`` gives it.
        quick: Whether to give up soon where nobody answers.

    Raises:
        MissingExtraError: If the library for it is not installed.
        DepotError: If the URL and the environment do not make a store.
    """
    if url.startswith(_FOLDER):
        return FolderDepot(Path(unquote(url.removeprefix(_FOLDER))))
    try:
        # Brings a library that is an extra.
        from tunesafe.store.objects import ObjectDepot  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"The library for {url} is not installed. Nothing was started. "
            "Install it with: pip install 'tunesafe[backup]'"
        ) from error
    return ObjectDepot(url, quick=quick)


def packs_of(database: URL, uuid: str, place: str | None) -> Packs | None:
    """Where the large bytes of a study are.

    Args:
        database: Its database.
        uuid: The study.
        place: What its study file names as ``blobs``.

    Returns:
        ``None`` if they are in the database, too: on a server, whose own backup is to find all of them.

    Raises:
        MissingExtraError, DepotError: As ``open_depot``.
    """
    return packs_beside(database) if place is None else DistantPacks(open_depot(place), uuid)
