"""Where a study's second place may be, how it is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.spec.texts import small
from tunesafe.errors import SpecError
from tunesafe.spec import Backup, StudySpec, keys_of, resolve_place, with_value


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("copies", "file:///data/copies"),
        ("../copies/", "file:///copies"),
        ("/mnt/my disk/100%", "file:///mnt/my%20disk/100%25"),
        ("file:///mnt/my%20disk", "file:///mnt/my%20disk"),
        ("FILE:///mnt", "file:///mnt"),
        ("s3://bucket/a//b/", "s3://bucket/a/b"),
        ("S3://bucket", "s3://bucket"),
        ("gs://bucket/digits", "gs://bucket/digits"),
        ("abfss://container@account.dfs.core.windows.net/x", "abfss://container@account.dfs.core.windows.net/x"),
    ],
)
def test_a_place_has_one_full_form(written: str, url: str) -> None:
    """Relative to the study file, and the same again where it is resolved already."""
    assert resolve_place(written, Path("/data")) == url
    assert resolve_place(url, Path("/elsewhere")) == url


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("s4://bucket", "kinds of place: file, s3"),
        ("s3:/bucket", "names no folder and no object store"),
        ("s3://", "names no bucket"),
        ("file://mnt/x", "write 'file:///mnt/x'"),
        ("s3://key:hush@bucket/x", "from the environment"),
        ("s3://bucket/x?secret=hush", "from the environment"),
        (" ", "names no folder"),
    ],
)
def test_what_is_no_place_is_refused_without_showing_a_secret(written: str, words: str) -> None:
    """With its key, and what is right."""
    with pytest.raises(SpecError) as raised:
        small(backup=written)
    assert "backup" in str(raised.value)
    assert words in str(raised.value)
    assert "hush" not in str(raised.value)


def test_a_bare_url_is_short_for_a_mapping() -> None:
    """And a spec says the same when it is read back."""
    spec = small(backup="s3://bucket/x")
    assert spec.backup == Backup(url="s3://bucket/x", every=60.0)
    assert spec == small(backup={"url": "s3://bucket/x", "every": "1m"})
    assert StudySpec.from_json(spec.to_json()) == spec
    assert small().backup is small(backup="off").backup is None
    for wrong in (5, {"every": 5}, {"url": "x", "every": 0}, {"url": "x", "often": 5}):
        with pytest.raises(SpecError, match="backup"):
            small(backup=wrong)


def test_a_study_on_a_server_is_refused_one() -> None:
    """With the advice to use the server's own."""
    with pytest.raises(SpecError, match="use the server's own backup"):
        small(backup="s3://bucket/x", storage="mysql://me@host/studies")


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("name: a\nbackup: old\n", ("backup",), 'name: a\nbackup: "new"\n'),
        ("backup: 'old one' # why\nname: a", ("backup",), 'backup: "new" # why\nname: a'),
        (
            "backup:\n  # here\n  url: old\n  every: 5\n",
            ("backup", "url"),
            'backup:\n  # here\n  url: "new"\n  every: 5\n',
        ),
        ('{"name": "a", "backup": "old"}', ("backup",), '{"name": "a", "backup": "new"}'),
        ("name: größer\nbackup: old\n", ("backup",), 'name: größer\nbackup: "new"\n'),
        ("name: a\n", ("backup",), None),
        ("backup: [old]\n", ("backup",), None),
        ("- a\n", ("backup",), None),
        ("a: [\n", ("a",), None),
        ("", ("a",), None),
    ],
)
def test_one_value_is_changed_and_nothing_else(text: str, path: tuple[str, ...], expected: str | None) -> None:
    """Comments, order and notation of all the rest stay."""
    assert with_value(text, path, "new") == expected
    if expected is not None:
        assert keys_of(expected)["backup"] in ("new", {"url": "new", "every": 5})


def test_the_keys_of_what_is_no_study_file_are_none() -> None:
    """It was stored as it was written."""
    for text in ("a: [", "- a", "", "a: 1\na: 2\n"):
        assert keys_of(text) == {}
