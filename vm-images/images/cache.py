"""Where built things are kept, and how they are made exactly once.

The cache is `$EXTENTFSD_CACHE`, else `$XDG_CACHE_HOME/extentfsd`, else `~/.cache/extentfsd`. A thing
is complete when its stamp file exists; a stamp is written last, so an interrupted build is
simply made again. Two processes that want the same thing wait for each other by a lock.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STARTED = time.monotonic()


class BuildError(Exception):
    """Something needed could not be built; the message says what and where its log is."""


def root() -> Path:
    """The cache folder, made when missing."""
    named = os.environ.get("EXTENTFSD_CACHE")
    if named:
        path = Path(named)
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(base) / "extentfsd"
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def say(message: str) -> None:
    """One line of progress with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:6.1f}s] {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(name: str):
    """Holds the lock `name`; says so when somebody else has it."""
    folder = root() / "locks"
    folder.mkdir(exist_ok=True)
    with open(folder / name, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build of {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def fresh_folder(final: Path):
    """A new empty folder that takes the place of `final` when the block ends without an error."""
    work = final.with_name(final.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    yield work
    shutil.rmtree(final, ignore_errors=True)
    work.rename(final)


def digest(*parts: str | bytes) -> str:
    """A short name for the content `parts`."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()[:12]


def run(command: list, log: Path | None = None, heartbeat: str = "", **options) -> None:
    """Runs `command`, its output in `log`; a failure shows the log's last lines.

    With `heartbeat` a line is printed every 30 seconds, so that a long build never looks dead.
    """
    command = [str(word) for word in command]
    log = log or root() / "logs" / (Path(command[0]).name + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **options
        )
        try:
            while True:
                try:
                    status = process.wait(timeout=30)
                    break
                except subprocess.TimeoutExpired:
                    if heartbeat:
                        say(f"  {heartbeat}: still at it ({count_lines(log)} lines of output)")
        except BaseException:
            process.kill()
            process.wait()
            raise
    if status != 0:
        tail = log.read_text(errors="replace").splitlines()[-25:]
        raise BuildError(
            f"`{' '.join(command)}` failed with status {status}; log {log} ends:\n  " + "\n  ".join(tail)
        )


def count_lines(path: Path) -> int:
    """Lines in a log, as a sign of progress."""
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 16), b""))
