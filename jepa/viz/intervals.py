"""A score with its 95 % interval as a bar small enough for a table cell: track, chance tick, interval, point.

Written as SVG by hand, because hundreds of them fit in a page only if each takes a few hundred bytes.
"""

from jepa.viz.style import INK, LINE, MUTED, Role

WIDTH, HEIGHT = 200.0, 12.0
_PAD = 4.0


def _place(score: float) -> float:
    """Horizontal position of a score 0..1, in pixels."""
    return _PAD + min(max(score, 0.0), 1.0) * (WIDTH - 2 * _PAD)


def _css(role: Role) -> str:
    return f"var({role.variable}, {role.light})"


def interval_bar(value: float, low: float, high: float, chance: float | None = None, *, role: Role = INK) -> str:
    """SVG of one score; all four numbers are fractions 0..1 on the same fixed scale.

    Args:
        value: the score.
        low: lower end of the interval.
        high: upper end of the interval.
        chance: score of guessing, drawn as a tick.
        role: colour of the point and the interval.
    """
    middle = HEIGHT / 2
    parts = [f'<path d="M{_PAD:g} {middle:g}H{WIDTH - _PAD:g}" stroke="{_css(LINE)}" stroke-width="1"/>']
    if chance is not None:
        parts.append(f'<path d="M{_place(chance):.1f} 1.5V{HEIGHT - 1.5:g}" stroke="{_css(MUTED)}" stroke-width="1"/>')
    interval = f'd="M{_place(low):.1f} {middle:g}H{_place(high):.1f}"'
    parts.append(f'<path {interval} stroke="{_css(role)}" stroke-width="6" stroke-opacity=".35"/>')
    parts.append(f'<circle cx="{_place(value):.1f}" cy="{middle:g}" r="2.5" fill="{_css(role)}"/>')
    return (
        f'<svg class="bar" width="{WIDTH:g}" height="{HEIGHT:g}" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" '
        f'aria-hidden="true">{"".join(parts)}</svg>'
    )
