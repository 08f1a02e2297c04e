"""Network file systems are recognised in the kernel's table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesafe.store.filesystems import network_file_system

TABLE = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda1 rw
40 22 0:44 / {folder}/home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
41 40 254:1 / {folder}/home/local rw,relatime - xfs /dev/vdb rw
42 22 0:45 / {folder}/my\\040share rw - cifs //server/share rw
43 22 0:46 / {folder}/far rw - fuse.sshfs me@far: rw
44 22 0:47 / {folder}/encrypted rw - fuse.gocryptfs /somewhere rw
45 22 0:48 / {folder}/twice rw - nfs server:/twice rw
46 45 0:49 / {folder}/twice rw - tmpfs tmpfs rw
nonsense
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("home/me/study.db", "nfs4"),
        ("home/local/study.db", None),
        ("my share/study.db", "cifs"),
        ("far/study.db", "fuse.sshfs"),
        ("encrypted/study.db", None),
        ("twice/study.db", None),
        ("homely/study.db", None),
    ],
)
def test_the_innermost_and_newest_mount_decides(place: str, kind: str | None, tmp_path: Path) -> None:
    """A local disk inside a shared home is local, and what is mounted over something hides it."""
    table = tmp_path / "mountinfo"
    table.write_text(TABLE.format(folder=tmp_path))
    assert network_file_system(tmp_path / place, table) == kind


def test_where_nobody_knows_nobody_is_warned(tmp_path: Path) -> None:
    """Without the kernel's table, as on macOS, a file counts as local."""
    assert network_file_system(tmp_path / "study.db", tmp_path / "absent") is None
