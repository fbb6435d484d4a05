"""The plot: a panel for each family of jobs, bars for each target, as SVG without any library.

A bar ends at the median, the line on it goes from the lowest to the highest round. The upper half of a panel is throughput, the
lower half the daemon's processor time per operation.
"""

import itertools
import math
from collections.abc import Callable
from html import escape

from .results import Results, Spread, Table

# Okabe and Ito's colours, which colour-blind readers can tell apart; those that are always there always have the same.
COLOURS = {"extentfsd": "#0072B2", "virtiofsd": "#E69F00", "virtiofsd-pool4": "#F0C987", "virtio-blk": "#009E73"}
OTHERS = ("#CC79A7", "#56B4E9", "#D55E00", "#999999")
# Not a bar: the host alone is so much faster that the others would be flat beside it.
REFERENCE = "host"
COLUMNS = 2
PANEL, GAP, MARGIN = 540, 40, 24
UPPER, LOWER, AXIS = 150, 80, 64
TITLE, LABELS, BETWEEN = 40, 34, 26
HEAD = 64
PANEL_HEIGHT = TITLE + UPPER + BETWEEN + LOWER + LABELS


class Drawing:
    """Elements of an SVG picture."""

    def __init__(self):
        self.parts: list[str] = []

    def text(
        self, x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", colour: str = "#222", bold=False
    ) -> None:
        """Text whose baseline is at y."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(words)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> None:
        """A straight line."""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'
        )

    def box(self, x: float, y: float, width: float, height: float, colour: str, hint: str = "") -> None:
        """A filled rectangle; the hint is shown where the pointer rests."""
        inner = f"<title>{escape(hint)}</title>" if hint else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(height, 0):.1f}" fill="{colour}">{inner}</rect>'
        )

    def svg(self, width: float, height: float) -> str:
        """The whole picture."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
            'font-family="DejaVu Sans, Helvetica, Arial, sans-serif">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(self.parts) + "\n</svg>\n"
        )


def drawn(known: Results) -> str:
    """The picture of all families that were measured."""
    table, drawing = Table(known), Drawing()
    bars = [target for target in known.targets if target != REFERENCE]
    others = itertools.cycle(OTHERS)
    colours = {target: COLOURS.get(target) or next(others) for target in bars}
    families: dict[str, list[str]] = {}
    for name, job in known.jobs.items():
        families.setdefault(job["family"], []).append(name)
    columns = min(COLUMNS, len(families))
    rows = math.ceil(len(families) / columns) if families else 0
    width = 2 * MARGIN + columns * PANEL + (columns - 1) * GAP
    head(drawing, known, colours)
    for index, (family, names) in enumerate(families.items()):
        x = MARGIN + (index % columns) * (PANEL + GAP)
        y = HEAD + (index // columns) * (PANEL_HEIGHT + GAP)
        panel(drawing, known, table, family, names, colours, (x, y))
    return drawing.svg(width, HEAD + rows * (PANEL_HEIGHT + GAP))


def head(drawing: Drawing, known: Results, colours: dict[str, str]) -> None:
    """What this is, and whose bars have which colour."""
    drawing.text(
        MARGIN,
        24,
        f"{known.about.get('guest', '')}; {known.rounds} round{'s' if known.rounds > 1 else ''} of {known.runtime:g} s",
        size=12,
        colour="#555",
    )
    x = float(MARGIN)
    for target, colour in colours.items():
        drawing.box(x, 36, 12, 12, colour)
        drawing.text(x + 17, 46.5, target, size=13)
        x += 17 + 8.2 * len(target) + 22


def panel(
    drawing: Drawing, known: Results, table: Table, family: str, names: list[str], colours: dict[str, str], corner
) -> None:
    """Throughput above, processor time below, one group of bars for each job."""
    x, y = corner
    unit = table.unit(names[0])
    drawing.text(x, y + 16, family, size=14, bold=True)
    references = {job: spread.median for job in names if (spread := table.rate(job, REFERENCE))}
    chart(
        drawing, (x, y + TITLE), UPPER, names, colours, unit,
        lambda job, target: table.rate(job, target), {job: f"host {short(value)}" for job, value in references.items()},
    )  # fmt: skip
    chart(
        drawing, (x, y + TITLE + UPPER + BETWEEN), LOWER, names, colours, "daemon CPU us/op",
        lambda job, target: table.daemon_cost(job, target), {},
    )  # fmt: skip
    group = (PANEL - AXIS) / len(names)
    for index, job in enumerate(names):
        middle = x + AXIS + (index + 0.5) * group
        drawing.text(
            middle,
            y + PANEL_HEIGHT - LABELS + 15,
            known.jobs[job]["at"],
            anchor="middle",
            size=12 if len(names) < 4 else 11,
        )
    if all(known.jobs[job]["at"].isdigit() for job in names):
        drawing.text(
            x + AXIS + (PANEL - AXIS) / 2,
            y + PANEL_HEIGHT - LABELS + 30,
            "numjobs",
            anchor="middle",
            size=11,
            colour="#555",
        )


def chart(
    drawing: Drawing, corner: tuple[float, float], height: float, names: list[str], colours: dict[str, str], axis: str,
    value: Callable[[str, str], Spread | None], notes: dict[str, str],
) -> None:  # fmt: skip
    """Groups of bars over one axis that begins at zero."""
    x, y = corner
    spreads = {(job, target): spread for job in names for target in colours if (spread := value(job, target))}
    top, step = scale(max((spread.high for spread in spreads.values()), default=1.0), 4 if height > 100 else 2)
    drawing.text(x, y - 8, axis, size=11, colour="#555")
    for count in range(round(top / step) + 1):
        at = y + height * (1 - count * step / top)
        drawing.line(x + AXIS, at, x + PANEL, at, "#444" if count == 0 else "#e3e3e3")
        drawing.text(x + AXIS - 6, at + 4, short(count * step), anchor="end", size=11, colour="#555")
    group = (PANEL - AXIS) / len(names)
    bar = min(group * 0.84 / max(len(colours), 1), 46)
    for index, job in enumerate(names):
        left = x + AXIS + (index + 0.5) * group - bar * len(colours) / 2
        for place, (target, colour) in enumerate(colours.items()):
            spread = spreads.get((job, target))
            if spread is None:
                continue
            tall = height * spread.median / top
            at = left + place * bar
            drawing.box(
                at + 0.5, y + height - tall, bar - 1, tall, colour, f"{target}, {job}: {short(spread.median)} {axis}"
            )
            if spread.high > spread.low:
                middle = at + bar / 2
                drawing.line(
                    middle,
                    y + height * (1 - spread.high / top),
                    middle,
                    y + height * (1 - spread.low / top),
                    "#222",
                    1.2,
                )
        if job in notes:
            drawing.text(x + AXIS + (index + 0.5) * group, y - 8, notes[job], anchor="middle", size=10, colour="#888")


def scale(highest: float, wanted: int) -> tuple[float, float]:
    """The end of an axis and the distance of its marks, round numbers both."""
    if highest <= 0:
        return 1.0, 1.0
    rough = highest / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return math.ceil(highest / step * 0.999) * step, step


def short(value: float) -> str:
    """A number in few characters."""
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    if value >= 1000:
        return f"{value / 1000:.1f}k".replace(".0k", "k")
    return f"{value:.3g}"
