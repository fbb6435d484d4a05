"""Guests: the command that starts each kind, and the conversation with the init inside.

The init (vm-images/init) marks its lines with "@@rig"; everything else on the console is output of a suite or of
the guest's kernel. A guest that says nothing for SILENCE seconds is hung: it sends a sign of life every five.
"""

import os
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from images import accelerator, cpio, kernels, qemu, root, uml

from . import daemon, processes
from .suites import FOLDER, Suite

KINDS = ("uml", "uml-extents", "uml-extents-debug", "qemu-5.10", "qemu-6.1", "qemu-6.12", "qemu-latest", "qemu-extents", "qemu-extents-6.12")
MEMORY = "1280M"
CPUS = 2
SILENCE = 90
# Numbers of device types (virtio 1.3, section 5).
VIRTIO_ID = {"fs": 26, "blk": 2}
# What the guest calls a disk that is attached alone.
FIRST_DISK = "/dev/vda"
# Seconds from the start to the init's first line; a boot that takes longer has hung.
BOOT_SECONDS = {"uml": 30, "uml-extents-debug": 120, "qemu": 120}
# What the kernel inside says when a reply broke the protocol or the guest itself is broken.
KERNEL_COMPLAINT = re.compile(
    r"virtio-fs: |virtio_fs: .*(?:invalid|bad)|BUG: |Oops|Kernel panic|INFO: task .* blocked|general protection"
    # Newer kernels put the place before the CPU, and lockdep has its own words: the kernel's lines have the time before them.
    r"|WARNING: CPU|^\[ *[\d.]+\] WARNING: "
)


class BootFailure(Exception):
    """The init inside was never reached; worth one more try."""


@dataclass
class Device:
    """What a guest has at a socket of a vhost-user back-end: "fs" with a tag, or "blk"."""

    kind: str
    socket: Path
    queues: int
    tag: str = daemon.TAG


@dataclass
class HostDisk:
    """A block device of the host that QEMU itself gives to its guest."""

    path: Path
    queues: int
    serial: str


@dataclass
class Outcome:
    """What became of one boot: (status, seconds) per finished suite, and what went wrong beside them."""

    finished: dict[str, tuple[int, int]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    boot_seconds: float = 0.0


def is_uml(kind: str) -> bool:
    """Whether a guest of this kind is a process of the host; others are QEMU's."""
    return kind.startswith("uml")


def has_extents(kind: str) -> bool:
    """Whether the kernel has the patch that `--extents` needs."""
    return "extents" in kind


def qemu_kernel(kind: str) -> kernels.Kernel:
    """What QEMU boots, fetched or built when it is not in the cache."""
    return kernels.named(kind.removeprefix("qemu-"))


def boot_seconds(kind: str) -> int:
    """The limit on a boot."""
    return BOOT_SECONDS.get(kind) or BOOT_SECONDS["uml" if is_uml(kind) else "qemu"]


def slowness(kind: str) -> float:
    """By how much time limits are stretched: an emulated processor is slow, and so is a kernel that checks itself."""
    fast = not kind.endswith("-debug") and (is_uml(kind) or accelerator.kvm_works())
    return 1.0 if fast else 4.0


def prepare(kind: str) -> str:
    """Builds what the kind of guest needs and says what it is, with versions."""
    root.image()
    if is_uml(kind):
        return f"User-Mode Linux {uml.kernel(kind).name.removeprefix('linux-')}, seccomp mode"
    whose = "own" if has_extents(kind) else "Debian"
    return f"QEMU {qemu.version()} ({accelerator.name()}), {whose} kernel {qemu_kernel(kind).release}"


def write_initrd(
    kind: str, plan: dict[str, str], suites: list[tuple[Suite, int]], additions: dict[str, Path], target: Path,
    programs: tuple[str, ...] = (),
) -> None:
    """The cached root with a second archive behind it: what to run, the suites, and `additions` (path inside -> source).

    `programs` are wanted beside those that the suites ask for.
    """
    wanted = {*programs, *(name for suite, _ in suites for name in suite.programs)}
    parts = [root.image(), *(root.separate(name) for name in sorted(wanted))]
    if not is_uml(kind):
        parts += qemu_kernel(kind).modules
    overlay = target.with_suffix(".overlay")
    with cpio.Writer(overlay) as archive:
        lines = "".join(f"export {name}='{value}'\n" for name, value in plan.items())
        archive.file("rig/plan", lines.encode())
        archive.file("rig/suites", "".join(f"{suite.name} {limit}\n" for suite, limit in suites).encode())
        archive.copy(FOLDER, "suites")
        for path, source in additions.items():
            archive.copy(source, path)
    with open(target, "wb") as out:
        for part in [*parts, overlay]:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, out)
    overlay.unlink()


def command(
    kind: str, initrd: Path, devices: list[Device | HostDisk], folder: Path, memory: str = MEMORY
) -> tuple[list[str], dict[str, str]]:
    """The words and the environment that start a guest with these devices; `folder` is for its own files."""
    if is_uml(kind):
        attached = [f"virtio_uml.device={device.socket}:{VIRTIO_ID[device.kind]}" for device in devices]
        words = [
            str(uml.kernel(kind)), f"mem={memory}", f"ncpus={CPUS}", "seccomp=on", f"initrd={initrd}", *attached,
            "root=/dev/ram0", "rdinit=/init", "con=null", "con0=null,fd:1", "loglevel=5", "panic=-1",
            f"uml_dir={folder}", f"umid=uml-{os.getpid()}",
        ]  # fmt: skip
        return words, {"TMPDIR": "/dev/shm"}
    words, environment = qemu.command()
    words += [
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", f"q35,memory-backend=memory,{accelerator.machine_option()}", *accelerator.cpu_options(),
        "-smp", str(CPUS), "-m", memory,
        "-object", f"memory-backend-memfd,id=memory,size={memory},share=on",
        "-kernel", str(qemu_kernel(kind).image), "-initrd", str(initrd),
        # The serial line is slow under emulation: it carries only the kernel's words until the other console is up.
        "-append", "console=ttyS0 console=hvc0 loglevel=5 panic=-1 rdinit=/init",
        "-serial", f"file:{folder}/serial.log",
        "-device", "virtio-serial-pci", "-chardev", "stdio,id=console,signal=off", "-device", "virtconsole,chardev=console",
    ]  # fmt: skip
    for number, device in enumerate(devices):
        if isinstance(device, HostDisk):
            words += [
                "-blockdev", f"driver=host_device,node-name=disk{number},filename={device.path},cache.direct=on,aio=native",
                "-device", f"virtio-blk-pci,drive=disk{number},serial={device.serial},num-queues={device.queues}",
            ]  # fmt: skip
            continue
        words += ["-chardev", f"socket,id=device{number},path={device.socket}"]
        if device.kind == "fs":
            queues = f"tag={device.tag},num-request-queues={device.queues},queue-size=1024"
        else:
            queues = f"num-queues={device.queues},queue-size=256"
        words += ["-device", f"vhost-user-{device.kind}-pci,chardev=device{number},{queues}"]
    return words, environment


def lines_of(process: subprocess.Popen, log: Path) -> Iterator[str | None]:
    """Lines of the console as they come, None when nothing came for a second, end when it closes."""
    with open(log, "wb") as copy, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        pending = b""
        while True:
            if not selector.select(timeout=1):
                yield None
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            copy.write(data)
            copy.flush()
            if not data:
                yield from ([decoded(pending)] if pending else [])
                return
            *complete, pending = (pending + data).split(b"\n")
            yield from map(decoded, complete)


def decoded(line: bytes) -> str:
    """A console line as text."""
    return line.replace(b"\r", b"").decode(errors="replace")


def boot(
    words: list[str], environment: dict[str, str], log: Path, limits: dict[str, int], boot_limit: float,
    total_limit: float, show: Callable[[str], None], healthy: Callable[[], bool] = lambda: True,
    started_as: Callable[[int], None] = lambda pid: None, observe: Callable[[list[str]], None] = lambda words: None,
    crash_after: float = 0,
) -> Outcome:  # fmt: skip
    """Starts a guest and follows it to its end.

    `limits` are the suites' seconds (the guest keeps them, here is only the fence behind), `show` gets each line of output,
    `healthy` tells whether the daemon still runs. `started_as` is told the guest's process id, `observe` every marked line in
    words. With `crash_after` the guest is killed that many seconds after its first suite began, and the suite counts as
    finished. Raises BootFailure when the init was never reached.
    """
    outcome = Outcome()
    started = heard = time.monotonic()
    process = processes.start(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment}
    )
    started_as(process.pid)
    state, fence, early = "booting", started + boot_limit, []
    crash, crash_suite = float("inf"), ""
    try:
        for line in lines_of(process, log):
            now = time.monotonic()
            if now > crash:
                show(f"--- {crash_suite}: the guest is killed")
                outcome.finished[crash_suite] = (0, int(crash_after))
                state = "power off"
                break
            if line is None:
                trouble = verdict(state, now, heard, fence, started + total_limit, healthy)
                if trouble:
                    if state == "booting":
                        raise BootFailure(f"{trouble}; console {log} ends: {' | '.join(early[-5:])}")
                    outcome.complaints.append(f"{trouble} (during {state})")
                    break
                continue
            heard = now
            marked = line.startswith("@@rig ")
            if not marked:
                if line:
                    (early.append if state == "booting" else show)(line)
                if KERNEL_COMPLAINT.search(line):
                    outcome.complaints.append(f"guest kernel: {line.strip()}")
                continue
            verb, *rest = line.split()[1:]
            observe([verb, *rest])
            if verb == "ready":
                outcome.boot_seconds = now - started
                state, fence = "mount", now + 90
            elif verb == "begin":
                state, fence = rest[0], now + limits[rest[0]] + 30
                if crash_after:
                    crash, crash_suite = now + crash_after, rest[0]
                show(f"--- {rest[0]}: begin")
            elif verb == "end":
                outcome.finished[rest[0]] = (int(rest[1]), int(rest[2]))
                show(f"--- {rest[0]}: exit status {rest[1]} after {rest[2]} s")
                state, fence = "the time between suites", now + 90
            elif verb == "done":
                state, fence = "power off", now + 30
            elif verb.endswith("failed"):
                outcome.complaints.append(f"guest: {verb}")
    finally:
        processes.stop(process, 0 if crash_suite or state != "power off" else 10)
        process.stdout.close()
    if state == "booting":
        raise BootFailure(f"guest ended with status {process.returncode}; console {log}: {' | '.join(early[-5:])}")
    if state != "power off" and not outcome.complaints:
        outcome.complaints.append(f"guest ended in the middle of {state}")
    return outcome


def verdict(state: str, now: float, heard: float, fence: float, end: float, healthy: Callable[[], bool]) -> str:
    """Why a quiet guest must be given up, "" while it need not."""
    if state != "power off" and not healthy():
        return "the daemon ended while the guest ran"
    if now > fence:
        return "time limit passed"
    if now > end:
        return "time limit of the whole boot passed"
    if state != "booting" and now - heard > SILENCE:
        return f"no sign of life for {SILENCE} s"
    return ""
