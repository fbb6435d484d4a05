"""What a suite is: a script in `suites/` and what its header says about it.

Header lines, anywhere among the first comment lines:

    # time-limit: SECONDS        per run at scale "full"
    # time-limit-quick: SECONDS  at scale "quick", if different
    # needs: OPTIONS             daemon options; suites with different needs get different boots
    # programs: NAME             put into the guest beside what is always there; known is: fio
    # requires: VARIABLE         runs only where the environment variable is set
    # revoke: SECONDS            the daemon is told so often to take back what it granted of the window
    # tolerates: REGEX           what the daemon may say at level ERROR, because the suite brings it about
    # crash: SECONDS             the guest is killed so long after the suite began; what it left is the result

Beside it may stand programs that run on the host: NAME.prepare before the boot, NAME.host afterwards. Both get the
suite's own directory of the share.
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "suites"
DEFAULT_LIMIT = 300


class UsageError(Exception):
    """The command line asks for something that does not exist; the message says what."""


@dataclass(frozen=True)
class Suite:
    """One suite and its declared limits and needs."""

    name: str
    path: Path
    limit_full: int
    limit_quick: int
    needs: tuple[str, ...]
    requires: tuple[str, ...]
    programs: tuple[str, ...]
    revoke: float
    crash: float
    tolerates: str

    @property
    def boot(self) -> tuple:
        """What suites must have in common to share one boot."""
        return (self.needs, self.revoke, self.name if self.crash else "")

    def limit(self, scale: str, factor: float) -> int:
        """Seconds that the suite may take in a guest that is `factor` times slower than the host."""
        return int((self.limit_full if scale == "full" else self.limit_quick) * factor)

    def host_program(self, when: str) -> Path | None:
        """The program that fills the suite's directory ("prepare") or verifies what the suite left there ("host")."""
        path = self.path.with_name(f"{self.name}.{when}")
        return path if os.access(path, os.X_OK) else None

    def missing(self) -> list[str]:
        """Variables that the suite requires and the environment lacks."""
        return [name for name in self.requires if not os.environ.get(name)]


def load(name: str) -> Suite:
    """The suite `name`; an unknown one is a usage error that lists those there are."""
    path = FOLDER / name
    if name not in names():
        raise UsageError(f"no suite {name!r}; there are: {', '.join(names())}")
    header = {}
    for line in path.read_text(errors="replace").splitlines():
        if not line.startswith("#"):
            break
        if found := re.match(r"#\s*([a-z-]+):\s*(.*?)\s*$", line):
            header[found.group(1)] = found.group(2)
    try:
        full = int(header.get("time-limit", DEFAULT_LIMIT))
        quick = int(header.get("time-limit-quick", full))
        revoke, crash = (float(header.get(key, 0)) for key in ("revoke", "crash"))
    except ValueError as error:
        raise UsageError(f"suite {name}: not a number of seconds: {error}") from None
    return Suite(
        name, path, full, quick,
        tuple(shlex.split(header.get("needs", ""))), tuple(header.get("requires", "").split()),
        tuple(header.get("programs", "").split()), revoke, crash, header.get("tolerates", ""),
    )  # fmt: skip


def names() -> list[str]:
    """All suites, by name."""
    return sorted(
        path.name
        for path in FOLDER.iterdir()
        if path.is_file() and os.access(path, os.X_OK) and "." not in path.name
    )


def by_boot(chosen: list[Suite]) -> list[list[Suite]]:
    """Suites that share one boot, together; order is kept."""
    groups: dict[tuple, list[Suite]] = {}
    for suite in chosen:
        groups.setdefault(suite.boot, []).append(suite)
    return list(groups.values())
