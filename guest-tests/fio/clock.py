"""Processor time of whole families of processes, to the nanosecond where the kernel has it."""

import contextlib
import os
import time
from pathlib import Path

from lib import processes

TICK = os.sysconf("SC_CLK_TCK")
# A process's scheduler clock as a clock id: include/linux/posix-timers_types.h, CPUCLOCK_SCHED.
SCHED = 2


def of_process(pid: int) -> float:
    """Seconds that all threads of the process ran, those that ended included, and its children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    # cutime and cstime, fields 16 and 17 of proc(5); the list begins with field 3.
    waited_for = (int(fields[13]) + int(fields[14])) / TICK
    return time.clock_gettime((~pid << 3) | SCHED) + waited_for


def of_families(heads: dict[str, int]) -> dict[str, float]:
    """The same for each named process with all its descendants."""
    parents = processes.families()
    seconds = {}
    for name, head in heads.items():
        total = 0.0
        for pid in (head, *processes.descendants(head, parents)):
            # One that ended meanwhile is in its parent's account.
            with contextlib.suppress(OSError):
                total += of_process(pid)
        seconds[name] = total
    return seconds
