"""What has been fuzzed so far: one file of numbers, and the page that is made of it.

A session adds to the file, now and then and at its end, what it did since it did so last. So several sessions add up, also
side by side, and one that is cut short loses a minute. Nothing on the page is written by hand.
"""

import contextlib
import datetime
import fcntl
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FILE = REPOSITORY / "docs/measured/fuzz.json"
# What is counted of a run.
COUNTED = ("cpu_seconds", "executions", "finds")


def commit() -> str:
    """The commit that is fuzzed, with a plus behind it if something of the daemon or of the targets is not committed."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True)
        words = [*git, "status", "--porcelain", "--", "src", "fuzz/src", "fuzz/targets", "Cargo.toml", "fuzz/Cargo.toml"]
        changes = subprocess.run(words, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def today() -> str:
    """The date, the same everywhere."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


@contextlib.contextmanager
def opened(file: Path):
    """What is recorded, to be changed; written when the block ends, with its page. Others wait meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        there = json.loads(file.read_text()) if file.exists() else {"runs": [], "coverage": None}
        yield there
        write(file, json.dumps(there, indent=1) + "\n")
        write(file.with_suffix(".md"), page(there, file.name))
    finally:
        os.close(folder)


def write(file: Path, text: str) -> None:
    """Replaces a file at once, so that whoever is interrupted leaves the old one."""
    new = file.with_name(file.name + ".new")
    new.write_text(text)
    new.rename(file)


class Run:
    """What one run of a target did so far, and how much of that is in the record."""

    def __init__(self, file: Path | None, target: str, sanitizer: str | None):
        self.file = file
        self.about = {"target": target, "sanitizer": sanitizer or "none", "commit": commit() if file else ""}
        self.told = dict.fromkeys(COUNTED, 0)
        self.lock = threading.Lock()

    def tell(self, cpu_seconds: float, executions: int, finds: int) -> None:
        """Adds what is new; all numbers are counted from the beginning of this run."""
        if not self.file:
            return
        now = dict(zip(COUNTED, (round(cpu_seconds, 1), executions, finds), strict=True))
        about = {**self.about, "date": today()}
        with self.lock, opened(self.file) as there:
            # All runs of a day of the same program are one.
            same = [run for run in there["runs"] if all(run[word] == about[word] for word in about)]
            if not same:
                same = [{**about, **dict.fromkeys(COUNTED, 0)}]
                there["runs"].append(same[0])
            for word in COUNTED:
                same[0][word] = round(same[0][word] + max(now[word] - self.told[word], 0), 1)
                self.told[word] = max(now[word], self.told[word])

    @contextlib.contextmanager
    def now_and_then(self, action: Callable[[], None], seconds: float = 60):
        """Calls `action` every so many seconds while the block runs."""
        over = threading.Event()

        def repeat() -> None:
            while not over.wait(seconds):
                action()

        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def add_coverage(file: Path, inputs: dict[str, int], rooms: dict[str, tuple[int, int]], left_out: dict[str, list[str]]) -> None:
    """Puts the lines that the corpora reach into the place of what was counted before."""
    with opened(file) as there:
        there["coverage"] = {
            "commit": commit(),
            "date": today(),
            "inputs": inputs,
            "rooms": {room: {"reached": reached, "lines": lines} for room, (reached, lines) in rooms.items()},
            "left_out": left_out,
        }


def page(there: dict, name: str) -> str:
    """The page, made of the numbers alone."""
    runs = there["runs"]
    text = ["# What was fuzzed", ""]
    text += [f"Made by `fuzz/run --record` of [`{name}`]({name}), where every day, commit and sanitizer has its own numbers.", ""]
    if runs:
        dates, commits = sorted({run["date"] for run in runs}), {run["commit"] for run in runs}
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        text += [f"{when}; {len(commits)} commit{'s' * (len(commits) > 1)} of the daemon.", ""]
        text += ["| target | CPU hours | of these with AddressSanitizer | executions | finds |", "|---|---:|---:|---:|---:|"]
        targets = list(dict.fromkeys(run["target"] for run in runs))
        text += [row(target, [run for run in runs if run["target"] == target]) for target in sorted(targets)]
        text += [row("all", runs), ""]
        text += [
            "A find is an input that made the target end: by a panic, a bad access, or 30 seconds without an end (and then again",
            "when it was replayed). A find that is met again counts again.",
            "",
        ]
    if covered := there["coverage"]:
        inputs = ", ".join(f"{target} {count}" for target, count in covered["inputs"].items())
        text += ["## Lines that the corpora reach", ""]
        text += [f"Made by `fuzz/run --coverage --record` on {covered['date']} of commit {covered['commit']}. Inputs: {inputs}.", ""]
        text += ["| room | lines reached | lines | share |", "|---|---:|---:|---:|"]
        for room, count in covered["rooms"].items():
            share = 100 * count["reached"] / max(count["lines"], 1)
            text.append(f"| `{room}` | {count['reached']} | {count['lines']} | {share:.1f} % |")
        if covered["left_out"]:
            text += ["", "Not counted:", ""]
            text += [f"* {why}: {', '.join(f'`{file}`' for file in files)}" for why, files in covered["left_out"].items()]
        text.append("")
    return "\n".join(text)


def row(name: str, runs: list[dict]) -> str:
    """A row of the table of targets."""
    hours = sum(run["cpu_seconds"] for run in runs) / 3600
    checked = sum(run["cpu_seconds"] for run in runs if run["sanitizer"] == "address") / 3600
    executions, finds = (sum(run[word] for run in runs) for word in ("executions", "finds"))
    return f"| {name} | {hours:.2f} | {checked:.2f} | {executions} | {finds} |"
