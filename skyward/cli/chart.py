"""Prices over time as one SVG picture: steps, because a price holds until it changes. No dependency, no script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 960, 440
LEFT, TOP, RIGHT, BOTTOM = 64, 78, 232, 44
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6000", "#666666")
"""Okabe and Ito's palette (2008), readable with colour blindness; yellow is replaced for white paper."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line. `points` are in order; None says that from then on there was no price."""

    label: str
    points: tuple[tuple[datetime, float | None], ...]
    is_dashed: bool = False


def line_chart(
    series: Sequence[Series], *, title: str, subtitle: str, unit: str, start: datetime, end: datetime
) -> str:
    """An SVG document. Each price is drawn until the next one, the last one until `end`."""
    top = _ceiling(price for line in series for _, price in line.points if price is not None)
    plot = _Plot(start, max(end, start + timedelta(hours=1)), top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="28" font-size="17" font-weight="600" fill="#1a1a1a">{escape(title)}</text>',
        f'<text x="{LEFT}" y="47" fill="#666666">{escape(subtitle)}</text>',
        *_price_axis(plot, unit),
        *_time_axis(plot),
        *(part for number, line in enumerate(series) for part in _line(plot, line, _color(number))),
        *_legend(plot, series),
        "</svg>\n",
    ]
    return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class _Plot:
    """From moments and prices to places on the picture."""

    start: datetime
    end: datetime
    top: float

    def x(self, moment: datetime) -> float:
        share = (moment - self.start) / (self.end - self.start)
        return round(LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, price: float) -> float:
        return round(HEIGHT - BOTTOM - price / self.top * (HEIGHT - TOP - BOTTOM), 1)


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _step(span: float, count: int) -> float:
    """A round number (1, 2, 2.5 or 5 times a power of ten) that cuts `span` into about `count` pieces."""
    raw = span / count
    power = 10.0 ** floor(log10(raw))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)


def _ceiling(prices: Iterable[float]) -> float:
    """The top of the axis: the first round number above every price."""
    highest = max(prices, default=1.0) or 1.0
    step = _step(highest, 5)
    return ceil(highest * 1.02 / step) * step


def _price_axis(plot: _Plot, unit: str) -> Iterable[str]:
    step = _step(plot.top, 5)
    digits = max(0, -floor(log10(step) + 1e-9) + (1 if step in (0.25, 0.025, 2.5) else 0))
    yield f'<text x="{LEFT - 8}" y="{TOP - 12}" fill="#666666" text-anchor="end">{escape(unit)}</text>'
    for number in range(round(plot.top / step) + 1):
        y = plot.y(number * step)
        color = "#999999" if number == 0 else "#e6e6e6"
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="{color}"/>'
        label = f"{number * step:,.{digits}f}"
        yield f'<text x="{LEFT - 8}" y="{y + 4}" fill="#666666" text-anchor="end">{label}</text>'


def _time_axis(plot: _Plot) -> Iterable[str]:
    y = HEIGHT - BOTTOM
    last = 0.0
    for moment, label in _ticks(plot.start, plot.end):
        x = plot.x(moment)
        if x - last < 56:
            continue
        last = x
        yield f'<line x1="{x}" x2="{x}" y1="{y}" y2="{y + 5}" stroke="#999999"/>'
        yield f'<text x="{x}" y="{y + 20}" fill="#666666" text-anchor="middle">{label}</text>'


def _ticks(start: datetime, end: datetime) -> Iterable[tuple[datetime, str]]:
    """About eight round moments, and how they are written."""
    span = end - start
    form: Callable[[datetime], str]
    if span < timedelta(days=3):
        hours = next((h for h in (1, 2, 3, 6, 12) if span / timedelta(hours=h) <= 9), 12)
        every, form = timedelta(hours=hours), lambda m: f"{m:%d %b %H:%M}" if m.hour == 0 else f"{m:%H:%M}"
    else:
        days = next((d for d in (1, 2, 7, 14, 30, 61, 91, 182) if span / timedelta(days=d) <= 9), 365)
        every, form = timedelta(days=days), lambda m: f"{m.day} {m:%b}" + (f" {m.year}" if days > 60 else "")
    moment = start.replace(hour=0, minute=0, second=0, microsecond=0)
    while moment <= end:
        if moment >= start:
            yield moment, form(moment)
        moment += every


def _line(plot: _Plot, series: Series, color: str) -> Iterable[str]:
    """One path per stretch without a gap, and a dot at each change."""
    dash = ' stroke-dasharray="6 4"' if series.is_dashed else ""
    for stretch in _stretches(series, plot.end):
        (first, price), *rest = stretch
        path = [f"M{plot.x(first)} {plot.y(price)}"]
        for moment, changed in rest:
            path.append(f"H{plot.x(moment)}V{plot.y(changed)}")
        yield (
            f'<path d="{"".join(path)}" fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round"{dash}>'
            f"<title>{escape(series.label)}</title></path>"
        )
    for moment, value in series.points:
        if value is not None and moment >= plot.start:
            tip = f"{series.label}: {value:,.4g} on {moment:%Y-%m-%d}"
            yield (
                f'<circle cx="{plot.x(moment)}" cy="{plot.y(value)}" r="3" fill="{color}">'
                f"<title>{escape(tip)}</title></circle>"
            )


def _stretches(series: Series, end: datetime) -> list[list[tuple[datetime, float]]]:
    """The line cut where there was no price; each piece reaches to where its last price ended."""
    pieces: list[list[tuple[datetime, float]]] = []
    current: list[tuple[datetime, float]] = []
    for moment, price in series.points:
        if price is not None:
            current.append((moment, price))
        elif current:
            pieces.append([*current, (moment, current[-1][1])])
            current = []
    if current:
        pieces.append([*current, (max(end, current[-1][0]), current[-1][1])])
    return pieces


def _legend(plot: _Plot, series: Sequence[Series]) -> Iterable[str]:
    """Beside the end of each line, moved apart where they would overlap."""
    wanted = [(plot.y(_last(line)), number) for number, line in enumerate(series)]
    x, y = WIDTH - RIGHT + 14, 0.0
    for place, number in sorted(wanted):
        y = max(place + 4, y + 16)
        dash = ' stroke-dasharray="5 3"' if series[number].is_dashed else ""
        yield (
            f'<line x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}" stroke="{_color(number)}" stroke-width="2"{dash}/>'
            f'<text x="{x + 24}" y="{y}" fill="#1a1a1a">{escape(_short(series[number].label))}</text>'
        )


def _last(line: Series) -> float:
    return next((price for _, price in reversed(line.points) if price is not None), 0.0)


def _short(label: str, limit: int = 27) -> str:
    return label if len(label) <= limit else f"{label[: limit - 1]}…"
