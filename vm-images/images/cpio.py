"""Writes archives in the "newc" format that the kernel unpacks as its first root file system.

Uncompressed on purpose: copying is cheap for an emulated processor, inflating is not. No
privilege is needed for device nodes, and archives may simply be concatenated.
(Format: Documentation/driver-api/early-userspace/buffer-format.rst.)
"""

import os
import stat
from pathlib import Path


class Writer:
    """An archive being written; use as a context manager. Paths have no leading slash."""

    def __init__(self, target: Path):
        self.target = target
        self.seen: set[str] = set()
        self.inode = 0

    def __enter__(self):
        self.out = open(self.target, "wb")
        return self

    def __exit__(self, *error):
        self._entry("TRAILER!!!", 0, b"")
        # The kernel looks for a following archive at the next multiple of four; 512 is customary.
        self.out.write(bytes(-self.out.tell() % 512))
        self.out.close()

    def folder(self, path: str, mode: int = 0o755) -> None:
        """A directory and its parents; one that is there already is left alone."""
        if path in self.seen or path in ("", "."):
            return
        self.folder(os.path.dirname(path))
        self._entry(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A regular file."""
        self.folder(os.path.dirname(path))
        self._entry(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self.folder(os.path.dirname(path))
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """A character device node."""
        self.folder(os.path.dirname(path))
        self._entry(path, stat.S_IFCHR | mode, b"", (major, minor))

    def copy(self, source: Path, path: str) -> None:
        """A file, link or whole folder of the host with its permission bits, owned by root."""
        mode = source.lstat().st_mode
        if stat.S_ISLNK(mode):
            self.link(path, os.readlink(source))
        elif stat.S_ISDIR(mode):
            self.folder(path, stat.S_IMODE(mode))
            for child in sorted(source.iterdir()):
                self.copy(child, f"{path}/{child.name}")
        else:
            self.file(path, source.read_bytes(), stat.S_IMODE(mode))

    def _entry(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        if path in self.seen:
            return
        self.seen.add(path)
        self.inode += 1
        name = path.encode() + b"\0"
        # inode, mode, uid, gid, nlink, mtime, size, device of the file system (2), device (2), name size, check
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        self.out.write(header + bytes(-len(header) % 4))
        self.out.write(data + bytes(-len(data) % 4))
