"""The User-Mode Linux kernel, built from Debian's newest linux-source.

About five minutes on two cores; kept by source version, configuration, patches and compiler, so it is
built again only when one of them changes.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from . import cache, debian

CONFIG = cache.REPOSITORY / "vm-images" / "uml.config"
# What each is for, its own first lines and README.md say; where a suite relies on one, that adds to `uname -r`.
PATCHES = sorted((cache.REPOSITORY / "vm-images" / "kernel").glob("uml-*.patch"))
SOURCE_SERIES = ("trixie", "trixie-backports")
SOURCE_PATTERN = r"linux-source-[789]\.\d+"


def kernel() -> Path:
    """Path of the UML binary, built when it is not in the cache."""
    archive = debian.Archive(*SOURCE_SERIES)
    folder = cache.root() / "uml"
    package, version = archive.newest(SOURCE_PATTERN)
    compiler = subprocess.run(["gcc", "-dumpfullversion"], check=True, capture_output=True, text=True).stdout
    key = cache.digest(CONFIG.read_bytes(), *(patch.read_bytes() for patch in PATCHES), compiler)
    binary = folder / f"linux-{version}-{key}"
    if binary.exists():
        return binary
    with cache.locked("uml"):
        if not binary.exists():
            cache.say(f"UML kernel: {package} {version}, about 5 minutes on two cores")
            build(archive, package, binary)
    return binary


def build(archive: debian.Archive, package: str, binary: Path) -> None:
    """Unpacks the source package, configures, compiles, and keeps only the stripped binary."""
    work = cache.root() / "uml" / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with archive.fetched(package) as files:
        debian.unpack(files, work / "package")
    (tarball,) = (work / "package" / "usr" / "src").glob("linux-source-*.tar.xz")
    # -T0 unpacks on every core; the drivers and the other architectures are not needed but cheap.
    cache.run(["tar", "-x", "--use-compress-program=xz -T0", "-C", work, "-f", tarball])
    (tree,) = (path for path in work.glob("linux-source-*") if path.is_dir())
    make = ["make", "-C", tree, "ARCH=um", "LOCALVERSION=", f"-j{os.cpu_count() or 1}"]
    log = cache.root() / "logs" / "uml.log"
    log.unlink(missing_ok=True)
    for patch in PATCHES:
        apply(patch, tree, log)
    cache.run([*make, "defconfig"], log)
    with open(tree / ".config", "a") as config:
        config.write(CONFIG.read_text())
    cache.run([*make, "olddefconfig"], log)
    check_config(tree / ".config")
    cache.run([*make, "linux"], log, heartbeat="compiling the UML kernel")
    part = binary.with_suffix(".part")
    cache.run(["strip", "-o", part, tree / "linux"])
    part.rename(binary)
    shutil.rmtree(work)


def apply(patch: Path, tree: Path, log: Path) -> None:
    """Applies a patch; a source that it does not fit is built without it, and suites that need it say so."""
    words = ["patch", "-p1", "--directory", tree, "--input", patch]
    try:
        cache.run([*words, "--dry-run"], log)
    except cache.BuildError:
        cache.say(f"UML kernel: {patch.name} does not fit this source, going on without it")
        return
    cache.run(words, log)


def check_config(path: Path) -> None:
    """Refuses a configuration in which the kernel dropped something that the fragment asks for."""
    got = set(path.read_text().splitlines())
    wanted = [line for line in CONFIG.read_text().splitlines() if re.match(r"CONFIG_\w+=", line)]
    missing = [line for line in wanted if line not in got]
    if missing:
        raise cache.BuildError(f"{CONFIG.name}: this kernel does not take {', '.join(missing)}")
