"""Which file systems are on the far side of a network: SQLite's locks and its log cannot be relied on there."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

__all__ = ["network_file_system"]

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    {
        *("acfs", "afs", "beegfs", "ceph", "cifs", "davfs", "fhgfs", "gfs", "gfs2", "gpfs", "glusterfs"),
        *("lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"),
    }
)
_NETWORK_FUSE = re.compile(
    r"fuse\.(sshfs|s3fs|gcsfuse|goofys|rclone|glusterfs|ceph.*|juicefs|davfs2?|smbnetfs|blobfuse2?)"
)


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The kind of network file system a path is on, such as ``nfs4``; ``None`` on a local disk, or where nobody knows.

    Args:
        path: A file that may not exist yet, in a folder that does.
        mounts: The kernel's table of mounts.
    """
    folder = path.absolute().parent
    with suppress(OSError):
        folder = folder.resolve()
        kind = _kind_of_mount(folder, mounts.read_text(errors="replace"))
        if kind in _NETWORK or _NETWORK_FUSE.fullmatch(kind):
            return kind
    return None


def _kind_of_mount(folder: Path, table: str) -> str:
    """The file system a folder is on: of the last mount on the longest of its parents."""
    found, longest = "", -1
    for line in table.splitlines():
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue (proc(5))
        fields, _, rest = line.partition(" - ")
        if len(words := fields.split(" ")) < 5 or not rest:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4]))
        if folder.is_relative_to(point) and len(point.parts) >= longest:
            found, longest = rest.split(" ")[0], len(point.parts)
    return found
