"""The directory that a run exports: a plain one, or the root of a fresh file system in a loop image."""

import contextlib
import subprocess
import tempfile
from pathlib import Path

IMAGE_BYTES = 8 << 30
FILE_SYSTEMS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    # Its blocks stay where they are, as source `device` of extents needs it.
    "xfs-plain": ["mkfs.xfs", "-q", "-f", "-m", "reflink=0"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
CHOICES = ("dir", *FILE_SYSTEMS)


@contextlib.contextmanager
def fresh(kind: str, base: Path):
    """An empty share under `base`, removed (and unmounted) at the end, whatever happened in between."""
    with tempfile.TemporaryDirectory(prefix="extentfsd-share-", dir=base, ignore_cleanup_errors=True) as work:
        share = Path(work) / "share"
        share.mkdir()
        if kind == "dir":
            yield share
            return
        image = Path(work) / "image"
        with open(image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        command([*FILE_SYSTEMS[kind], image])
        # "loop" makes a device that is released with the last unmount.
        command(["mount", "-o", "loop", image, share])
        try:
            yield share
        finally:
            if subprocess.run(["umount", share]).returncode != 0:
                command(["umount", "--lazy", share])


def device(share: Path) -> Path:
    """The block device under a share that is a file system of its own."""
    return Path(command(["findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", share]).strip())


def command(words: list) -> str:
    """Runs a short command, and returns what it prints; on failure that is the error's text."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
