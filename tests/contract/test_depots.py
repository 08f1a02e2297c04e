"""What every place for bytes outside of a database keeps to: a folder, and an object store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import from_url

from tests import gcs_server, s3
from tests.gcs_server import PAGE_NAMES, GcsServer
from tunesafe.store.depot_urls import open_depot
from tunesafe.store.depots import ConflictError, Depot, DepotError

pytestmark = pytest.mark.timeout(600)  # the first test on S3 installs its server

LARGE = 20 << 20  # more than one part of an upload


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3), "gcs"])
def depot(request: pytest.FixtureRequest, tmp_path: Path) -> Depot:
    """An empty depot of every kind in turn."""
    if request.param == "folder":
        return open_depot(f"file://{tmp_path}/de%20pot")
    return open_depot(request.getfixturevalue(f"{request.param}_url"))


def names_in(depot: Depot) -> set[str]:
    """The names in its folder of packs."""
    return {entry.name for entry in depot.entries("packs")}


def test_what_was_put_is_what_is_got(depot: Depot) -> None:
    """Bytes and names; what is not there is ``None``, and an empty folder holds no names."""
    assert depot.get("packs/one") is None
    assert depot.entries("packs") == []
    for name, content in (("packs/one", b"1"), ("packs/two", b""), ("three", b"3")):
        depot.put(name, content)
        assert depot.get(name) == content
    assert names_in(depot) == {"packs/one", "packs/two"}
    depot.put("packs/one", b"other")
    assert depot.get("packs/one") == b"other"


def test_what_is_large_goes_and_comes_block_by_block(depot: Depot) -> None:
    """In several parts, in blocks of any size, empty ones too."""
    large = os.urandom(LARGE - 5)
    for blocks in ([large], [], [b"", b"1", b""], [large[:7], large[7 : 9 << 20], large[9 << 20 :]]):
        depot.put("packs/file", iter(blocks))
        found = depot.blocks("packs/file")
        assert found is not None
        assert b"".join(found) == b"".join(blocks)
    assert depot.blocks("packs/none") is None


def test_a_part_of_an_object_is_had_without_the_rest(depot: Depot) -> None:
    """From anywhere in it, up to its end; of nothing there is no part."""
    content = os.urandom(1000)
    depot.put("packs/one", content)
    for start, length in ((0, 10), (990, 100), (500, 0), (0, 1000)):
        part = depot.part("packs/one", start, length)
        assert part is not None
        assert bytes(part) == content[start : start + length]
    assert depot.part("packs/none", 0, 10) is None
    assert depot.part("packs/none", 0, 0) is None
    (entry,) = depot.entries("packs")
    assert (entry.name, entry.num_bytes) == ("packs/one", 1000)
    assert abs(entry.modified_at - time.time()) < 3600


def test_a_source_that_fails_leaves_nothing(depot: Depot) -> None:
    """Neither a part of the new bytes, nor the loss of the old ones."""

    def failing() -> Iterator[bytes]:
        yield os.urandom(LARGE // 2)
        raise OSError("the disk it is read from is gone")

    depot.put("packs/file", b"old")
    for name in ("packs/file", "packs/new"):
        with pytest.raises((DepotError, OSError)):
            depot.put(name, failing())
    assert names_in(depot) == {"packs/file"}
    assert depot.get("packs/file") == b"old"


def test_a_long_list_is_whole(depot: Depot) -> None:
    """However many answers it comes in, and whatever is beside it."""
    names = {f"packs/{number}" for number in range(10)}
    for name in (*names, "packs-of-others/1", "packs2"):
        depot.put(name, b"1")
    assert sorted(entry.name for entry in depot.entries("packs")) == sorted(names)
    depot.delete(names)
    assert depot.entries("packs") == []


def test_what_is_deleted_is_gone_and_deleting_it_again_is_nothing(depot: Depot) -> None:
    """Of several names some may be gone already."""
    depot.put("packs/one", b"1")
    depot.put("packs/two", b"2")
    depot.delete(["packs/one", "packs/none"])
    depot.delete(["packs/one", "packs/two"])
    depot.delete([])
    assert depot.entries("packs") == []


def test_only_the_version_that_was_read_is_replaced(depot: Depot) -> None:
    """Made where there is none, replaced where nobody did so before; whoever is late writes nothing."""
    assert depot.look("pointer") is None
    depot.replace("pointer", b"1", None)
    with pytest.raises(ConflictError):
        depot.replace("pointer", b"late", None)
    found = depot.look("pointer")
    assert found is not None
    assert found[0] == b"1"
    depot.replace("pointer", b"2", found[1])
    with pytest.raises(ConflictError):
        depot.replace("pointer", b"late", found[1])
    assert depot.get("pointer") == b"2"
    with pytest.raises(ConflictError):
        depot.replace("another", b"late", found[1])


def test_of_many_who_replace_at_once_one_does(depot: Depot) -> None:
    """Twice eight threads: with nothing there, and with something."""
    for turn in range(2):
        found = depot.look("pointer")
        version = None if found is None else found[1]
        won: list[int] = []

        def write(number: int, version: object | None = version, won: list[int] = won) -> None:
            try:
                depot.replace("pointer", b"%d" % number, version)
                won.append(number)
            except ConflictError:
                pass

        threads = [threading.Thread(target=write, args=(10 * turn + number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert depot.get("pointer") == b"%d" % won[0]


def test_a_place_that_cannot_be_used_says_so(depot: Depot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every operation; and no message shows a key."""
    if not Path(depot.url).is_absolute():
        for variable in ("AWS_ENDPOINT_URL", "GOOGLE_BASE_URL"):
            monkeypatch.setenv(variable, "http://127.0.0.1:9")
        away = open_depot(depot.url, quick=True)
    else:
        (tmp_path / "file").write_bytes(b"")
        away = open_depot(f"file://{tmp_path}/file/depot")
    for operation in (
        lambda: away.put("a/b", b"1"),
        lambda: away.replace("a", b"1", None),
        lambda: away.delete(["a/b"]),
    ):
        with pytest.raises(DepotError) as raised:
            operation()
        assert not [secret for secret in (s3.SECRET, gcs_server.SECRET) if secret in str(raised.value)]
        assert depot.url.split("/")[-1] in str(raised.value) or "file" in str(raised.value)


def test_no_name_leads_out_of_a_folder(tmp_path: Path) -> None:
    """Names are also read from what is stored there."""
    depot = open_depot(f"file://{tmp_path}/depot")
    for name in ("../outside", "/outside", "a/../../outside", ""):
        with pytest.raises(DepotError):
            depot.put(name, b"1")
    assert not (tmp_path / "outside").exists()


def test_a_folder_whose_disk_is_not_there_is_not_made(tmp_path: Path) -> None:
    """An empty mount point must not be mistaken for the disk."""
    with pytest.raises(DepotError, match="is its disk there"):
        open_depot(f"file://{tmp_path}/mnt/depot").put("a", b"1")
    assert not (tmp_path / "mnt").exists()


def test_a_store_that_stops_at_an_object_that_is_gone_still_loses_the_others(gcs_url: str) -> None:
    """Google's answers that it is not there, and the library asks nothing more: the others are deleted one by one."""
    depot = open_depot(gcs_url)
    names = [f"x/{number}" for number in range(30)]
    for name in names[1:]:
        depot.put(name, b"1")
    with pytest.raises(FileNotFoundError):
        obstore.delete(from_url(gcs_url, client_options={"allow_http": True}), names)
    assert depot.entries("x")
    depot.delete(names)
    assert depot.entries("x") == []


def test_what_goes_to_google_goes_by_generation_in_parts_and_in_pages(gcs: GcsServer, gcs_url: str) -> None:
    """As its interface documents: of one content there are many generations, and only one is replaced."""
    depot = open_depot(gcs_url)
    depot.replace("pointer", b"same", None)
    first = depot.look("pointer")
    assert first is not None
    assert isinstance(first[1], dict)
    depot.replace("pointer", b"same", first[1])
    with pytest.raises(ConflictError):
        depot.replace("pointer", b"late", first[1])
    conditions = [asked.headers.get("x-goog-if-generation-match") for asked in gcs.requests if asked.method == "PUT"]
    assert conditions == ["0", first[1]["version"], first[1]["version"]]
    depot.put("packs/large", iter([os.urandom(LARGE)]))
    parts = [asked.query["partNumber"] for asked in gcs.requests if "partNumber" in asked.query]
    assert sorted(parts) == ["1", "2", "3"]
    for number in range(PAGE_NAMES + 1):
        depot.put(f"many/{number}", b"")
    assert len(depot.entries("many")) == PAGE_NAMES + 1
    assert [asked for asked in gcs.requests if "continuation-token" in asked.query]
