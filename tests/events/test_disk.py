"""Neither log nor spool begins on a network's file system unless somebody takes the risk."""

from __future__ import annotations

from pathlib import Path

import pytest

from events import disk
from events.errors import LogUnavailable, SpoolError
from events.segment import SegmentHeader
from events.spool import Spool
from events.store import EventStore


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the system says is mounted from another machine, with a space in its name."""
    share = tmp_path / "a share"
    share.mkdir()
    mounts = tmp_path / "mountinfo"
    place = str(share).replace(" ", "\\040")
    mounts.write_text(
        f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 22 0:40 / {place} rw shared:1 - nfs4 host:/export rw\n"
        f"32 31 0:41 / {place}/local rw - xfs /dev/sdb1 rw\n",
        "utf-8",
    )
    monkeypatch.setattr(disk, "_MOUNTS", mounts)
    return share


def test_the_innermost_mount_counts(share: Path) -> None:
    assert disk.file_system(share) == disk.file_system(share / "deep" / "down") == "nfs4"
    assert disk.file_system(share / "local" / "data") == "xfs"
    assert disk.file_system(share.parent) == "ext4"


def test_a_log_is_not_opened_there_and_says_what_to_do(share: Path) -> None:
    with pytest.raises(LogUnavailable, match=r"lies on nfs4.*--data-dir.*SAESTUDIO_NETWORK_DISK=allow"):
        EventStore.open(share / "log.duckdb")
    assert not list(share.iterdir())


def test_a_spool_is_not_begun_there(share: Path) -> None:
    with pytest.raises(SpoolError, match="lies on nfs4"):
        Spool(share / "spool", SegmentHeader(training_id="a", stream="training-a"))


def test_whoever_takes_the_risk_may(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(disk.OVERRIDE, "allow")
    with EventStore.open(share / "log.duckdb") as store:
        assert store.head == 0
