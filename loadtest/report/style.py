"""How charts look: matplotlib draws with stand-in colours, and CSS variables take their place.

So one drawing serves light and dark, and its texts use the page's own font.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-in → CSS variable. Any colours will do that nothing else draws with.
SERIES = tuple(f"#0a0b{number:02x}" for number in range(8))
TEXT, MUTED, GRID, SURFACE, ALERT, GOOD = "#0c0d01", "#0c0d02", "#0c0d03", "#0c0d04", "#0c0d05", "#0c0d06"
VARIABLES = {colour: f"--s{number}" for number, colour in enumerate(SERIES)} | {
    TEXT: "--text",
    MUTED: "--muted",
    GRID: "--grid",
    SURFACE: "--surface",
    ALERT: "--alert",
    GOOD: "--good",
}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")  # a second sign beside the colour, for who cannot see that


@dataclass(frozen=True)
class Size:
    """One of the two forms of each chart, in CSS pixels; a phone shows the narrow one."""

    name: str
    width: int
    height: int


WIDE, NARROW = Size("wide", 760, 330), Size("narrow", 340, 290)

RC: Any = {
    "svg.fonttype": "none",
    "font.size": 12,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlecolor": TEXT,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": TEXT,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "legend.handlelength": 1.4,
    "legend.fontsize": 11.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def figure(size: Size, height: int | None = None) -> Iterator[Figure]:
    """Make an empty figure of `size` in our style."""
    with mpl.rc_context(RC):
        # 72 points an inch: one unit of the drawing is then one CSS pixel.
        yield Figure(figsize=(size.width / 72, (height or size.height) / 72), layout="constrained")


def svg(drawn: Figure, name: str, description: str) -> str:
    """Give the drawing as an inline SVG element with `description` for who cannot see it."""
    with mpl.rc_context(RC | {"svg.hashsalt": name}):
        buffer = io.StringIO()
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style .*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_[0-9]+"', "", text)  # axes_1 …: the same in every chart of the page
    text = re.sub(r'( id="|#)([mpih][0-9a-f]{8,})', rf"\1{name}-\2", text)
    text = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1var(--font)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    head = text[: text.index(">") + 1]
    box = "".join(re.findall(r'viewBox="[^"]*"', head))
    return (
        f'<svg {box} role="img" aria-label="{description}" xmlns:xlink="http://www.w3.org/1999/xlink">'
        + text[len(head) :]
    )


def both(
    name: str, description: str, draw: Callable[[Figure, Size], None], heights: tuple[int, int] | None = None
) -> str:
    """Draw a chart in both sizes; CSS shows one of them."""
    parts = []
    for number, size in enumerate((WIDE, NARROW)):
        with figure(size, heights[number] if heights else None) as drawn:
            draw(drawn, size)
            image = svg(drawn, f"{name}-{size.name}", description)
        parts.append(f'<div class="chart {size.name}">{image}</div>')
    return "".join(parts)


def thousands(axes: Axes) -> None:
    """Label the y axis with whole numbers, thousands separated, from zero on."""
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
