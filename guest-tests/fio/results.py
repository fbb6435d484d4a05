"""Samples, how they are kept, and the statistics that reports are made of."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lib.suites import UsageError

from .jobs import Job

FORMAT = 1
# The processes that stand for the guest in a sample's processor time.
GUEST = "guest"


class Unusable(Exception):
    """What a job wrote is not what it should write."""


@dataclass
class Sample:
    """One job on one target in one round."""

    round: int
    job: str
    target: str
    # Operations of fio (reads and writes) or files.
    operations: int
    bytes: int
    seconds: float
    # Completion latency in microseconds: mean, p50, p95, p99, p99.9, of the slower direction.
    latency: dict[str, float]
    # Processor seconds of every back-end that was attached, and of the guest.
    processor: dict[str, float]
    # All that the job said.
    raw: dict

    def rate(self, unit: str) -> float:
        """What tables show: operations or megabytes per second."""
        return (self.bytes / 1e6 if unit == "MB/s" else self.operations) / self.seconds

    def daemon_cost(self) -> float | None:
        """Processor microseconds of the back-end per operation."""
        used = self.processor.get(self.target)
        return None if used is None else used * 1e6 / self.operations

    def guest_cost(self) -> float:
        """The same of the guest: the whole virtual machine, or fio itself on the host."""
        return self.processor[GUEST] * 1e6 / self.operations


@dataclass
class Results:
    """All of one invocation. `about` says what ran and where, in words; `jobs` are the job's descriptions by name."""

    about: dict[str, str]
    targets: dict[str, str]
    jobs: dict[str, dict]
    rounds: int
    runtime: float
    samples: list[Sample] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Everything, as JSON."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")


def load(path: Path) -> Results:
    """What `save` wrote; `path` may be the folder it lies in."""
    path = path / "results.json" if path.is_dir() else path
    try:
        known = json.loads(path.read_text())
        if known.pop("format") != FORMAT:
            raise UsageError(f"{path}: results of another version of this program")
        samples = [Sample(**sample) for sample in known.pop("samples")]
        return Results(**known, samples=samples)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: not the results of guest-tests/fio/run") from None


def sample(round_number: int, job: Job, target: str, raw: dict, processor: dict[str, float]) -> Sample:
    """A sample of what a job wrote: fio's JSON, or operations and seconds."""
    if "jobs" not in raw:
        if not raw["ops"] or not raw["seconds"] > 0:
            raise Unusable("nothing was done")
        return Sample(round_number, job.name, target, raw["ops"], 0, raw["seconds"], {}, processor, raw)
    (told,) = raw["jobs"]
    if told["error"]:
        raise Unusable(f"fio says error {told['error']}")
    sides = [told[way] for way in ("read", "write") if told[way]["total_ios"]]
    if not sides or not all(side["runtime"] for side in sides):
        raise Unusable("fio did no input or output")
    slower = max(sides, key=lambda side: side["clat_ns"]["mean"])["clat_ns"]
    # fio's names are like "99.900000".
    latency = {f"p{float(name):g}": value / 1000 for name, value in slower.get("percentile", {}).items()}
    return Sample(
        round_number, job.name, target,
        sum(side["total_ios"] for side in sides), sum(side["io_bytes"] for side in sides),
        max(side["runtime"] for side in sides) / 1000,
        {"mean": slower["mean"] / 1000, **latency}, processor, raw,
    )  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """The middle and the ends of one number over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """None where there is no value."""
        listed = list(values)
        return cls(statistics.median(listed), min(listed), max(listed)) if listed else None


class Table:
    """Samples by job and target."""

    def __init__(self, results: Results):
        self.results = results
        self.cells: dict[tuple[str, str], dict[int, Sample]] = {}
        for one in results.samples:
            self.cells.setdefault((one.job, one.target), {})[one.round] = one

    def unit(self, job: str) -> str:
        """What the job is counted in."""
        return self.results.jobs[job]["unit"]

    def rate(self, job: str, target: str) -> Spread | None:
        """Operations or megabytes per second."""
        return Spread.of(one.rate(self.unit(job)) for one in self.cells.get((job, target), {}).values())

    def daemon_cost(self, job: str, target: str) -> Spread | None:
        """Processor microseconds of the back-end per operation."""
        costs = [one.daemon_cost() for one in self.cells.get((job, target), {}).values()]
        return Spread.of(cost for cost in costs if cost is not None)

    def guest_cost(self, job: str, target: str) -> Spread | None:
        """Processor microseconds of the guest per operation."""
        return Spread.of(one.guest_cost() for one in self.cells.get((job, target), {}).values())

    def latency(self, job: str, target: str, which: str) -> Spread | None:
        """Completion latency in microseconds."""
        found = [one.latency[which] for one in self.cells.get((job, target), {}).values() if which in one.latency]
        return Spread.of(found)

    def ratio(self, job: str, target: str, other: str) -> Spread | None:
        """How many times faster `target` is: the quotient within each round, so that what slows a whole round is left out."""
        mine, theirs = self.cells.get((job, target), {}), self.cells.get((job, other), {})
        unit = self.unit(job)
        return Spread.of(mine[number].rate(unit) / theirs[number].rate(unit) for number in mine.keys() & theirs.keys())

    def best(self, job: str, targets: Iterable[str]) -> str | None:
        """The fastest of these by its median."""
        rated = [(found.median, target) for target in targets if (found := self.rate(job, target))]
        return max(rated)[1] if rated else None
