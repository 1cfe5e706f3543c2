# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Plots as SVG elements for an HTML page: colours are the page's (its classes), so that they follow light and dark.

All are narrow, so that they can be read in a small window: what is long stands above what it names. The legend has
a line of its own above the bars.
"""
import dataclasses
import html
import math

WIDTH, LABELS, VALUES = 400, 140, 48  # of the whole; of the names at the left; of the numbers at the right
ROW, HEAD = 15, 22                    # heights: of a bar, of a group's title


@dataclasses.dataclass
class Bar:
    label: str
    kind: str           # what it is coloured by
    median: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""       # without a median: why there is none


def element(name, content="", **attributes):
    words = ""
    for key, value in attributes.items():
        value = f"{value:.2f}" if isinstance(value, float) else html.escape(str(value))
        words += f' {key.rstrip("_").replace("_", "-")}="{value}"'
    return f"<{name}{words}>{content}</{name}>"


def label(text, x, y, **attributes):
    return element("text", html.escape(text), x=x, y=y, **attributes)


def svg(parts, height, what):
    return element("svg", "\n".join(parts), viewBox=f"0 0 {WIDTH} {math.ceil(height)}", role="img",
                   aria_label=what)


def short(value):
    """A number in few characters."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def nice_step(top, count=4):
    """A step of 1, 2 or 5 times a power of ten, for about `count` steps up to `top`."""
    power = 10.0 ** math.floor(math.log10(top / count))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= top / count)


def legend(kinds, y):
    parts, x = [], LABELS
    for kind in kinds:
        parts.append(element("rect", x=x, y=y - 9, width=10, height=10, class_=f"fill-{kind}"))
        parts.append(label(kind, x + 14, y))
        x += 26 + 7 * len(kind)
    return parts


def grid(ticks, place, top, bottom, text):
    parts = []
    for tick in ticks:
        parts.append(element("line", x1=place(tick), x2=place(tick), y1=top, y2=bottom, class_="grid"))
        parts.append(label(text(tick), place(tick), top - 4, text_anchor="middle", class_="muted"))
    return parts


def bars(groups, unit):
    """`groups`: (title, list of Bar). A bar is a median, with a line from the smallest to the largest."""
    there = [bar for _, group in groups for bar in group if bar.median is not None]
    top = max(bar.high for bar in there) or 1
    step = nice_step(top)
    room = WIDTH - LABELS - VALUES

    def place(value):
        return LABELS + room * value / top

    y, parts = 40, []
    for title, group in groups:
        y += HEAD
        parts.append(label(title, 0, y - 6, class_="strong"))
        for bar in group:
            parts += one_bar(bar, y, place, unit)
            y += ROW
    ticks = [i * step for i in range(int(top / step) + 1)]
    frame = legend(list(dict.fromkeys(bar.kind for bar in there)), 12)
    frame += grid(ticks, place, 38, y, short)
    return svg(frame + parts, y + 4, f"bars, {unit}")


def one_bar(bar, y, place, unit):
    middle = y + ROW / 2
    parts = [label(bar.label, LABELS - 5, middle + 4, text_anchor="end")]
    if bar.median is None:
        return parts + [label(bar.why, LABELS + 4, middle + 4, class_="muted")]
    said = f"{bar.label}: {short(bar.median)} {unit}, from {short(bar.low)} to {short(bar.high)}"
    parts.append(element("rect", element("title", html.escape(said)), x=LABELS, y=y + 2,
                         width=max(place(bar.median) - LABELS, 0.5), height=ROW - 4, class_=f"fill-{bar.kind}"))
    parts += whisker(place(bar.low), place(bar.high), middle)
    parts.append(label(short(bar.median), WIDTH - 2, middle + 4, text_anchor="end"))
    return parts


def whisker(x1, x2, y):
    return [element("path", d=f"M{x1:.1f} {y - 3:.1f}v6M{x1:.1f} {y:.1f}H{x2:.1f}M{x2:.1f} {y - 3:.1f}v6",
                    class_="whisker")]


def ratios(rows, what):
    """On a logarithmic axis, of (label, verdict, median, low, high, bound): a dot, its range, what is asked."""
    values = [v for row in rows for v in row[2:] if v is not None and v > 0] + [1]
    low, high = math.log10(min(values) / 1.3), math.log10(max(values) * 1.3)
    left, room = 6, WIDTH - VALUES - 6

    def place(value):
        return left + room * (math.log10(value) - low) / (high - low)

    y, parts = 24, []
    for name, verdict, median, smallest, largest, bound in rows:
        parts.append(label(name, left, y + 13))
        middle = y + 24
        if bound is not None:
            parts.append(element("path", d=f"M{place(bound):.1f} {middle - 6:.1f}v12", class_="bound"))
        parts += whisker(place(smallest), place(largest), middle)
        said = f"{name}: {median:.3g}, from {smallest:.3g} to {largest:.3g}"
        parts.append(element("circle", element("title", html.escape(said)), cx=place(median), cy=middle, r=4,
                             class_=f"fill-{verdict}"))
        parts.append(label(f"{median:.3g}", WIDTH - 2, middle + 4, text_anchor="end"))
        y += 32
    ticks = [k * 10.0 ** p for p in range(math.floor(low), math.ceil(high) + 1) for k in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
    if len(ticks) > 7:
        ticks = [tick for tick in ticks if math.log10(tick) % 1 < 1e-9]
    return svg(grid(ticks, place, 20, y, lambda tick: f"{tick:g}") + parts, y + 4, what)


def axis(ticks, place, left, right, text):
    """Lines from left to right, with what they are at the left."""
    parts = []
    for tick in ticks:
        parts.append(element("line", x1=left, x2=right, y1=place(tick), y2=place(tick), class_="grid"))
        parts.append(label(text(tick), left - 4, place(tick) + 4, text_anchor="end", class_="muted"))
    return parts


def over_time(panels, seconds, what):
    """
    Panels, one above the other, over the same time. Each: (title, unit, list of (name, kind, points)); a point is
    (seconds, value), and a line keeps its value up to the next one.
    """
    left, top, height, gap = 48, 34, 110, 44
    right, parts = WIDTH - 8, []

    def x(at):
        return left + (right - left) * at / (seconds or 1)

    for title, unit, lines in panels:
        most = max((value for _, _, points in lines for _, value in points), default=0) or 1
        step = nice_step(most)
        bottom = top + height

        def y(value, bottom=bottom, most=most):
            return bottom - height * value / most

        parts.append(label(f"{title}, {unit}", 0, top - 20, class_="strong"))
        at = left
        for name, kind, _ in lines if len(lines) > 1 else ():
            parts.append(element("rect", x=at, y=top - 15, width=10, height=10, class_=f"fill-{kind}"))
            parts.append(label(name, at + 14, top - 6))
            at += 26 + 7 * len(name)
        parts += axis([i * step for i in range(int(most / step) + 1)], y, left, right, short)
        for name, kind, points in lines:
            path = "".join(f"{'M' if i == 0 else 'H'}{x(t):.1f}{' ' if i == 0 else 'V'}{y(v):.1f}"
                           for i, (t, v) in enumerate(points))
            parts.append(element("path", element("title", html.escape(name)), d=path, class_=f"line-{kind}"))
        top = bottom + gap
    step = nice_step(seconds or 1)
    for i in range(int((seconds or 1) / step) + 1):
        parts.append(label(f"{i * step:g} s", x(i * step), top - gap + 16, text_anchor="middle", class_="muted"))
    return svg(parts, top - gap + 22, what)
