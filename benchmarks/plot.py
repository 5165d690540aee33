"""One line chart as SVG: x logarithmic, y from zero."""

from collections.abc import Sequence
from html import escape
from math import log10
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 320, 60, 48, 40, 20


def draw(path: Path, title: str, x_name: str, y_name: str, points: Sequence[tuple[float, float]]) -> None:
    """Write the chart of (x, y) `points`, x above zero and ascending."""
    first, last = log10(points[0][0]), log10(points[-1][0])
    top = max(y for _, y in points) * 1.15 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        along = (log10(x) - first) / (last - first or 1)
        return LEFT + along * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * (HEIGHT - BOTTOM - TOP)

    dots = [(x, y, *place(x, y)) for x, y in points]
    line = " ".join(f"{a:.1f},{b:.1f}" for _, _, a, b in dots)
    floor = HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>',
        f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}" fill="none" stroke="#888"/>',
        f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="2"/>',
        *(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="#06c"/>' for _, _, a, b in dots),
        *(f'<text x="{a:.1f}" y="{b - 8:.1f}" text-anchor="middle">{y:.3g}</text>' for _, y, a, b in dots),
        *(f'<text x="{a:.1f}" y="{floor + 16}" text-anchor="middle">{x:,.0f}</text>' for x, _, a, _ in dots),
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>',
        f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>',
        "</svg>",
    ]
    path.write_text("\n".join(parts) + "\n")
