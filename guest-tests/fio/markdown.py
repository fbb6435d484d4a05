"""Tables of the results in Markdown, and how they get into a document. No number in there is typed by hand."""

from collections.abc import Callable
from pathlib import Path

from lib.suites import UsageError

from .results import Results, Spread, Table

PEER = "virtiofsd"


def section(known: Results, picture: str) -> str:
    """Everything about one run: what it was, the plot, and the tables."""
    table = Table(known)
    parts = [facts(known), f"![throughput and processor time]({picture})"]
    groups = dict.fromkeys(job["group"] for job in known.jobs.values())
    for group in groups:
        names = [name for name, job in known.jobs.items() if job["group"] == group]
        parts.append(f"### {group}\n\n" + "\n".join(f"* `{name}`: {known.jobs[name]['what']}" for name in names))
        parts.append(throughput(known, table, names))
        parts.append(
            "Processor time per operation in microseconds, daemon + guest:\n\n" + processor(known, table, names)
        )
        if slow := latencies(known, table, names):
            parts.append("Completion latency in microseconds, median and 99th percentile:\n\n" + slow)
    if known.complaints:
        parts.append("Not all went well:\n\n" + "\n".join(f"* {text}" for text in known.complaints))
    return "\n\n".join(parts) + "\n"


def facts(known: Results) -> str:
    """What ran, where and how."""
    lines = [
        f"* {name}: {f'`{text}`' if name in ('command', 'commit') else text}" for name, text in known.about.items()
    ]
    lines += sorted({f"* fio: {one.raw['fio version']}" for one in known.samples if "fio version" in one.raw})
    lines += [f"* `{name}`: {what}" for name, what in known.targets.items()]
    lines.append(
        f"* {known.rounds} round{'s' if known.rounds > 1 else ''}, each a boot with all of them attached, every job on "
        f"each back to back; fio jobs run {known.runtime:g} s. Cells are medians, and half the distance from the lowest to the highest round in percent of "
        "the median. Ratios are medians of the ratios within a round."
    )
    return "\n".join(lines)


def throughput(known: Results, table: Table, names: list[str]) -> str:
    """Operations or bytes per second, and how the first target stands to the others."""
    first, *others = known.targets
    peers = [name for name in others if name.startswith(PEER)]
    rest = [name for name in others if not name.startswith(PEER)]
    # With several settings of the peer: its default, and the best of all for this job.
    against = [(f"{first} / {name}", lambda job, name=name: name) for name in peers[:1]]
    if len(peers) > 1:
        against.append((f"{first} / best {PEER}", lambda job: table.best(job, peers)))
    against += [(f"{first} / {name}", lambda job, name=name: name) for name in rest]
    rows = []
    for job in names:
        row = [f"`{job}`", table.unit(job)]
        row += [cell(table.rate(job, target), whole) for target in known.targets]
        for _, other_of in against:
            other = other_of(job)
            row.append(cell(table.ratio(job, first, other) if other else None, lambda value: f"{value:.2f}", bold=True))
        rows.append(row)
    return grid(["job", "unit", *known.targets, *(title for title, _ in against)], rows)


def processor(known: Results, table: Table, names: list[str]) -> str:
    """Microseconds of the back-end and of the guest for each operation."""
    rows = []
    for job in names:
        row = [f"`{job}`"]
        for target in known.targets:
            daemon, guest = table.daemon_cost(job, target), table.guest_cost(job, target)
            if guest is None:
                row.append("")
            else:
                row.append(f"{fine(daemon.median) if daemon else '0'} + {fine(guest.median)}")
        rows.append(row)
    return grid(["job", *known.targets], rows)


def latencies(known: Results, table: Table, names: list[str]) -> str:
    """What a single operation took."""
    rows = []
    for job in names:
        row = [f"`{job}`"]
        for target in known.targets:
            middle, tail = table.latency(job, target, "p50"), table.latency(job, target, "p99")
            row.append(f"{fine(middle.median)}, {fine(tail.median)}" if middle and tail else "")
        if any(row[1:]):
            rows.append(row)
    return grid(["job", *known.targets], rows) if rows else ""


def cell(spread: Spread | None, shown: Callable[[float], str], bold: bool = False) -> str:
    """A median with the spread around it."""
    if spread is None:
        return ""
    text = shown(spread.median)
    text = f"**{text}**" if bold else text
    return f"{text} ±{(spread.high - spread.low) / 2 / spread.median * 100:.0f}%" if spread.high > spread.low else text


def whole(value: float) -> str:
    """A large number."""
    return f"{value:,.0f}"


def fine(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def grid(header: list[str], rows: list[list[str]]) -> str:
    """A table whose columns line up in the source too; numbers stand to the right. A column without any value is left out."""
    every = [list(column) for column in zip(header, *rows, strict=True)]
    columns = [column for index, column in enumerate(every) if index == 0 or any(column[1:])]
    widths = [max(len(text) for text in column) for column in columns]
    lines = [
        "| "
        + " | ".join(
            text.ljust(width) if index == 0 else text.rjust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in zip(*columns, strict=True)
    ]
    rule = (
        "|"
        + "|".join(("-" * (width + 2)) if index == 0 else "-" * (width + 1) + ":" for index, width in enumerate(widths))
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def into(path: Path, name: str, text: str) -> None:
    """Puts the text into the section of the document; a new document is only that section."""
    begin, end = f"<!-- {name}: written by guest-tests/fio/run -->\n", f"<!-- end of {name} -->\n"
    block = f"{begin}\n{text}\n{end}"
    if path.exists():
        old = path.read_text()
        before, found, tail = old.partition(begin)
        _, closed, after = tail.partition(end)
        if found and not closed:
            raise UsageError(f"{path}: section {name!r} has no end")
        block = before + block + after if found else old.rstrip("\n") + "\n\n" + block
    path.write_text(block)
