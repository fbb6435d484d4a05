"""The newest QEMU of Debian's backports, in a tree of its own.

It brings its own C library and is started through that tree's dynamic loader, so it runs on an
older host and mixes nothing into it.
"""

import shutil
from pathlib import Path

from . import cache, debian

SERIES = ("trixie", "trixie-backports")
PACKAGE = "qemu-system-x86"
# Parts of the closure that a headless x86 guest never opens.
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/icons", "usr/share/perl*")


def tree() -> Path:
    """The unpacked tree, fetched when it is not in the cache."""
    archive = debian.Archive(*SERIES)
    version = archive.version(PACKAGE)
    if version is None:
        raise cache.BuildError(f"no package {PACKAGE} in Debian {archive.name}")
    folder = cache.root() / "qemu" / version.replace(":", "_")
    if folder.exists():
        return folder
    with cache.locked("qemu"):
        if not folder.exists():
            cache.say(f"{PACKAGE} {version} and what it needs, about 180 MB")
            with archive.fetched(PACKAGE, closure=True) as files, cache.fresh_folder(folder) as work:
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
    libraries = base / "usr/lib/x86_64-linux-gnu"
    # PulseAudio's private library is the one that lies in a folder of its own.
    search = [libraries, libraries / "pulseaudio", base / "lib/x86_64-linux-gnu"]
    loader = next(base.glob("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"), None) or next(
        base.glob("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    )
    words = [
        str(loader), "--library-path", ":".join(str(path) for path in search if path.exists()),
        str(base / "usr/bin/qemu-system-x86_64"),
        "-L", str(base / "usr/share/qemu"), "-L", str(base / "usr/share/seabios"),
        "-L", str(base / "usr/lib/ipxe/qemu"),
    ]  # fmt: skip
    return words, {"QEMU_MODULE_DIR": str(libraries / "qemu")}
