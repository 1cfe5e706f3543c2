#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How figures are judged, from made-up rounds: met, missed, undecided; how many rounds it takes, and when it ends.

usage: test_judge.py BENCH
"""
import random
import statistics
import sys
import unittest

sys.path.insert(0, sys.argv.pop(1))
sys.dont_write_bytecode = True

import judge # from the folder given


class Verdicts(unittest.TestCase):
    def test_met_when_all_of_the_interval_is(self):
        self.assertEqual(judge.verdict([1.6, 1.7, 1.5, 1.6, 1.8, 1.9], 1.5), judge.MET)
        self.assertEqual(judge.verdict([0.4, 0.5, 0.3, 0.4, 0.45, 0.2], 0.5, at_most=True), judge.MET)

    def test_missed_when_none_of_it_is(self):
        self.assertEqual(judge.verdict([1.4, 1.3, 1.2, 1.4, 1.1, 1.0], 1.5), judge.MISSED)
        self.assertEqual(judge.verdict([0.6, 0.7, 0.8, 0.6, 0.9, 0.55], 0.5, at_most=True), judge.MISSED)

    def test_undecided_while_the_bound_lies_within(self):
        # As one machine gave it: a median of 0.93 of pairs from 0.52 to 1.38.
        pairs = [0.52, 0.7, 0.81, 0.93, 0.99, 1.2, 1.38]
        self.assertLess(statistics.median(pairs), 0.97)
        self.assertEqual(judge.verdict(pairs, 0.97), judge.UNDECIDED)
        self.assertEqual(judge.verdict(pairs, 0.97, at_most=True), judge.UNDECIDED)

    def test_undecided_with_too_few(self):
        self.assertIsNone(judge.interval([5.0] * 5))
        self.assertEqual(judge.verdict([5.0] * 5, 1.0), judge.UNDECIDED)
        self.assertEqual(judge.verdict([5.0] * 6, 1.0), judge.MET)

    def test_one_outlier_of_many_decides_nothing(self):
        self.assertEqual(judge.verdict([1.6] * 11 + [0.1], 1.5), judge.MET)

    def test_nothing_asked(self):
        self.assertIsNone(judge.verdict([1.0] * 9, None))

    def test_interval_has_the_median_19_times_of_20(self):
        r, within, runs = random.Random(1), 0, 4000
        for _ in range(runs):
            low, high = judge.interval([r.lognormvariate(0, 1) for _ in range(10)])
            within += low <= 1 <= high
        self.assertGreaterEqual(within / runs, 0.95)

    def test_another_way(self):
        self.assertEqual(judge.either([judge.MISSED, judge.MET]), judge.MET)
        self.assertEqual(judge.either([judge.MISSED, judge.UNDECIDED]), judge.UNDECIDED)
        self.assertEqual(judge.either([judge.MISSED, judge.MISSED]), judge.MISSED)


class Clock:
    """A second for each sample."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


class Rounds(unittest.TestCase):
    def setUp(self):
        self.clock, self.order = Clock(), []

    def side(self, name, values):
        values = iter(values)

        def measure():
            self.order.append(name)
            self.clock.now += 1
            return next(values)
        return measure

    def gather(self, ours, others, bound, rounds=6, seconds=100, instead=None):
        self.figure = judge.Figure("ratio", lambda r: r["ours"] / r["other"], bound, instead=instead)
        sides = {"ours": self.side("ours", ours), "other": self.side("other", others)}
        return judge.gather(sides, [self.figure], rounds, seconds, clock=self.clock)

    def test_ends_when_decided(self):
        done = self.gather([3.0] * 6, [1.0] * 6, 2)
        self.assertEqual(len(done), 6)
        self.assertEqual(judge.judge_rounds(self.figure, done)["verdict"], judge.MET)

    def test_goes_on_until_decided(self):
        done = self.gather([1.9] + [3.0] * 50, [1.0] * 51, 2)
        self.assertEqual(judge.verdict([1.9] + [3.0] * 5, 2), judge.UNDECIDED)
        self.assertEqual(judge.judge_rounds(self.figure, done)["verdict"], judge.MET)
        self.assertEqual(len(done), 9)

    def test_ends_when_the_time_is_over(self):
        done = self.gather([1.0, 3.0] * 100, [1.0] * 200, 2, seconds=20)
        self.assertEqual(len(done), 6 + 10)
        self.assertEqual(judge.judge_rounds(self.figure, done)["verdict"], judge.UNDECIDED)

    def test_no_more_than_asked_for_without_time(self):
        self.assertEqual(len(self.gather([1.0, 3.0] * 9, [1.0] * 18, 2, rounds=1, seconds=0)), 1)

    def test_sides_take_turns_in_being_first(self):
        self.gather([3.0] * 6, [1.0] * 6, 2)
        self.assertEqual(self.order, ["ours", "other", "other", "ours"] * 3)

    def test_pairs_are_of_one_round(self):
        done = self.gather(range(2, 14, 2), range(1, 7), 2)
        self.assertEqual(judge.judge_rounds(self.figure, done)["values"], [2.0] * 6)

    def test_met_in_another_way(self):
        limit = judge.Figure("of the limit", lambda r: 0.95, 0.9)
        done = self.gather([1.0] * 6, [1.0] * 6, 2, instead=limit)
        row = judge.judge_rounds(self.figure, done)
        self.assertEqual(len(done), 6)
        self.assertEqual((row["verdict"], row["instead"]["verdict"]), (judge.MET, judge.MET))
        self.assertIn("of the limit", judge.line(row))


if __name__ == "__main__":
    unittest.main()
