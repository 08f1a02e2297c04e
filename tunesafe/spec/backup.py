"""The second place of a study: where it is copied to while it runs, and how often.

An object store by its URL, or a folder: ``file:///mnt/backup/digits``, or a path relative to the
study file. Credentials are no part of it: the study file is stored with the study, and copied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import BeforeValidator, Field

from tunesafe.errors import SpecError
from tunesafe.spec.faults import WRITTEN, nearest, refuse
from tunesafe.spec.storage import mask_password
from tunesafe.spec.values import Duration, Section

__all__ = ["Backup", "BackupOrOff", "elsewhere", "resolve_place"]

_OBJECT_STORES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
"""Schemes that the library behind object stores understands."""


class Backup(Section):
    """A second place for the study, and how often it is copied there."""

    url: Annotated[str, Field(min_length=1)]
    """An object store such as s3://bucket/prefix, or a folder (relative to the study file)."""
    every: Duration = 60.0
    """From the end of one copy to the beginning of the next [s, or 90s, 10m]."""


def _spelled_out(value: Any) -> Any:
    if value == "off":
        return None
    if isinstance(value, str):  # a bare URL is short for a mapping
        return {"url": value}
    if value is not None and not isinstance(value, Mapping):
        refuse(f"must be a URL such as s3://bucket/prefix, or a mapping with 'url' and 'every', found {WRITTEN}")
    return value


BackupOrOff = Annotated[Backup | None, BeforeValidator(_spelled_out)]


def resolve_place(url: str, folder: Path) -> str:
    """The full form of a place's URL.

    Args:
        url: As in the study file, or on the command line.
        folder: What a relative path is relative to.

    Raises:
        SpecError: If it names no place, or holds a password, which is not shown.

    Example:
        >>> resolve_place("copies/digits", Path("/data"))
        'file:///data/copies/digits'
        >>> resolve_place("s3://bucket/digits/", Path("/data"))
        's3://bucket/digits'
    """
    shown = mask_password(url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _folder_url(url, folder)
    scheme = scheme.lower()
    if scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise SpecError(f"'{shown}' has two slashes where a folder's URL has three; write 'file:///{rest}'")
        return _folder_url("/" + unquote(path), folder)
    if scheme not in _OBJECT_STORES:
        kinds = ("file", *_OBJECT_STORES)
        raise SpecError(f"'{shown}' is not a place tunesafe can copy to{nearest(scheme, kinds, what='kinds of place')}")
    parts = urlsplit(f"{scheme}://{rest}")
    if parts.password is not None or parts.query or parts.fragment:
        raise SpecError(
            f"'{scheme}://…' holds more than a bucket and a prefix; credentials and settings of an object store come "
            "from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …), never from the study file"
        )
    if not parts.netloc:
        raise SpecError(f"'{shown}' names no bucket; write {scheme}://BUCKET/PREFIX")
    return f"{scheme}://{re.sub('/+', '/', rest).rstrip('/')}"


def elsewhere(
    backup: Backup | None, blobs: str | None, storage: str, folder: Path, error: Callable[[str, str], SpecError]
) -> dict[str, Backup | str | None]:
    """What a study keeps in other places, by key, with their full URLs.

    Args:
        backup: As in the study file.
        blobs: As in the study file.
        storage: Its database, in full.
        folder: What relative paths are relative to.
        error: Makes an error about one key, at its place.

    Raises:
        SpecError: If a place is none, or cannot be one of this study.
    """
    if backup is not None and not storage.startswith("sqlite:"):
        raise error(
            "backup",
            f"copies SQLite studies only, and this one is stored in {storage.partition('+')[0]}: use the server's own "
            "backup, which finds everything in its tables. Remove the key",
        )
    if backup is not None and blobs is not None:
        raise error(
            "backup",
            "copies what is beside the database, and this study's large checkpoints are elsewhere (blobs). Give one "
            "of the two",
        )
    resolved: dict[str, Backup | str | None] = {"backup": backup, "blobs": blobs}
    for key, url in (("blobs", blobs), ("backup", None if backup is None else backup.url)):
        try:
            place = None if url is None else resolve_place(url, folder)
        except SpecError as wrong:
            raise error(key, wrong.message) from None
        if key == "blobs":
            resolved["blobs"] = place
        elif backup is not None:
            resolved["backup"] = backup.model_copy(update={"url": place})
    return resolved


def _folder_url(path: str, folder: Path) -> str:
    if "\0" in path or not path.strip() or re.match("[A-Za-z0-9]+:/?", path):
        raise SpecError(f"{path!r} names no folder and no object store; write s3://BUCKET/PREFIX or a folder's path")
    return "file://" + quote(os.path.normpath(folder.absolute() / os.path.expanduser(path)))
