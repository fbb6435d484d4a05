"""A part of the kernel's sources in one tar archive: a tree of real files for benchmarks to unpack."""

import tarfile
from pathlib import Path

from . import cache, kbuild

# More than 5,000 files.
FOLDERS = ("fs", "include/linux")


def archive() -> Path:
    """Path of the archive, made from the source package of the UML kernel when it is not in the cache."""
    source = kbuild.Source()
    target = cache.root() / "sourcetree" / f"{source.version.replace(':', '_')}-{cache.digest(*FOLDERS)}.tar"
    if not target.exists():
        with cache.locked("sourcetree"):
            if not target.exists():
                cache.say(f"part of {source.package} {source.version}, about 150 MB of downloads")
                make(source, target)
    return target


def make(source: kbuild.Source, target: Path) -> None:
    """Takes FOLDERS out of the package's archive; the member files are in the order of their names."""
    with cache.fresh_folder(target.parent) as work:
        tree = source.unpacked(work, *FOLDERS)
        cache.run(
            ["tar", "-c", "--sort=name", "--owner=root", "--group=root", "-C", tree, "-f", work / target.name, *FOLDERS]
        )
        cache.run(["rm", "-r", tree])


def files(path: Path) -> int:
    """How many regular files the archive has."""
    with tarfile.open(path) as archive:
        return sum(member.isfile() for member in archive)
