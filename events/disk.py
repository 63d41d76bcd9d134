"""What a folder lies on. A network's file systems lose what the log and the spool build on: locks, fsync, mappings."""

from __future__ import annotations

import os
import re
from pathlib import Path

OVERRIDE = "SAESTUDIO_NETWORK_DISK"
"""Set to `allow`, this environment variable lets log and spool lie on a network's file system."""

_NETWORK = frozenset(
    {
        "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "gpfs", "lustre",
        "nfs", "nfs3", "nfs4", "orangefs", "smb2", "smb3", "smbfs",
    }
)  # fmt: skip

_MOUNTS = Path("/proc/self/mountinfo")


def file_system(folder: Path) -> str:
    """Type of the file system that `folder` lies on; "" where the system does not say."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    place = folder.resolve()
    best, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4])
        if len(mount) >= best and place.is_relative_to(mount):
            best, kind = len(mount), right.split()[0]
    return kind


def sync_folder(folder: Path) -> None:
    """Make durable which files a folder holds under which names. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_network(kind: str) -> bool:
    """Whether a file system's files lie on another machine."""
    return kind in _NETWORK


def refusal(folder: Path, what: str) -> str | None:
    """Why `what` must not lie in `folder`, in a sentence; None where it may."""
    kind = file_system(folder)
    if not is_network(kind) or os.environ.get(OVERRIDE) == "allow":
        return None
    return (
        f"{folder} lies on {kind}, a network's file system, where locks and fsync cannot be relied on: {what} wants a"
        f" local disk. Choose another folder with --data-dir, or set {OVERRIDE}=allow to take the risk."
    )
