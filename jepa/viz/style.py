"""One look for every picture: colours by role, text as text, the same bytes for the same arrays.

Drawings are SVG that is put *inside* a page, so their colours can follow the page from light to dark. Matplotlib
knows only fixed colours; each role therefore has a stand-in colour while drawing, and `to_svg` replaces it by a CSS
variable with a fallback: `var(--ink, #1b2330)`. The series colours are Okabe and Ito's (2008) set, which stays apart
for colour-blind readers, in an order that keeps neighbours far from each other.
"""

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Role:
    """A colour by what it is for."""

    variable: str
    """CSS variable of the page."""
    stand_in: str
    """Colour used while drawing; no two roles share one."""
    light: str
    """Colour on light paper, and the fallback outside a page."""
    dark: str
    """Colour on dark paper."""


INK = Role("--ink", "#010101", "#1b2330", "#e6e9ee")
MUTED = Role("--muted", "#010102", "#5b6573", "#9aa5b4")
LINE = Role("--line", "#010103", "#d9dee5", "#323b47")
PAPER = Role("--paper", "#010104", "#ffffff", "#12161c")
ACCENT = Role("--accent", "#010105", "#0b63a5", "#62b0ec")
SERIES = (
    ACCENT,
    Role("--series-2", "#010106", "#c2500a", "#f0924f"),
    Role("--series-3", "#010107", "#00805e", "#35c79a"),
    Role("--series-4", "#010108", "#a8467f", "#e08dbd"),
    Role("--series-5", "#010109", "#8a6d00", "#d9b93b"),
    Role("--series-6", "#01010a", "#4a5568", "#aab4c3"),
)
ROLES = (INK, MUTED, LINE, PAPER, *SERIES)

TEXT_PX = 12
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_SETTINGS: dict[Any, object] = {
    "font.size": TEXT_PX,
    "font.family": "sans-serif",
    "text.color": INK.stand_in,
    "axes.edgecolor": MUTED.stand_in,
    "axes.labelcolor": MUTED.stand_in,
    "axes.labelsize": TEXT_PX,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": LINE.stand_in,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED.stand_in,
    "ytick.color": MUTED.stand_in,
    "xtick.labelsize": TEXT_PX - 1,
    "ytick.labelsize": TEXT_PX - 1,
    "svg.fonttype": "none",
}


def series_role(index: int) -> Role:
    """Colour of the index-th series; the last one serves all further series."""
    return SERIES[min(index, len(SERIES) - 1)]


@contextmanager
def style(name: str = "figure") -> Iterator[None]:
    """Matplotlib's settings for the drawings of this project; `name` salts the ids inside the SVG."""
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        yield


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Figure of `width` x `height` CSS pixels with one pair of axes (the SVG backend draws 72 units per inch)."""
    figure = Figure(figsize=(width / 72, height / 72))
    return figure, figure.add_subplot()


def to_svg(figure: Figure, *, name: str, title: str) -> str:
    """The figure as one `<svg>` element for a page.

    Args:
        name: prefix of every id inside, unique in the page.
        title: what the picture shows, for screen readers.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # Matplotlib's style sheet would hold for the whole page, not only for this drawing.
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)
    text = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?px) [^;\"]*", rf"font: \g<1>\g<2> {_FONTS}", text)
    for role in ROLES:
        text = text.replace(role.stand_in, f"var({role.variable}, {role.light})")
    width, height = (float(side) * 72 for side in figure.get_size_inches())
    head = (
        f'<svg class="drawing" role="img" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f"<title>{html.escape(title)}</title>"
    )
    return head + text[text.index(">") + 1 :].strip()
