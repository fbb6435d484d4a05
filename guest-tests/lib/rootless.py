"""A daemon that an ordinary user starts, whom `newuidmap` and `newgidmap` give ranges of ids.

These go by /etc/subuid and /etc/subgid. Others are laid over them in a mount namespace that only the daemon and they are in:
the machine's own stay as they are. Root of the guest is that user, and who is root makes all this possible.
"""

import contextlib
import os
import pwd
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

USER = "nobody"
# The ids of the guest but for 0 are these.
FIRST, COUNT = 100000, 65535
NEEDED = ("newuidmap", "newgidmap", "setpriv", "unshare")

# The program is opened before, because the user need not be able to reach it by its path.
ARRANGE = (
    'mount --bind "$1" /etc/subuid && mount --bind "$2" /etc/subgid || exit 1; user=$3 group=$4 program=$5; shift 5; '
    'exec setpriv --reuid "$user" --regid "$group" --clear-groups /proc/self/fd/0 "$@" < "$program"'
)


@dataclass
class Rootless:
    """Where such a daemon has its socket and its ranges."""

    folder: Path

    @property
    def socket(self) -> Path:
        """In a folder of the user's."""
        return self.folder / "fs.sock"

    @property
    def options(self) -> list[str]:
        """The maps."""
        user = pwd.getpwnam(USER)
        own = {"--uid-map": user.pw_uid, "--gid-map": user.pw_gid}
        return [f"{option}=:{inside}:{outside}:{count}:" for option, me in own.items()
                for inside, outside, count in ((0, me, 1), (1, FIRST, COUNT))]  # fmt: skip

    def command(self, words: list[str]) -> list[str]:
        """Starts what these words start as the user."""
        user = pwd.getpwnam(USER)
        ranges = [str(self.folder / name) for name in ("subuid", "subgid")]
        return ["unshare", "--mount", "sh", "-c", ARRANGE, "arrange", *ranges, str(user.pw_uid), str(user.pw_gid), *words]


@contextlib.contextmanager
def arranged(share: Path):
    """The user, to whom the share is given."""
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        raise RuntimeError(f"--rootless needs {', '.join(missing)} (ci/install)")
    if os.geteuid() != 0:
        raise RuntimeError("--rootless needs root, to give a user ranges of ids")
    user = pwd.getpwnam(USER)
    with tempfile.TemporaryDirectory(prefix="extentfsd-rootless-") as folder:
        for name in ("subuid", "subgid"):
            (Path(folder) / name).write_text(f"{USER}:{FIRST}:{COUNT}\n")
        for path in (folder, share):
            os.chown(path, user.pw_uid, user.pw_gid)
        # On the way to the share.
        share.parent.chmod(0o711)
        yield Rootless(Path(folder))
