"""Programs from crates.io: the daemon to compare with, and test programs that run in the guest.

They are compiled on the host and run in a guest whose C library is of the same Debian release.
"""

import os
import re
import shutil
from pathlib import Path

from . import cache

# program -> version requirement; the newest that fits is taken and kept.
CRATES = {
    "virtiofsd": "~1.14",
    "pjdfstest": "^0.2",
    "fsx": "^0.3",
}


def installed(name: str) -> Path:
    """Path of the program `name` (a key of CRATES), compiled when it is not in the cache."""
    wanted = CRATES[name]
    folder = cache.root() / "programs" / f"{name}-{cache.digest(name, wanted)}"
    binary = folder / "bin" / name
    if folder.exists():
        return binary
    with cache.locked("cargo-install"):
        if not folder.exists():
            cache.say(f"cargo install {name} {wanted}")
            target = cache.root() / "programs" / "target"
            with cache.fresh_folder(folder) as work:
                cache.run(
                    ["cargo", "install", "--locked", "--quiet", "--root", work, "--version", wanted, name],
                    heartbeat=f"compiling {name}",
                    env={**os.environ, "CARGO_TARGET_DIR": str(target)},
                )
            shutil.rmtree(target, ignore_errors=True)
    return binary


def version(name: str) -> str:
    """The version that was installed, from cargo's own record."""
    record = (installed(name).parent.parent / ".crates.toml").read_text()
    found = re.search(rf'"{re.escape(name)} (\S+) ', record)
    return found.group(1) if found else "unknown"
