"""A part of the kernel's sources in one tar archive: a tree of real files for benchmarks to unpack."""

import tarfile
from pathlib import Path

from . import cache, debian, uml

# More than 5,000 files.
FOLDERS = ("fs", "include/linux")


def archive() -> Path:
    """Path of the archive, made from the source package of the UML kernel when it is not in the cache."""
    packages = debian.Archive(*uml.SOURCE_SERIES)
    package, version = packages.newest(uml.SOURCE_PATTERN)
    target = cache.root() / "sourcetree" / f"{version.replace(':', '_')}-{cache.digest(*FOLDERS)}.tar"
    if not target.exists():
        with cache.locked("sourcetree"):
            if not target.exists():
                cache.say(f"part of {package} {version}, about 150 MB of downloads")
                make(packages, package, target)
    return target


def make(packages: debian.Archive, package: str, target: Path) -> None:
    """Takes FOLDERS out of the package's archive; the member files are in the order of their names."""
    with cache.fresh_folder(target.parent) as work:
        with packages.fetched(package) as files:
            debian.unpack(files, work / "package")
        (packed,) = (work / "package" / "usr" / "src").glob("linux-source-*.tar.xz")
        wanted = [f"{packed.name.removesuffix('.tar.xz')}/{folder}" for folder in FOLDERS]
        cache.run(
            ["tar", "-x", "--use-compress-program=xz -T0", "-C", work, "-f", packed, *wanted],
            heartbeat="unpacking sources",
        )
        (tree,) = (path for path in work.glob("linux-source-*") if path.is_dir())
        cache.run(
            ["tar", "-c", "--sort=name", "--owner=root", "--group=root", "-C", tree, "-f", work / target.name, *FOLDERS]
        )
        cache.run(["rm", "-r", tree, work / "package"])


def files(path: Path) -> int:
    """How many regular files the archive has."""
    with tarfile.open(path) as archive:
        return sum(member.isfile() for member in archive)
