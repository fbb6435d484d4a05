"""Packages of any Debian series, downloaded and unpacked into the cache.

Each set of series has its own apt state (lists, package cache, an empty status file), so neither the
host's sources nor its installed packages are touched or believed: what apt resolves here is
a complete closure. The mirror is the one that the host's own sources name.
"""

import contextlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import cache

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Libraries of these packages lie in folders of their own, which programs know by a path inside the ELF file.
PRIVATE_FOLDERS = ("ceph", "pulseaudio")
LISTS_LIVE_SECONDS = 12 * 3600


def mirror() -> str:
    """The Debian mirror of the host's sources, else deb.debian.org."""
    for folder in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        if folder.is_file():
            found = re.search(r"^(?:URIs:|deb)\s.*?(https?://\S+/debian)/?(?:\s|$)", folder.read_text(), re.M)
            if found:
                return found.group(1)
    return "http://deb.debian.org/debian"


def host_series() -> str:
    """The code name of the host's release, "bookworm" where it is not Debian."""
    text = Path("/etc/os-release").read_text()
    named = re.search(r"^VERSION_CODENAME=(\w+)", text, re.M)
    return named.group(1) if named and re.search(r"^ID=debian", text, re.M) else "bookworm"


class Archive:
    """A private view of one or more Debian series, e.g. `Archive("trixie", "trixie-backports")`.

    The last series named is preferred: apt takes a package from it wherever it has one.
    """

    def __init__(self, *series: str):
        self.series = series
        self.name = "+".join(series)
        self.folder = cache.root() / "apt" / self.name
        self.options = [
            "-o", f"Dir::State={self.folder}/state",
            "-o", f"Dir::State::status={self.folder}/status",
            "-o", f"Dir::Cache={self.folder}/cache",
            "-o", f"Dir::Etc::sourcelist={self.folder}/sources.list",
            "-o", "Dir::Etc::sourceparts=/nonexistent",
            "-o", "Dir::Etc::preferences=/nonexistent",
            "-o", "Dir::Etc::preferencesparts=/nonexistent",
            "-o", "APT::Sandbox::User=",
            "-o", f"APT::Default-Release={series[-1]}",
            "-o", "APT::Install-Recommends=false",
            "-o", "Acquire::Languages=none",
            "-o", "Acquire::Retries=3",
        ]  # fmt: skip
        self.log = cache.root() / "logs" / f"apt-{self.name}.log"

    def update(self) -> None:
        """Fetches the package lists unless they are recent."""
        stamp = self.folder / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_LIVE_SECONDS:
            return
        with cache.locked(f"apt-{self.name}"):
            for part in ("state/lists/partial", "cache"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            (self.folder / "status").touch()
            lines = [f"deb [signed-by={KEYRING}] {mirror()} {series} main" for series in self.series]
            (self.folder / "sources.list").write_text("\n".join(lines) + "\n")
            cache.say(f"package lists of {self.name}")
            try:
                cache.run(["apt-get", *self.options, "update"], self.log)
            except cache.BuildError:
                if not stamp.exists():
                    raise
                cache.say(f"no fresh package lists of {self.name}: going on with those of before")
            (self.folder / "answers.json").unlink(missing_ok=True)
            stamp.touch()

    def names(self, pattern: str) -> list[str]:
        """Names of the packages that match the whole of the regular expression `pattern`."""
        return self._remembered(f"names {pattern}", lambda: self._names(pattern))

    def version(self, package: str) -> str | None:
        """The version that would be installed, None where the series has no such package."""
        return self._remembered(f"version {package}", lambda: self._versions([package]).get(package))

    def newest(self, pattern: str) -> tuple[str, str]:
        """The package with the highest version among those whose name matches: (name, version)."""
        found = self._remembered(f"newest {pattern}", lambda: self._newest(pattern))
        if found is None:
            raise cache.BuildError(f"no package named like {pattern} in Debian {self.name}")
        return (found[0], found[1])

    @contextlib.contextmanager
    def fetched(self, *packages: str, closure: bool = False):
        """Downloads packages (with all they depend on, if `closure`): the .deb files, while the block lasts."""
        self.update()
        with tempfile.TemporaryDirectory(prefix="debs-", dir=self.folder) as folder:
            (Path(folder) / "partial").mkdir()
            verb = ["install", "--download-only", "-y"] if closure else ["download"]
            # With an archive folder of its own a download is complete: nothing counts as being there already.
            own = ["-o", f"Dir::Cache::archives={folder}"]
            cache.run(
                ["apt-get", *self.options, *own, *verb, *packages],
                self.log, heartbeat=f"download of {packages[0]}", cwd=folder,
            )  # fmt: skip
            yield sorted(Path(folder).glob("*.deb"))

    def _remembered(self, question: str, answer: Callable[[], Any]) -> Any:
        """An answer that holds as long as the lists are those it was taken from: apt is slow to start."""
        self.update()
        memory = self.folder / "answers.json"
        try:
            known = json.loads(memory.read_text())
        except (OSError, ValueError):
            known = {}
        if question not in known:
            known[question] = answer()
            part = memory.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(known, indent=1))
            part.rename(memory)
        return known[question]

    def _names(self, pattern: str) -> list[str]:
        wanted = re.compile(pattern)
        return sorted(name for name in self._query("pkgnames").split() if wanted.fullmatch(name))

    def _versions(self, packages: list[str]) -> dict[str, str]:
        text = self._query("policy", *packages)
        found = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (\S+)$", text, re.M)
        return {name: version for name, version in found if version != "(none)"}

    def _newest(self, pattern: str) -> tuple[str, str] | None:
        best: tuple[str, str] | None = None
        names = self._names(pattern)
        for name, version in self._versions(names).items() if names else ():
            if best is None or newer(version, best[1]):
                best = (name, version)
        return best

    def _query(self, *words: str) -> str:
        return subprocess.run(
            ["apt-cache", *self.options, *words], check=True, capture_output=True, text=True
        ).stdout


def newer(left: str, right: str) -> bool:
    """Whether Debian version `left` is later than `right`."""
    return subprocess.run(["dpkg", "--compare-versions", left, "gt", right]).returncode == 0


def unpack(files: list[Path], folder: Path) -> None:
    """Unpacks .deb files over each other into `folder`; no maintainer script runs."""
    for file in files:
        cache.run(["dpkg-deb", "-x", file, folder])


def through_loader(tree: Path, program: str) -> list[str]:
    """The words that start `program` of an unpacked tree with the C library and the loader of that tree."""
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    search = [libraries, *(libraries / name for name in PRIVATE_FOLDERS), tree / "lib/x86_64-linux-gnu"]
    loader = next(path for folder in search for path in folder.glob("ld-linux-x86-64.so.2"))
    return [str(loader), "--library-path", ":".join(str(path) for path in search if path.exists()), str(tree / program)]
