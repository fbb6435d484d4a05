"""Kernels of our own, built from Debian's linux-source.

A recipe says what a kernel is made of beside the source. What came out is kept by source version, configuration,
patches and compiler, so it is built again only when one of them changes.
"""

import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import cache, debian

FOLDER = cache.REPOSITORY / "vm-images"
# name -> (series to look in, which source packages): of those the newest is taken.
SOURCES = {
    "newest": (("trixie", "trixie-backports"), r"linux-source-[789]\.\d+"),
    "6.12": (("trixie",), r"linux-source-6\.12"),
}
# A kernel without these is no use to who asked for it; any other patch is left out where the source does not take it.
INDISPENSABLE = "extents-"


class Source:
    """The newest source package of those that `name`, a key of SOURCES, stands for: `package`, `version`."""

    def __init__(self, name: str = "newest"):
        series, pattern = SOURCES[name]
        self.archive = debian.Archive(*series)
        self.package, self.version = self.archive.newest(pattern)

    def unpacked(self, work: Path, *folders: str) -> Path:
        """Fetches the package and unpacks the sources, or only `folders` of them, below `work`: their tree."""
        with self.archive.fetched(self.package) as files:
            debian.unpack(files, work / "package")
        (packed,) = (work / "package" / "usr" / "src").glob("linux-source-*.tar.xz")
        name = packed.name.removesuffix(".tar.xz")
        wanted = [f"{name}/{folder}" for folder in folders]
        # -T0 unpacks on every core; the drivers and the other architectures are not needed but cheap.
        cache.run(
            ["tar", "-x", "--use-compress-program=xz -T0", "-C", work, "-f", packed, *wanted],
            heartbeat="unpacking sources",
        )
        shutil.rmtree(work / "package")
        return work / name


@dataclass(frozen=True)
class Recipe:
    """What a kernel is made of beside the source."""

    name: str
    # As make knows them: the architecture, the configuration to start from, what to build, and the file that it leaves.
    arch: str
    base: str
    target: str
    product: str
    # Files beside README.md that add to the configuration, and patterns of files below kernel/, both in this order.
    fragments: tuple[str, ...]
    patterns: tuple[str, ...]
    # A key of SOURCES.
    source: str = "newest"

    def patches(self) -> list[Path]:
        """What each is for, its own first lines and README.md say; where a suite relies on one, that adds to `uname -r`."""
        return [path for pattern in self.patterns for path in sorted((FOLDER / "kernel").glob(pattern))]

    def lacking(self) -> str:
        """The pattern of patches that must be there and are not, "" where none is missed."""
        needed = [pattern for pattern in self.patterns if pattern.startswith(INDISPENSABLE)]
        return next((pattern for pattern in needed if not list((FOLDER / "kernel").glob(pattern))), "")

    def check(self) -> None:
        """Refuses to build the kernel without what it is made for."""
        if self.lacking():
            raise cache.BuildError(f"{self.name}: there is no vm-images/kernel/{self.lacking()}")

    def key(self) -> str:
        """A short name for all of it, and the compiler."""
        compiler = subprocess.run(["gcc", "-dumpfullversion"], check=True, capture_output=True, text=True).stdout
        parts = [(FOLDER / name).read_bytes() for name in self.fragments]
        return cache.digest(*parts, *(patch.read_bytes() for patch in self.patches()), compiler)


class Tree:
    """An unpacked source in which one kernel is built after another, each having all that the one before had."""

    def __init__(self, source: Source, path: Path, log: Path):
        self.source, self.path, self.log = source, path, log
        self.applied: list[Path] = []
        self.added: list[str] = []

    def build(self, recipe: Recipe) -> Path:
        """Patches, configures and compiles what is not so yet; the file that came out."""
        make = ["make", "-C", self.path, f"ARCH={recipe.arch}", "LOCALVERSION=", f"-j{os.cpu_count() or 1}"]
        for patch in recipe.patches():
            if patch not in self.applied:
                self.apply(patch, recipe.name)
        missing = [name for name in recipe.fragments if name not in self.added]
        text = "".join((FOLDER / name).read_text() for name in missing)
        if not self.added:
            # `allnoconfig` looks there, and then leaves out what is on by default and not asked for.
            (self.path / "wanted.config").write_text(text)
            cache.run([*make, "KCONFIG_ALLCONFIG=wanted.config", recipe.base], self.log)
        with open(self.path / ".config", "a") as config:
            config.write(text)
        self.added += missing
        cache.run([*make, "olddefconfig"], self.log)
        check_config(self.path / ".config", recipe.fragments)
        cache.run([*make, recipe.target], self.log, heartbeat=f"compiling {recipe.name}")
        return self.path / recipe.product

    def apply(self, patch: Path, name: str) -> None:
        """Applies a patch; a source that it does not fit is built without it unless the kernel is made for it."""
        words = ["patch", "-p1", "--directory", self.path, "--input", patch]
        self.applied.append(patch)
        try:
            cache.run([*words, "--dry-run"], self.log)
        except cache.BuildError as error:
            if patch.name.startswith(INDISPENSABLE):
                source = f"{self.source.package} {self.source.version}"
                raise cache.BuildError(f"{name}: {patch.name} does not fit {source}: {error}") from None
            cache.say(f"{name}: {patch.name} does not fit this source, going on without it")
            return
        cache.run(words, self.log)


@contextlib.contextmanager
def unpacked_tree(source: Source, work: Path, log_name: str):
    """A Tree in the folder `work`, gone when the block ends: it takes 3 GB."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log = cache.root() / "logs" / f"{log_name}.log"
    log.unlink(missing_ok=True)
    try:
        yield Tree(source, source.unpacked(work), log)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_config(path: Path, fragments: tuple[str, ...]) -> None:
    """Refuses a configuration in which the kernel dropped something that a fragment asks for."""
    got = set(path.read_text().splitlines())
    for name in fragments:
        wanted = [line for line in (FOLDER / name).read_text().splitlines() if re.match(r"CONFIG_\w+=", line)]
        missing = [line for line in wanted if line not in got]
        if missing:
            raise cache.BuildError(f"{name}: this kernel does not take {', '.join(missing)}")
