"""Where a guest with extents finds the bytes of files: the disk beside the share, and what the daemon has to know of it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from images import qemu

from . import disk, guest, share

# Records point into the window, which the daemon serves from files, or from files' blocks; or to the block device under the share.
SOURCES = ("file", "block", "device")
# Those that need a file system of the share's own, and take no second guest.
ON_VOLUME = ("block", "device")
# By what the guest knows a disk that QEMU gives to it.
HOST_DISK_SERIAL = "share-disk"


@dataclass
class Attached:
    """What the daemon is told, and what the guest gets beside the share."""

    options: list[str] = field(default_factory=list)
    devices: list[guest.Device | guest.HostDisk] = field(default_factory=list)


@contextlib.contextmanager
def attached(source: str, kind: str, directory: Path, queues: int, folder: Path) -> Iterator[Attached]:
    """The disk for a guest of this `kind` with the share `directory`; it is there while the context lasts."""
    socket = folder / "window.sock"
    window = ["--window-socket", str(socket)]
    if source == "file":
        yield Attached(window, [guest.Device("blk", socket, queues)])
        return
    device = share.device(directory)
    if source == "block":
        options = [*window, "--extent-source", "block", "--device", str(device)]
        yield Attached(options, [guest.Device("blk", socket, queues)])
        return

    def options(serial: str) -> list[str]:
        return ["--extent-source", "device", "--device", str(device), "--window-serial", serial]

    if not guest.is_uml(kind):
        yield Attached(options(HOST_DISK_SERIAL), [guest.HostDisk(device, queues, HOST_DISK_SERIAL)])
        return
    # With two queues requests of a UML guest's disk are sometimes never finished, while the export waits for more.
    with disk.Export(qemu.storage_daemon(), [device], [socket], 1, folder / "disk.log"):
        yield Attached(options(disk.SERIAL), [guest.Device("blk", socket, 1)])
