"""One round: all targets attached to one guest, every job on each of them back to back.

The guest works through a fixed list of steps and tells where it is; at the start and the end of each measured part the
clocks of all processes are read here, on the host.
"""

import base64
import contextlib
import gzip
import json
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from images import root, sourcetree
from lib import daemon, guest, processes

from . import clock, results
from .jobs import Job
from .targets import Target

FOLDER = Path(__file__).resolve().parent
GUEST = "guest"
# The guest idles this much longer than fio on the host is asked to run.
HOST_SLACK = 3
# Beside the steps: the boot, mounts, a mkfs.
BOOT_ALLOWANCE = 300
# Archive and the count of its files, inside the guest.
TREE = "rig/tree.tar"


@dataclass
class Step:
    """One job on one target in one round."""

    number: int
    job: Job
    target: Target
    limit: int
    data: list[str] = field(default_factory=list)
    clocks: list[dict[str, float]] = field(default_factory=list)
    status: int | None = None
    host: subprocess.Popen | None = None

    @property
    def name(self) -> str:
        """As the guest calls it."""
        return str(self.number)


def steps(jobs: list[Job], targets: list[Target], round_number: int, runtime: float, slowness: float) -> list[Step]:
    """The order of a round. Each round begins with another target, so that none always runs after the same one."""
    turned = [targets[(index + round_number - 1) % len(targets)] for index in range(len(targets))]
    listed: list[Step] = []
    for job in jobs:
        for target in turned:
            if target.kind != "host" or job.on_host:
                limit = int(job.allowance * slowness + runtime)
                listed.append(Step(len(listed) + 1, job, target, limit))
    return listed


class Round:
    """One boot of the guest."""

    def __init__(
        self, number: int, kind: str, targets: list[Target], planned: list[Step], scratch: Path, logs: Path, runtime: float,
        done: Callable[[results.Sample], None],
    ):  # fmt: skip
        self.number, self.kind, self.targets, self.planned = number, kind, targets, planned
        self.scratch, self.logs, self.runtime, self.done = scratch, logs, runtime, done
        self.by_name = {step.name: step for step in planned}
        self.heads: dict[str, int] = {}
        self.complaints: list[str] = []
        self.output: list[str] = []
        # Whose turn it is, and what the guest's kernel said of peers: that is not for us to judge.
        self.current = ""
        self.about_peers: set[str] = set()

    def run(self) -> list[str]:
        """Starts the daemons, boots, follows the guest to its end; returns what was wrong. Raises guest.BootFailure."""
        self.logs.mkdir(parents=True)
        initrd = self.scratch / "initrd"
        servers = []
        with contextlib.ExitStack() as stack:
            stack.callback(initrd.unlink, missing_ok=True)
            devices = []
            for target in self.targets:
                server = target.server(self.scratch / target.name, self.logs / target.name)
                if server:
                    servers.append((target, stack.enter_context(server)))
                    self.heads[target.name] = server.process.pid
                    devices += target.devices(server)
            self.write_initrd(initrd)
            words, environment = guest.command(self.kind, initrd, devices, self.logs)
            (self.logs / "guest.command").write_text(shlex.join(words) + "\n")
            limits = {step.name: 3 * step.limit for step in self.planned}
            boot_limit = guest.boot_seconds(self.kind)
            outcome = guest.boot(
                words, environment, self.logs / "console.log", limits, boot_limit,
                BOOT_ALLOWANCE + sum(limits.values()), self.show,
                lambda: all(server.alive() for _, server in servers),
                lambda pid: self.heads.__setitem__(GUEST, pid), self.observe,
            )  # fmt: skip
            for _, server in servers:
                server.finish()
        self.complaints += [text for text in outcome.complaints if text not in self.about_peers]
        for target, server in servers:
            self.complaints += [f"{target.name}: {text}" for text in server.complaints()]
        missing = [step for step in self.planned if step.status is None]
        if missing:
            self.complaints.append(
                f"{len(missing)} steps were not reached, the first {missing[0].job.name} on {missing[0].target.name}"
            )
        return self.complaints

    def write_initrd(self, path: Path) -> None:
        """The guest's root with the steps, the jobs and what they need."""
        jobs = {step.job.name: step.job for step in self.planned}
        files = self.logs / "rig"
        (files / "jobs").mkdir(parents=True)
        for job in jobs.values():
            (files / "jobs" / job.name).write_text(job.script(self.runtime))
        (files / "jobs" / "idle").write_text(
            f"before() {{ :; }}\nrun() {{ sleep {self.runtime + HOST_SLACK}; }}\nafter() {{ :; }}\n"
        )
        lines = [
            f"{step.name} {step.job.name if step.target.kind != 'host' else 'idle'} {step.target.name} {step.limit}\n"
            for step in self.planned
        ]
        (files / "steps").write_text("".join(lines))
        (files / "targets").write_text("".join(f"{target.line()}\n" for target in self.targets))
        plan = {}
        additions = {
            "rig/steps": files / "steps",
            "rig/targets": files / "targets",
            "rig/jobs": files / "jobs",
            "rig/main": FOLDER / "guest",
        }
        if any(job.run.startswith("guest-smoke") for job in jobs.values()):
            additions["usr/bin/guest-smoke"] = daemon.target_folder() / "guest-smoke"
        if any(job.needs_tree for job in jobs.values()):
            additions[TREE] = sourcetree.archive()
            plan = {"TREE": f"/{TREE}", "TREE_FILES": str(sourcetree.files(sourcetree.archive()))}
        guest.write_initrd(self.kind, plan, [], additions, path, ("fio",))

    def show(self, line: str) -> None:
        """One line of the guest that is not marked."""
        self.output.append(line)
        ours = any(
            target.name == self.current and daemon.is_ours(list(target.command))
            for target in self.targets
            if target.command
        )
        if "virtio-fs: " in line and not ours:
            self.about_peers.add(f"guest kernel: {line.strip()}")

    def observe(self, words: list[str]) -> None:
        """One marked line of the guest."""
        verb, *rest = words
        if verb == "leave":
            self.current = rest[0]
        step = self.by_name.get(rest[0]) if rest else None
        if step is None:
            return
        if verb == "begin":
            self.current = step.target.name
        elif verb == "start":
            if step.target.kind == "host":
                self.start_on_host(step)
            step.clocks = [self.clocks(step)]
        elif verb == "stop":
            step.clocks.append(self.clocks(step))
        elif verb == "data":
            step.data += rest[1:]
        elif verb == "end":
            step.status = int(rest[1])
            self.finish(step)

    def clocks(self, step: Step) -> dict[str, float]:
        """Processor seconds of every back-end and of the guest; fio on the host stands for the guest it does without."""
        heads = {**self.heads, **({GUEST: step.host.pid} if step.host else {})}
        return {"at": time.monotonic(), **clock.of_families(heads)}

    def host_output(self, step: Step) -> Path:
        """Where fio on the host writes."""
        return self.logs / f"host-{step.number}.json"

    def start_on_host(self, step: Step) -> None:
        """The job's fio on the host's own file, while the guest idles."""
        words = [
            *root.host_command("fio"), *step.job.fio_words(self.runtime),
            f"--filename={self.scratch / step.target.name / 'data'}",
            f"--output={self.host_output(step)}", "--output-format=json",
        ]  # fmt: skip
        with open(self.host_output(step).with_suffix(".log"), "wb") as log:
            step.host = processes.start(words, stdout=log, stderr=subprocess.STDOUT)

    def finish(self, step: Step) -> None:
        """Makes a sample of what the step has told, or a complaint."""
        where = f"{step.job.name} on {step.target.name}"
        if step.host:
            status = processes.stop(step.host, HOST_SLACK)
            if status != 0:
                self.complaints.append(f"{where}: fio on the host ended with status {status}")
                return
        if step.status != 0:
            why = "time limit" if step.status in (124, 137) else f"exit status {step.status}"
            self.complaints.append(
                f"{where}: {why}; {' | '.join(line for line in self.output[-5:] if not line.startswith('--- '))}"
            )
            return
        try:
            if step.host:
                raw = json.loads(self.host_output(step).read_text())
            else:
                raw = json.loads(gzip.decompress(base64.b64decode("".join(step.data))))
            before, after = step.clocks
            used = {name: after[name] - before.get(name, 0.0) for name in after if name != "at"}
            self.done(results.sample(self.number, step.job, step.target.name, raw, used))
        except (ValueError, OSError, EOFError, KeyError, IndexError, results.Unusable) as error:
            self.complaints.append(f"{where}: no result that can be read: {error}")
