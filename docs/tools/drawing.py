"""Draw an SVG from the few shapes that the documentation's pictures share.

A sheet has a light background, so it is readable on light and on dark pages. Coordinates are in pixels from the upper
left corner.
"""

from __future__ import annotations

from html import escape

INK, FAINT, PAPER, EDGE = "#1f2933", "#616e7c", "#fbfcfd", "#cbd2d9"
GREEN, RED, AMBER, BLUE, GREY = "#2f9e63", "#d64545", "#d9822b", "#3579c7", "#9aa5b1"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


class Sheet:
    """Collects shapes in drawing order. ``svg`` returns the text of the file."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = width, height
        self._title = title
        self._shapes: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, *, edge: str = "none", radius: float = 3,
        dashed: bool = False, opacity: float = 1,
    ) -> None:  # fmt: skip
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
            f'stroke="{edge}"{_dashes(dashed)}{_faded(opacity)}/>'
        )

    def line(self, x: float, y: float, x2: float, y2: float, *, ink: str = EDGE, dashed: bool = False) -> None:
        self._shapes.append(f'<path d="M{x:g} {y:g}L{x2:g} {y2:g}" stroke="{ink}" fill="none"{_dashes(dashed)}/>')

    def arrow(self, x: float, y: float, x2: float, y2: float, *, ink: str = FAINT, dashed: bool = False) -> None:
        """Draw an arrow; it must be horizontal or vertical."""
        self.line(x, y, x2, y2, ink=ink, dashed=dashed)
        if y == y2:
            back = -8 if x2 > x else 8
            head = f"l{back} -4v8z"
        else:
            back = -8 if y2 > y else 8
            head = f"l-4 {back}h8z"
        self._shapes.append(f'<path d="M{x2:g} {y2:g}{head}" fill="{ink}"/>')

    def slot(self, x: float, y: float, ink: str = INK) -> None:
        """Draw the mark of a slot, with its tip at (x, y)."""
        self._shapes.append(f'<path d="M{x:g} {y:g}l-5 -9h10z" fill="{ink}"/>')

    def cross(self, x: float, y: float, ink: str) -> None:
        self._shapes.append(f'<path d="M{x - 4:g} {y - 4:g}l8 8m0 -8l-8 8" stroke="{ink}" stroke-width="2"/>')

    def text(
        self, x: float, y: float, words: str, *, size: float = 13, ink: str = INK, anchor: str = "start",
        bold: bool = False, mono: bool = False,
    ) -> None:  # fmt: skip
        family = ' font-family="ui-monospace, Menlo, Consolas, monospace"' if mono else ""
        weight = ' font-weight="600"' if bold else ""
        self._shapes.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{ink}" text-anchor="{anchor}"{family}{weight}>'
            f"{escape(words)}</text>"
        )

    def svg(self) -> str:
        """Return the text of the SVG file."""
        width, height = self._size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="{FONT}">'
        )
        paper = (
            f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="{PAPER}" stroke="{EDGE}"/>'
        )
        return "\n".join([head, f"<title>{escape(self._title)}</title>", paper, *self._shapes, "</svg>", ""])


def _dashes(dashed: bool) -> str:
    return ' stroke-dasharray="4 3"' if dashed else ""


def _faded(opacity: float) -> str:
    return "" if opacity == 1 else f' opacity="{opacity:g}"'
