"""The daemon under test: how it is started, awaited, stopped and judged by its log."""

import contextlib
import os
import re
import shlex
import subprocess
import threading
import time
from pathlib import Path

from images import cache, programs

from . import processes
from .rootless import Rootless

TAG = "share"
READY = "Waiting for vhost-user socket connection..."
START_SECONDS = 20
STOP_SECONDS = 10
# What in its log makes a run fail even where every suite passed.
BAD = re.compile(r"panicked at|\bERROR\b|SUMMARY: .*Sanitizer")
# Peers say such things at every ordinary end; it is not for us to judge.
PEER_NOISE = re.compile(r"Client disconnected|virtiofsd.*(Disconnected|exiting)", re.I)
STRACE = ["strace", "-f", "-tt", "-o"]


class DaemonError(Exception):
    """The daemon did not come up; the message has the end of its log."""


def binary(name: str, build: bool = True) -> list[str]:
    """The command of "extentfsd" (built from this tree), "virtiofsd" (from the cache), or any other given."""
    if name == "extentfsd":
        if build:
            cargo_build("--bin", "extentfsd")
        return [str(target_folder() / "extentfsd")]
    if name == "virtiofsd":
        return [str(programs.installed("virtiofsd"))]
    return shlex.split(name)


def target_folder() -> Path:
    """Where cargo puts release programs of this tree."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or cache.REPOSITORY / "target") / "release"


def cargo_build(*what: str) -> None:
    """Builds a program of this tree; cargo itself knows whether there is anything to do."""
    log = cache.root() / "logs" / "cargo-build.log"
    log.unlink(missing_ok=True)
    cache.run(["cargo", "build", "--release", *what], log, heartbeat="cargo build", cwd=cache.REPOSITORY)


def is_ours(command: list[str]) -> bool:
    """Whether the command starts extentfsd, of which more is asked and which takes more options."""
    return Path(command[0]).name == "extentfsd"


class Server:
    """A vhost-user back-end that runs while the context lasts, and whose log goes to a file."""

    def __init__(self, command: list[str], socket: Path, log: Path, ours: bool):
        self.command, self.socket, self.log, self.ours = command, socket, log, ours
        self.status: int | None = None

    def ready(self) -> bool:
        """Whether a front-end may connect."""
        return self.socket.exists()

    def __enter__(self):
        with open(self.log, "wb") as out:
            self.process = processes.start(self.command, stdout=out, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                processes.stop(self.process)
                why = f"exit status {self.process.returncode}" if self.process.returncode >= 0 else "no ready line"
                raise DaemonError(f"{shlex.join(self.command)}: {why}; its log:\n{self.text().strip()}")
            time.sleep(0.02)
        return self

    def __exit__(self, *error):
        self.finish()
        self.socket.unlink(missing_ok=True)

    def finish(self) -> None:
        """After the guest has gone: a daemon ends by itself when its front-end disconnects."""
        if self.status is None:
            self.ended_before = self.process.poll() is not None
            self.status = processes.stop(self.process, STOP_SECONDS)

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace")

    @contextlib.contextmanager
    def signalled(self, number: int, interval: float):
        """While the context lasts it gets this signal again and again; never, where the interval is 0."""
        over = threading.Event()

        def keep_on() -> None:
            while not over.wait(interval) and self.alive():
                with contextlib.suppress(ProcessLookupError):
                    self.process.send_signal(number)

        thread = threading.Thread(target=keep_on)
        if interval:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if interval:
                thread.join()

    def alive(self) -> bool:
        """Whether it still runs; it must as long as the guest does."""
        return self.process.poll() is None

    def complaints(self) -> list[str]:
        """Why the run must not count as good: a bad end, a panic, a line of level ERROR."""
        found = []
        if self.status not in (0, None):
            found.append(f"daemon ended with status {self.status}")
        for line in self.text().splitlines():
            if BAD.search(line) and (self.ours or not PEER_NOISE.search(line)):
                found.append(f"daemon: {line.strip()}")
        return found[:10]


class Daemon(Server):
    """A running daemon that serves `share` on `socket`; a context manager."""

    def __init__(
        self, command: list[str], share: Path, queues: int, extra: list[str], results: Path, strace: bool,
        tag: str = TAG, socket: Path | None = None, user: Rootless | None = None,
    ):  # fmt: skip
        if user:
            extra, socket = [*extra, *user.options], user.socket
        # The peers that know no such option have one request queue.
        ours = is_ours(command)
        words = [
            *command, "--shared-dir", str(share), "--socket-path", str(socket or results / "fs.sock"), "--tag", tag,
            *(["--queues", str(queues)] if ours else []), *extra,
        ]  # fmt: skip
        if strace:
            words = [*STRACE, str(results / "daemon.strace"), *words]
        if user:
            words = user.command(words)
        super().__init__(words, socket or results / "fs.sock", results / "daemon.log", ours)

    def ready(self) -> bool:
        """It says so."""
        return READY in self.text()
