"""Votes of a randomised model, against a script of its passes."""

import math
import statistics

import pytest
import torch

from easybn.attacks.draws import CLEAR, DRAWS, vote

SCRIPTS = {
    "right": lambda i: False,
    "one in ten": lambda i: i % 10 == 3,
    "one in three": lambda i: i % 3 == 0,
    "less than half": lambda i: i % 2 == 1,
    "more than half": lambda i: i % 2 == 0,
    "two in three": lambda i: i % 3 != 0,
    "wrong": lambda i: True,
    "lucky at first": lambda i: i >= 6,
}
"""Whether a pass is wrong; 127 alternating ones are 64 or 63 wrong."""


def expected(script):
    """Pass by pass: wrong, clearly, refuted, margin and passes."""
    for draws in DRAWS:
        margins = [1.0 + i / 1000 if script(i) else -1.0 - i / 1000 for i in range(draws)]
        count, chance = sum(margin > 0 for margin in margins), CLEAR * math.sqrt(draws) / 2
        if count <= draws / 2 - chance:
            return False, False, True, statistics.median(margins), draws
    return count > draws / 2, count > draws / 2 + chance, False, statistics.median(margins), draws


def test_votes_are_counted_as_by_hand():
    names, asked = list(SCRIPTS), torch.zeros(len(SCRIPTS), dtype=torch.int64)
    images = torch.arange(len(SCRIPTS), dtype=torch.float32)[:, None]

    def call(some):
        rows = some[:, 0].long()
        passes = zip(rows.tolist(), asked[rows].tolist(), strict=True)
        lead = [1 + i / 1000 if SCRIPTS[names[row]](i) else -1 - i / 1000 for row, i in passes]
        asked[rows] += 1
        return torch.stack((torch.zeros(len(rows)), torch.tensor(lead)), 1).double()

    said = vote(call, images, torch.zeros(len(images), dtype=torch.int64))
    assert said.passes.tolist() == asked.tolist()
    for row, name in enumerate(names):
        *verdicts, margin, passes = expected(SCRIPTS[name])
        assert [bool(column[row]) for column in said[:3]] == verdicts, name
        assert said.margin[row].item() == pytest.approx(margin, rel=1e-6)
        assert passes == said.passes[row], name
    assert said.wrong.tolist() == [False] * 4 + [True] * 4
    assert said.passes[[0, 1, 2]].tolist() == [7, 31, 127]
