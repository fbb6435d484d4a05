"""The guest's root file system: an initramfs of Debian programs and exactly the libraries they load.

The programs come from packages of the host's own Debian release, so that what is compiled on the
host (pjdfstest, fsx, guest-smoke) finds its C library. What changes from run to run (suites, the list of
what to run) is not in here: the runner appends a second archive.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from . import cache, cpio, debian, programs

# Every program of these packages is taken; of the packages they depend on, only libraries.
PACKAGES = (
    "acl", "attr", "bash", "busybox-static", "coreutils", "diffutils", "e2fsprogs", "findutils", "gawk", "git",
    "grep", "libcap2-bin", "libgcc-s1", "mount", "procps", "sed", "sqlite3", "strace", "tar", "util-linux", "xfsprogs",
)  # fmt: skip
# Large for what they give: xfs_scrub alone brings 37 MB of Unicode tables.
UNWANTED = ("git-shell", "scalar", "xfs_scrub")
# Programs that few suites need and that bring many libraries (fio: 80 MB), each an archive of its own.
SEPARATE = ("fio",)
# Loaded by name at run time, so no ELF header tells of them.
EXTRA_LIBRARIES = ("libnss_files.so.2", "libgcc_s.so.1")
FOLDERS = ("bin", "sbin", "usr/bin", "usr/sbin")
INIT = cache.REPOSITORY / "vm-images" / "init"
BUSYBOX_APPLETS = ("gzip", "hexdump", "hostname", "insmod", "ip", "less", "poweroff", "vi", "which", "xxd")
GUEST_CRATES = ("pjdfstest", "fsx")
# pjdfstest switches between accounts; "tests" and "nobody" are its defaults.
ACCOUNTS = {"root": 0, "tests": 2001, "pjdfstest": 2002, "nobody": 65534}


def image() -> Path:
    """Path of the archive that every guest boots from, made when it is not in the cache."""
    extra = [programs.installed(name) for name in GUEST_CRATES]
    return made("initramfs", lambda tree, target: write(tree, extra, target), *[str(path) for path in extra])


def separate(name: str) -> Path:
    """Path of the archive with one of SEPARATE, to be put behind the first."""

    def write_program(tree: Path, target: Path) -> None:
        (path,) = [path for path in programs_of(tree / "all") if path.name == name]
        with cpio.Writer(target) as archive:
            archive.copy(path, f"usr/bin/{name}")
            for library, source in sorted(needed(libraries_of(tree), [path]).items()):
                archive.file(f"usr/lib/{library}", source.read_bytes(), 0o755)

    return made(name, write_program)


def host_command(name: str) -> list[str]:
    """The words that start one of SEPARATE on the host: the same program, with the libraries of the same packages."""
    tree = unpacked(debian.Archive(debian.host_series())) / "all"
    (path,) = [path for path in programs_of(tree) if path.name == name]
    return debian.through_loader(tree, str(path.relative_to(tree)))


def made(name: str, write_to: Callable[[Path, Path], None], *depends: str) -> Path:
    """An archive in the cache, named by all it is made from."""
    series = debian.host_series()
    key = cache.digest(INIT.read_bytes(), Path(__file__).read_bytes(), series, *depends)
    target = cache.root() / "root" / f"{name}-{key}.cpio"
    if not target.exists():
        with cache.locked("root"):
            if not target.exists():
                cache.say(f"{name}: archive for the guest, of Debian {series} packages")
                part = target.with_suffix(".part")
                write_to(unpacked(debian.Archive(series)), part)
                part.rename(target)
    return target


def unpacked(archive: debian.Archive) -> Path:
    """Two trees, made once per list of packages: `own` of PACKAGES, `all` of those and their dependencies."""
    tree = cache.root() / "root" / f"tree-{archive.name}-{cache.digest(*PACKAGES, *SEPARATE)}"
    if not tree.exists():
        with archive.fetched(*PACKAGES, *SEPARATE, closure=True) as files, cache.fresh_folder(tree) as work:
            debian.unpack([file for file in files if file.name.split("_")[0] in PACKAGES], work / "own")
            debian.unpack(files, work / "all")
    return tree


def libraries_of(tree: Path) -> dict[str, Path]:
    """Every shared library of the unpacked packages, by the name under which programs ask for it."""
    libraries: dict[str, Path] = {}
    for path in sorted((tree / "all").rglob("*.so*"), key=lambda path: len(path.parts)):
        libraries.setdefault(path.name, path)
    return libraries


def write(tree: Path, extra: list[Path], target: Path) -> None:
    """The first archive."""
    wanted = [path for path in programs_of(tree / "own") if path.name not in UNWANTED and not needs_interpreter(path)]
    with cpio.Writer(target) as archive:
        for folder in ("dev", "proc", "sys", "tmp", "mnt", "run", "root", "etc", "var/tmp", "usr/lib", "usr/bin"):
            archive.folder(folder)
        # One folder for programs and one for libraries, whatever the packages say.
        archive.link("bin", "usr/bin")
        archive.link("sbin", "usr/bin")
        archive.link("lib", "usr/lib")
        archive.link("lib64", "usr/lib")
        archive.link("usr/sbin", "bin")
        archive.device("dev/console", 5, 1)
        archive.device("dev/null", 1, 3, 0o666)
        archive.file("init", INIT.read_bytes(), 0o755)
        for path in [*wanted, *extra]:
            archive.copy(path, f"usr/bin/{path.name}")
        for name, path in sorted(needed(libraries_of(tree), [*wanted, *extra]).items()):
            archive.file(f"usr/lib/{name}", path.read_bytes(), 0o755)
        archive.link("usr/bin/sh", "bash")
        archive.link("usr/bin/awk", "gawk")
        for applet in BUSYBOX_APPLETS:
            archive.link(f"usr/bin/{applet}", "busybox")
        archive.copy(tree / "own/usr/share/git-core", "usr/share/git-core")
        accounts(archive)


def programs_of(tree: Path) -> list[Path]:
    """Everything in the folders for programs; links to programs of their own folder stay links."""
    return [path for folder in FOLDERS if (tree / folder).exists() for path in sorted((tree / folder).iterdir())]


def needs_interpreter(path: Path) -> bool:
    """Whether the guest cannot run it: a script for perl or python."""
    if path.is_symlink():
        return False
    with open(path, "rb") as file:
        first = file.readline(200)
    return first.startswith(b"#!") and not re.match(rb"#! ?/(usr/)?bin/(ba|da)?sh\b", first)


def accounts(archive: cpio.Writer) -> None:
    """Users and groups of the same names and numbers."""
    passwd = "".join(f"{name}:x:{number}:{number}::/root:/bin/bash\n" for name, number in ACCOUNTS.items())
    group = "".join(f"{name}:x:{number}:\n" for name, number in ACCOUNTS.items())
    archive.file("etc/passwd", passwd.encode())
    archive.file("etc/group", group.encode())
    archive.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\n")
    archive.file("etc/hosts", b"127.0.0.1 localhost\n")


def needed(libraries: dict[str, Path], programs: list[Path]) -> dict[str, Path]:
    """The shared libraries that the programs load, and those load in turn."""
    found: dict[str, Path] = {name: libraries[name] for name in EXTRA_LIBRARIES if name in libraries}
    todo = [*programs, *found.values()]
    while todo:
        path = todo.pop()
        listing = subprocess.run(["readelf", "-d", "-l", path], capture_output=True, text=True).stdout
        names = re.findall(r"\(NEEDED\).*\[(.+)\]", listing) + re.findall(r"interpreter: .*/(.+)\]", listing)
        for name in names:
            if name not in found:
                if name not in libraries:
                    raise cache.BuildError(f"{path} needs {name}, which no package of the initramfs has")
                found[name] = libraries[name]
                todo.append(libraries[name])
    return found
