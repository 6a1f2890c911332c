"""The picture of one storm, as SVG: requests at the broker above, guests served below."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.herd.figures import Course
    from tests.bench.herd.model import Scenario

WIDTH: Final = 900
LEFT: Final = 78
RIGHT: Final = 24
PANELS: Final = ((64, 250), (352, 170))
"""Top and height of both panels."""
HEIGHT: Final = 582
POINTS: Final = 220
"""Points of one line at most; each is a mean over as many seconds as that takes."""

FONT: Final = "Helvetica, Arial, DejaVu Sans, sans-serif"
INK: Final = "#1a1a1a"
GRID: Final = "#dcdcdc"
SHADE: Final = "#f3dede"
COLOURS: Final = {"ours": "#0b57b0", "upstream": "#c4500a"}
NAMES: Final = {"ours": "coco-agent", "upstream": "model of upstream"}
DASHES: Final = {"ours": "", "upstream": ' stroke-dasharray="7 3"'}


def step(greatest: float, lines: int) -> float:
    """Distance of grid lines: 1, 2 or 5 times a power of ten, for about so many."""
    rough = greatest / lines
    power = 10.0 ** math.floor(math.log10(rough))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= rough)


def text(x: float, y: float, words: str, *, size: int = 13, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{INK}">{words}</text>'


def line(points: Sequence[tuple[float, float]], label: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    style = f'fill="none" stroke="{COLOURS[label]}" stroke-width="2"{DASHES[label]} stroke-linejoin="round"'
    return f'<polyline points="{path}" {style}/>'


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        top: of the frame, in pixels.
        height: of the frame, in pixels.
        seconds: at the right edge.
        most: at the top edge.
    """

    top: int
    height: int
    seconds: float
    most: float

    def x(self, at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / self.seconds

    def y(self, value: float) -> float:
        return self.top + self.height * (1 - value / self.most)

    def axes(self, title: str, outage: tuple[float, float], *, label_seconds: bool) -> list[str]:
        """Frame, grid, numbers, and the outage shaded."""
        right, bottom = WIDTH - RIGHT, self.top + self.height
        begin, end = (self.x(at) for at in outage)
        shade = f'<rect x="{begin:.1f}" y="{self.top}" width="{end - begin:.1f}" height="{self.height}"'
        out = [f'{shade} fill="{SHADE}"/>']
        distance = step(self.most, self.height // 40)
        for index in range(int(self.most / distance) + 1):
            y = self.y(index * distance)
            out.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{GRID}"/>')
            out.append(text(LEFT - 8, y + 4, f"{index * distance:,.0f}".replace(",", " "), anchor="end"))
        distance = step(self.seconds, 10)
        for index in range(int(self.seconds / distance) + 1):
            x = self.x(index * distance)
            out.append(f'<path d="M{x:.1f} {bottom}v5" stroke="{INK}"/>')
            if label_seconds:
                out.append(text(x, bottom + 20, f"{index * distance:g}", anchor="middle"))
        out.append(f'<path d="M{LEFT} {self.top}V{bottom}H{right}" fill="none" stroke="{INK}"/>')
        out.append(text(LEFT, self.top - 9, title))
        return out


def rates(course: Course, width: int) -> list[tuple[float, float]]:
    """Middle of each stretch of ``width`` seconds, and mean requests per second in it."""
    arrived = course["arrived"]
    return [
        (at + len(part) / 2, sum(part) / len(part))
        for at in range(0, len(arrived), width)
        if (part := arrived[at : at + width])
    ]


def legend() -> list[str]:
    x, y = WIDTH - 430, 24
    out = [f'<rect x="{x}" y="{y - 11}" width="30" height="14" fill="{SHADE}"/>', text(x + 36, y, "outage")]
    for index, (label, name) in enumerate(NAMES.items()):
        x = WIDTH - 330 + index * 130
        out.append(line([(x, y - 4), (x + 30, y - 4)], label))
        out.append(text(x + 36, y, name))
    return out


def capacity(panel: Panel, rate: float) -> list[str]:
    right, y = WIDTH - RIGHT, panel.y(rate)
    return [
        f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{INK}" stroke-dasharray="2 3" stroke-width="1.5"/>',
        text(right, y - 5, "capacity", size=12, anchor="end"),
    ]


def draw(scenario: Scenario, courses: Mapping[str, Course]) -> str:
    """The SVG of one storm.

    Args:
        scenario: of the storm.
        courses: by policy.
    """
    seconds = 1.02 * max(len(course["arrived"]) for course in courses.values())
    width = max(1, math.ceil(seconds / POINTS))
    lines = {label: rates(course, width) for label, course in courses.items()}
    most = 1.08 * max(scenario.capacity, *(rate for points in lines.values() for _, rate in points))
    above = Panel(*PANELS[0], seconds, most)
    below = Panel(*PANELS[1], seconds, 105.0)
    over = f"mean over {width} s" if width > 1 else "second by second"
    guests = f"{scenario.guests:,}".replace(",", " ")
    title = f"{guests} guests, a broker for {scenario.capacity:g} GETs/s"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" role="img">',
        f"<title>{title}: requests over time, and guests served</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(LEFT, 24, title, size=15),
        *legend(),
        *above.axes(f"requests per second at the broker ({over})", scenario.outage, label_seconds=False),
        *below.axes("guests that have all their resources, %", scenario.outage, label_seconds=True),
        *capacity(above, scenario.capacity),
        text(
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "seconds since the first guest booted", anchor="middle"
        ),
    ]
    for label, points in lines.items():
        out.append(line([(above.x(at), above.y(rate)) for at, rate in points], label))
        served = courses[label]["served"]
        ends = [0, *range(width, len(served), width), len(served)]
        share = [100 * served[end - 1] / scenario.guests if end else 0.0 for end in ends]
        out.append(
            line([(below.x(end), below.y(value)) for end, value in zip(ends, share, strict=True)], label)
        )
    return "\n".join([*out, "</svg>\n"])
