"""What is measured: daemons with a share each, a raw virtio-blk disk, and the host itself as a reference."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from images import programs, qemu
from lib import daemon, disk, guest
from lib.suites import UsageError

from .jobs import DATA_BYTES

# virtiofsd's cache policy and direct I/O as ours are; its thread pool is off unless asked for.
PEER = "virtiofsd --allow-direct-io --cache auto"
KNOWN = {
    "extentfsd": "extentfsd",
    "extents": "extentfsd with a window, in a guest whose kernel has the patch",
    "virtiofsd": PEER,
    "virtiofsd-pool4": f"{PEER} --thread-pool-size 4",
    "virtio-blk": "qemu-storage-daemon, vhost-user-blk export, aio=io_uring, O_DIRECT",
    "host": "no guest: fio on the host",
}
DEFAULT = "extentfsd,virtiofsd,virtiofsd-pool4,virtio-blk,host"
WITHOUT_COMMAND = ("extents", "virtio-blk", "host")
# By which the guest finds the window among its disks.
WINDOW_SERIAL = "fio-window"
# The disk for jobs that need a file system; the size tells it from the one with the data.
FILE_SYSTEM_BYTES = 2 << 30
# Longer names make unreadable tables, and tags that the device refuses.
NAME_LENGTH = 30


@dataclass(frozen=True)
class Target:
    """A way to reach a file of the host."""

    name: str
    # "fs" has a daemon, "extents" one with a window, "blk" qemu-storage-daemon, "host" nothing.
    kind: str
    what: str
    command: tuple[str, ...] = ()
    queues: int = 1

    def fill(self, folder: Path) -> None:
        """Makes the data that jobs work on, every block of it written."""
        folder.mkdir()
        block = os.urandom(1 << 20)
        with open(folder / "data", "wb") as file:
            for _ in range(DATA_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if self.kind == "blk":
            with open(folder / "file-system", "wb") as file:
                file.truncate(FILE_SYSTEM_BYTES)

    def server(self, folder: Path, logs: Path) -> daemon.Server | None:
        """The back-end that serves what `fill` made, not yet started."""
        if self.kind in ("fs", "extents"):
            logs.mkdir()
            window = ["--window-socket", str(self.window(folder)), "--window-serial", WINDOW_SERIAL]
            return daemon.Daemon(
                list(self.command), folder, self.queues, window if self.kind == "extents" else [], logs, False,
                tag=self.name, socket=folder.with_name(f"{self.name}.sock"),
            )  # fmt: skip
        if self.kind == "blk":
            logs.mkdir()
            # One disk is the data, the other for a file system.
            names = ("data", "file-system")
            sockets = [folder.with_name(f"{folder.name}-{name}.sock") for name in names]
            return disk.Export(
                list(self.command), [folder / name for name in names], sockets, self.queues, logs / "daemon.log"
            )
        return None

    def devices(self, server: daemon.Server) -> list[guest.Device]:
        """What of it the guest is given."""
        if isinstance(server, disk.Export):
            return [guest.Device("blk", socket, self.queues) for socket in server.sockets]
        share = guest.Device("fs", server.socket, self.queues, self.name)
        if self.kind == "extents":
            return [share, guest.Device("blk", self.window(server.socket), self.queues)]
        return [share]

    def window(self, beside: Path) -> Path:
        """The socket of the window, in the same folder as the other."""
        return beside.with_name(f"{self.name}-window.sock")

    def line(self) -> str:
        """How the guest is told about it."""
        return {
            "fs": f"{self.name} fs {self.name}",
            "extents": f"{self.name} extents {self.name} {WINDOW_SERIAL}",
            "blk": f"{self.name} blk {DATA_BYTES} {FILE_SYSTEM_BYTES}",
            "host": f"{self.name} host",
        }[self.kind]


def named(words: str) -> dict[str, str]:
    """What the command line asks for, by name: each a key of KNOWN or NAME=COMMAND. Builds and fetches nothing."""
    found: dict[str, str] = {}
    for word in split(words):
        name, given, command = (part.strip() for part in word.partition("="))
        if not given and name not in KNOWN:
            raise UsageError(f"no daemon {name!r}; there are {', '.join(KNOWN)}, or NAME=COMMAND")
        if not name or len(name) > NAME_LENGTH or not all(letter.isalnum() or letter in "-_." for letter in name):
            raise UsageError(
                f"{name!r} is no name for a daemon: letters, digits, '-', '_' and '.', at most {NAME_LENGTH}"
            )
        if name in found:
            raise UsageError(f"daemon {name!r} is named twice")
        if given and (name in WITHOUT_COMMAND or not command.strip("'\"")):
            raise UsageError(
                f"daemon {name!r}: {'takes no command' if name in WITHOUT_COMMAND else 'its command is empty'}"
            )
        found[name] = command
    if not found:
        raise UsageError("--daemons names none")
    return found


def split(words: str) -> list[str]:
    """At commas; a comma inside quotes belongs to a command."""
    lexer = shlex.shlex(words, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = ",", True, ""
    try:
        return list(lexer)
    except ValueError as error:
        raise UsageError(f"--daemons {words}: {str(error).lower()}") from None


def made(name: str, command: str, kind: str, queues: int, build: bool) -> Target:
    """The target of one name and command as `named` found them, for a kind of guest; fetches and builds what it needs."""
    if name == "host":
        return Target(name, "host", KNOWN[name])
    if name == "virtio-blk":
        # With two queues requests of a UML guest's disk are sometimes never finished, while the export waits for more.
        queues = 1 if guest.is_uml(kind) else queues
        what = f"{KNOWN[name]}, num-queues={queues} ({qemu.storage_version()})"
        return Target(name, "blk", what, tuple(qemu.storage_daemon()), queues)
    if name == "extents":
        if not guest.has_extents(kind):
            raise UsageError(f"{name!r} needs a guest whose kernel has the patch, such as --guest uml-extents")
        what = f"extentfsd --queues {queues} --window-socket ..., mounted with iomap_dev"
        return Target(name, "extents", what, tuple(daemon.binary("extentfsd", build)), queues)
    command = command or KNOWN[name]
    first, *rest = command.split()
    version = f" ({programs.version(first)})" if first in programs.CRATES else ""
    started = [*daemon.binary(first, build), *rest]
    if daemon.is_ours(started):
        return Target(name, "fs", f"{command} --queues {queues}{version}", tuple(started), queues)
    return Target(name, "fs", command + version, tuple(started))
