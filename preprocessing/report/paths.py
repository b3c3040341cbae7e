"""Plots as the `d` of SVG paths, in a box of 100 by 100 that the page stretches."""

# T points, B bars

from __future__ import annotations

from collections.abc import Sequence

Points = Sequence[tuple[float, float]]
"""(x, y), each in [0, 1], y upwards."""


def bars(edges: Sequence[float], heights: Sequence[float], gap: float = 0.08) -> str:
    """Bars from the ground between (B + 1) edges, B heights; all in [0, 1]."""
    parts = []
    for left, right, height in zip(edges, edges[1:], heights, strict=False):
        if height > 0:
            space = gap * (right - left) / 2
            top = _y(max(height, 0.01))
            parts.append(f"M{_x(left + space)} 100V{top}H{_x(right - space)}V100Z")
    return "".join(parts)


def steps(edges: Sequence[float], heights: Sequence[float | None]) -> str:
    """A line that is level between (B + 1) edges and broken where there is no height."""
    parts, drawing = [], False
    for left, right, height in zip(edges, edges[1:], heights, strict=False):
        if height is None:
            drawing = False
            continue
        parts.append(f"{'V' if drawing else f'M{_x(left)} '}{_y(height)}H{_x(right)}")
        drawing = True
    return "".join(parts)


def line(points: Sequence[tuple[float, float] | None]) -> str:
    """A line through the points, broken at None; a point alone becomes a short dash."""
    parts, command = [], "M"
    for index, point in enumerate(points):
        if point is None:
            command = "M"
            continue
        parts.append(f"{command}{_x(point[0])} {_y(point[1])}")
        alone = command == "M" and (index + 1 == len(points) or points[index + 1] is None)
        if alone:
            parts.append("h0.4")
        command = "L"
    return "".join(parts)


def band(
    low: Sequence[tuple[float, float] | None], high: Sequence[tuple[float, float] | None]
) -> str:
    """The area between two lines that are broken at the same places."""
    parts: list[str] = []
    run: list[int] = []
    for index in [*range(len(low)), None]:
        if index is not None and low[index] is not None:
            run.append(index)
            continue
        if len(run) > 1:
            there = line([high[i] for i in run])
            back = line([low[i] for i in reversed(run)])
            parts.append(f"{there}L{back[1:]}Z")
        run = []
    return "".join(parts)


def _x(value: float) -> str:
    return f"{100 * value:.2f}".rstrip("0").rstrip(".")


def _y(value: float) -> str:
    return f"{100 * (1 - value):.1f}".rstrip("0").rstrip(".")
