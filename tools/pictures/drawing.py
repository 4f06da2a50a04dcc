"""A few shapes in SVG, in colours that suit a light and a dark page, with text that a phone can show."""

from dataclasses import dataclass, field
from html import escape

WIDTH = 520  # CSS pixels; on a phone of 360 the text of 15 is still 10 high
LINE = 20  # from one line of text to the next
MARGIN = 16

# The report's colours (loadtest/report/report.css). A page of either colour shows the card as it is.
STYLE = """
text { font: 15px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; fill: #17211b; }
.strong { font-weight: 600; } .muted { fill: #66726b; } .middle { text-anchor: middle; }
.card { fill: #f6f7f5; stroke: #dfe4e0; } .box { fill: #ffffff; stroke: #b9c3bd; }
.good { fill: #d5eee2; stroke: #0b7a53; } .wait { fill: #fbeacb; stroke: #97640a; }
.plain { fill: #dfe8f8; stroke: #2f6fd6; }
.line { stroke: #66726b; stroke-width: 1.5; fill: none; } .head { fill: #66726b; } .dashed { stroke-dasharray: 5 4; }
@media (prefers-color-scheme: dark) {
text { fill: #e8eeea; } .muted { fill: #a5b1aa; } .card { fill: #0f1412; stroke: #29322e; }
.box { fill: #181f1c; stroke: #4d5a54; } .good { fill: #14382e; stroke: #4cc797; }
.wait { fill: #43340f; stroke: #e3b35a; } .plain { fill: #1b2b49; stroke: #7aa9f7; }
.line { stroke: #a5b1aa; } .head { fill: #a5b1aa; }
}
"""


@dataclass
class Drawing:
    """A card of `height` CSS pixels; `title` is what a screen reader says."""

    title: str
    height: int
    shapes: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, style: str = "") -> None:
        """Write one line whose baseline is at `y`."""
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" class="{style}">{escape(text)}</text>')

    def box(self, x: float, y: float, width: float, height: float, style: str = "box") -> None:
        """Draw a rectangle."""
        self.shapes.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" class="{style}"/>')

    def note(self, x: float, y: float, width: float, lines: list[str], style: str = "box") -> None:
        """Draw a rectangle around lines of text, the first of which is its name."""
        self.box(x, y, width, LINE * len(lines) + 14, style)
        for number, line in enumerate(lines):
            self.text(x + width / 2, y + 22 + LINE * number, line, "middle muted" if number else "middle strong")

    def arrow(self, x: float, top: float, bottom: float, *, to: float | None = None) -> None:
        """Draw an arrow from (`x`, `top`) down to (`to` or `x`, `bottom`)."""
        end = x if to is None else to
        middle = (top + bottom) / 2
        path = f"M{x:g} {top:g}V{middle:g}H{end:g}V{bottom - 7:g}"
        self.shapes.append(f'<path d="{path}" class="line"/>')
        self.shapes.append(f'<path d="M{end - 5:g} {bottom - 8:g}h10l-5 8z" class="head"/>')

    def rule(self, x: float, top: float, bottom: float) -> None:
        """Draw a dashed vertical line."""
        self.shapes.append(f'<path d="M{x:g} {top:g}V{bottom:g}" class="line dashed"/>')

    def svg(self) -> str:
        """Return the file."""
        size = f'viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
        card = f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{self.height - 1}" rx="12" class="card"/>'
        parts = [head, f"<title>{escape(self.title)}</title>", f"<style>{STYLE}</style>", card, *self.shapes, "</svg>"]
        return "\n".join(parts) + "\n"
