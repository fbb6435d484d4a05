"""The newest QEMU of Debian's backports, in a tree of its own.

It brings its own C library and is started through that tree's dynamic loader, so it runs on an
older host and mixes nothing into it.
"""

import shutil
from pathlib import Path

from . import cache, debian

SERIES = ("trixie", "trixie-backports")
PACKAGE = "qemu-system-x86"
# Has qemu-storage-daemon.
TOOLS_PACKAGE = "qemu-utils"
# Parts of the closure that a headless x86 guest never opens.
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/icons", "usr/share/perl*")


def tree() -> Path:
    """The unpacked tree of the emulator."""
    return unpacked("qemu", PACKAGE)


def storage_tree() -> Path:
    """The unpacked tree of qemu-storage-daemon."""
    return unpacked("qemu-storage", TOOLS_PACKAGE)


def unpacked(name: str, package: str) -> Path:
    """A package with all it needs in a tree of its own below the cache's folder `name`, fetched when it is not there."""
    archive = debian.Archive(*SERIES)
    version = archive.version(package)
    if version is None:
        raise cache.BuildError(f"no package {package} in Debian {archive.name}")
    folder = cache.root() / name / version.replace(":", "_")
    if folder.exists():
        return folder
    with cache.locked(name):
        if not folder.exists():
            cache.say(f"{package} {version} and what it needs")
            with archive.fetched(package, closure=True) as files, cache.fresh_folder(folder) as work:
                debian.unpack(files, work)
                for pattern in UNUSED:
                    for path in work.glob(pattern):
                        shutil.rmtree(path)
    return folder


def version() -> str:
    """Version of the package, as Debian writes it."""
    return tree().name.replace("_", ":")


def command() -> tuple[list[str], dict[str, str]]:
    """The words that start qemu-system-x86_64, and the environment variables it needs."""
    base = tree()
    words = [
        *debian.through_loader(base, "usr/bin/qemu-system-x86_64"),
        "-L", str(base / "usr/share/qemu"), "-L", str(base / "usr/share/seabios"),
        "-L", str(base / "usr/lib/ipxe/qemu"),
    ]  # fmt: skip
    return words, {"QEMU_MODULE_DIR": str(base / "usr/lib/x86_64-linux-gnu/qemu")}


def storage_daemon() -> list[str]:
    """The words that start qemu-storage-daemon, which exports images over vhost-user-blk."""
    return debian.through_loader(storage_tree(), "usr/bin/qemu-storage-daemon")


def storage_version() -> str:
    """Version of the package with qemu-storage-daemon, as Debian writes it."""
    return storage_tree().name.replace("_", ":")
