"""Child processes that are certain to be gone when the runner is.

Each child leads a process group and is killed with it. The runner also makes itself the reaper of orphans,
so that a grandchild which left its group (a daemon's sandbox, UML's helpers) is found and killed too.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """From now on orphaned descendants become children of this process instead of init's."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(command: list, **options) -> subprocess.Popen:
    """Starts a child in a process group of its own, without standard input."""
    return subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, start_new_session=True, **options
    )


def stop(process: subprocess.Popen, patience: float = 0) -> int:
    """Waits `patience` seconds for the child to end by itself, then kills its group; its exit status."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def families() -> dict[int, list[int]]:
    """The children of every process that has any."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold blanks; the parent is the second field after it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    return parents


def descendants(of: int, parents: dict[int, list[int]]) -> list[int]:
    """Process ids of all descendants of the process `of`."""
    found, todo = [], [of]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def kill_descendants() -> None:
    """Kills and reaps every descendant that is still there."""
    for _ in range(20):
        remaining = descendants(os.getpid(), families())
        if not remaining:
            return
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
