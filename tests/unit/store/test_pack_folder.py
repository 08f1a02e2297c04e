"""A folder of packs, without a database: what is put there, what becomes a hole, and what is swept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.store.samples import on_disk
from tunesafe.store.pack_file import Place
from tunesafe.store.packs import PackFolder

LARGE, PAGE = 3 << 20, 4096


@pytest.fixture
def folder(tmp_path: Path) -> PackFolder:
    """A folder of packs that is not there yet."""
    return PackFolder(tmp_path / "packs")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(contents=st.lists(st.binary(max_size=300), min_size=1, max_size=40))
def test_every_byte_is_found_where_it_was_put(folder: PackFolder, contents: list[bytes]) -> None:
    """In order, aligned, and without overlap."""
    places = folder.write([[memoryview(content)] for content in contents])
    assert [bytes(folder.read(place)) for place in places] == contents
    assert all(place.offset % 64 == 0 for place in places)
    ends = [0, *(place.offset + place.num_bytes for place in places)]
    assert all(place.offset >= end for place, end in zip(places, ends, strict=False))


def test_more_pieces_than_one_call_can_write_and_more_bytes_than_one_writeback(folder: PackFolder) -> None:
    """A network of thousands of small tensors, with a large one among them."""
    contents = [os.urandom(40) for _ in range(3000)]
    contents.insert(1500, os.urandom(40 << 20))
    places = folder.write([[memoryview(content)] for content in contents])
    assert [bytes(folder.read(place)) for place in places] == contents


def test_what_is_not_needed_becomes_a_hole_and_the_last_byte_takes_the_file_with_it(folder: PackFolder) -> None:
    """Others in the pack are untouched, at once and after the file is read anew."""
    contents = [os.urandom(64 * PAGE) for _ in range(3)]
    first, second, third = folder.write([[memoryview(content)] for content in contents])
    (file,) = folder.path.iterdir()
    before = file.stat().st_blocks
    folder.free([first, third], {second.pack: [second]})
    assert bytes(folder.read(second)) == contents[1]
    assert file.stat().st_blocks < before
    assert bytes(folder.read(first)) == bytes(64 * PAGE)
    folder.free([second], {})
    assert list(folder.path.iterdir()) == []
    assert folder.read(second) == b""


def test_neighbours_that_go_one_after_the_other_leave_no_block_behind(folder: PackFolder) -> None:
    """Tensors are seldom whole blocks: the one in which two meet is free when both are gone."""
    contents = [os.urandom(PAGE - 500) for _ in range(64)]
    first, *middle, last = folder.write([[memoryview(content)] for content in contents])
    (file,) = folder.path.iterdir()
    left = [first, *middle, last]
    for place in middle[::2] + middle[1::2]:
        left.remove(place)
        folder.free([place], {first.pack: left})
    assert (bytes(folder.read(first)), bytes(folder.read(last))) == (contents[0], contents[-1])
    assert file.stat().st_blocks * 512 <= 4 * PAGE


def test_a_sweep_removes_what_deaths_left_behind_and_nothing_young(folder: PackFolder) -> None:
    """Unfinished files, packs without a row, and bytes in a pack whose rows are gone."""
    contents = [os.urandom(512 * PAGE) for _ in range(3)]
    first, second, third = folder.write([[memoryview(content)] for content in contents])
    (orphan,) = folder.write([[memoryview(b"no row names it")]])
    (folder.path / "0123.tmp").write_bytes(b"unfinished")
    needed = {second.pack: [second]}
    folder.sweep(needed, older_than_seconds=3600)
    assert len(list(folder.path.iterdir())) == 3
    assert bytes(folder.read(first)) == contents[0]
    folder.sweep(needed, older_than_seconds=-1)
    assert [file.stem for file in folder.path.iterdir()] == [second.pack]
    assert folder.read(orphan) == b""
    assert bytes(folder.read(second)) == contents[1]
    assert bytes(folder.read(first)) == bytes(folder.read(third)) == bytes(512 * PAGE)
    assert on_disk(list(folder.path.iterdir())) < 600 * PAGE
    folder.sweep({second.pack: [second]}, older_than_seconds=-1)
    assert bytes(folder.read(second)) == contents[1]


@pytest.mark.parametrize("name", ["", "..", "../other", "0" * 31, "0" * 32 + "/", "Z" * 32])
def test_a_name_leads_nowhere_but_into_the_folder(folder: PackFolder, name: str) -> None:
    """A damaged database may name any file; none is read, and none deleted."""
    other = folder.path.parent / "other.pack"
    other.write_bytes(b"somebody's")
    folder.path.mkdir()
    assert folder.read(Place(name, 0, 5)) == b""
    folder.free([Place(name, 0, 5)], {})
    assert other.read_bytes() == b"somebody's"
