# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a figure is met: by where the median of its ratios lies, and with more rounds until that is known."""
import dataclasses
import math
import statistics
import time

MET, MISSED, UNDECIDED = "met", "missed", "undecided"
MORE = 3  # rounds between two looks: one that looks after each is fooled by chance more often


@dataclasses.dataclass
class Figure:
    """One value of each round; `value` makes it from what the sides did in it: a dict of samples by side."""
    text: str
    value: object
    bound: float | None = None  # None: asks for nothing
    at_most: bool = False
    instead: object = None      # another Figure: when that is met, this one is


def interval(values):
    """Where the median lies in 19 of 20 cases or more, by how many values must lie on each side of it; None for
    fewer than 6 values, which cannot tell."""
    n, below, rank = len(values), 0.0, 0
    while rank < n // 2 and below + math.comb(n, rank) / 2 ** n <= 0.025:
        below += math.comb(n, rank) / 2 ** n
        rank += 1
    return (sorted(values)[rank - 1], sorted(values)[n - rank]) if rank > 0 else None


def verdict(values, bound, at_most=False):
    """Met or missed when all of the interval is; undecided while the bound lies within; None without a bound."""
    if bound is None:
        return None
    found = interval(values)
    if not found:
        return UNDECIDED
    low, high = found
    if at_most:
        return MET if high <= bound else MISSED if low > bound else UNDECIDED
    return MET if low >= bound else MISSED if high < bound else UNDECIDED


def either(verdicts):
    """Of several ways to meet a figure."""
    for one in (MET, UNDECIDED):
        if one in verdicts:
            return one
    return MISSED


def judge(figure, values, instead=()):
    """A figure as it is told and stored. `values`: one for each round; `instead`: the same of its other way."""
    found = interval(values)
    row = {"text": figure.text, "median": statistics.median(values), "min": min(values), "max": max(values),
           "interval": list(found) if found else None, "rounds": len(values), "bound": figure.bound,
           "at_most": figure.at_most, "values": list(values),
           "verdict": verdict(values, figure.bound, figure.at_most)}
    if figure.instead:
        row["instead"] = judge(figure.instead, instead)
        row["verdict"] = either([row["verdict"], row["instead"]["verdict"]])
    return row


def judge_rounds(figure, rounds):
    """The same from rounds, each a dict of samples by side."""
    return judge(figure, [figure.value(r) for r in rounds],
                 [figure.instead.value(r) for r in rounds] if figure.instead else ())


def undecided(figures, rounds):
    return any(judge_rounds(figure, rounds)["verdict"] == UNDECIDED for figure in figures)


def gather(sides, figures, rounds, seconds, clock=time.monotonic):
    """
    All sides in each round, taking turns in being first: `rounds` of them; then more, a few at a time, while some
    figure is undecided and `seconds` have not passed since. `sides`: functions by name. A list of dicts.
    """
    names, done = list(sides), []

    def one_round():
        first = len(done) % len(names)
        got = {name: sides[name]() for name in names[first:] + names[:first]}
        done.append({name: got[name] for name in names})

    while len(done) < rounds:
        one_round()
    end = clock() + seconds
    while clock() < end and undecided(figures, done):
        for _ in range(MORE):
            if clock() < end:
                one_round()
    return done


# ---- as text ------------------------------------------------------------------------------------------------

def show(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def asked(row):
    return f"at {'most' if row['at_most'] else 'least'} {show(row['bound'])}" if row["bound"] is not None else ""


def where(row):
    """The median, and where it lies."""
    if row["interval"]:
        return f"{show(row['median'])} ({show(row['interval'][0])}..{show(row['interval'][1])})"
    return f"{show(row['median'])} ({show(row['min'])}..{show(row['max'])}, of {row['rounds']})"


def line(row):
    """One line on a figure; one more on its other way."""
    asks = f", {asked(row)}" if asked(row) else ""
    text = f"{(row['verdict'] or '').upper():<9}  {where(row)}  {row['text']}{asks}"
    if "instead" in row:
        other = row["instead"]
        text += f"\n{'':<9}  or {where(other)}  {other['text']}, {asked(other)}"
    return text
