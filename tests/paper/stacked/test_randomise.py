import pytest
import torch
from torch import nn

from easybn.paper.stacked import correct, measurements
from easybn.paper.stacked_images import HALVES, LAYOUTS, WAYS, Pairs, Randomiser, partners

GREY = torch.tensor([10, 200]).byte()


def some_pairs(n=40, size=4):
    """Two channels; class 1 is bright, class 0 dark, and no two images are alike."""
    labels = (torch.arange(n) % 3 == 0).long()
    originals, copies = torch.randint(0, 100, (2, n, 2, size, size)) + 150 * labels.view(-1, 1, 1, 1)
    return Pairs(originals.byte(), copies.byte(), labels)


class Reads(nn.Module):
    """Class 1 if the chosen half is brighter than the middle; the other half is not looked at."""

    def __init__(self, half: str, layout: str):
        super().__init__()
        self.half, self.layout = half, layout

    def forward(self, x):
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
        halves = dict(zip(("original", "copy"), x.chunk(2, LAYOUTS[self.layout]), strict=True))
        bright = halves[self.half].mean((1, 2, 3)) - 0.5
        return torch.stack((-bright, bright), 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("read", HALVES)
def test_a_network_that_reads_one_half(read, layout):
    pairs = some_pairs()
    rows = list(measurements(Reads(read, layout), Randomiser(pairs, GREY, 0), layout))
    found = {(row["half"], row["how"]): row["correct"] for row in rows}
    other = {"copy": "original", "original": "copy"}[read]
    assert found[None, None] == 40
    assert {found[other, how] for how in WAYS} == {40}
    assert found[read, "swap"] == 0
    assert found[read, "blank"] == int((pairs.labels == 0).sum())  # the grey is dark: one class, always
    assert 0 < found[read, "noise"] < 40
    assert all(row["n"] == 40 and row["accuracy"] == row["correct"] / 40 for row in rows)
    assert len(rows) == 7


def test_swapped_halves_are_of_the_other_class_and_nothing_else_moves():
    pairs = some_pairs(90)
    who = partners(pairs.labels, seed=3)
    index = torch.arange(90)
    for half in HALVES:
        originals, copies = Randomiser(pairs, GREY, 3)(index, half, "swap")
        changed, kept = (copies, originals) if half == "copy" else (originals, copies)
        sources, untouched = (pairs.copies, pairs.originals) if half == "copy" else (pairs.originals, pairs.copies)
        assert torch.equal(kept, untouched)
        for i in range(90):
            same_as = [j for j in range(90) if torch.equal(changed[i], sources[j])]
            assert same_as == [int(who[i])]
            assert pairs.labels[same_as[0]] != pairs.labels[i]


def test_partners_are_drawn_evenly_and_by_name():
    labels = torch.cat((torch.zeros(3000), torch.ones(5))).long()
    who = partners(labels, seed=0)
    count = torch.bincount(who[:3000] - 3000, minlength=5)
    assert int(count.sum()) == 3000
    assert float((count - 600).abs().max()) < 5 * (3000 * 0.2 * 0.8) ** 0.5
    assert int(who[3000:].max()) < 3000
    assert torch.equal(who, partners(labels, seed=0))
    assert not torch.equal(who, partners(labels, seed=1))


def test_noise_and_blank():
    pairs = some_pairs(300, size=8)
    both = Randomiser(pairs, GREY, 0)
    originals, noise = both(torch.arange(300), "copy", "noise")
    assert torch.equal(originals, pairs.originals)
    count = torch.bincount(noise.flatten().long(), minlength=256).double()
    expected = noise.numel() / 256
    # chi-square with 255 degrees: mean 255, standard deviation 22.6
    assert float(((count - expected) ** 2 / expected).sum()) < 255 + 5 * 22.6
    assert len({image.numpy().tobytes() for image in noise}) == 300
    blank, copies = both(torch.arange(300), "original", "blank")
    assert torch.equal(copies, pairs.copies)
    assert torch.equal(blank, GREY.view(1, 2, 1, 1).expand(300, 2, 8, 8))


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("half", HALVES)
def test_a_sample_is_randomised_alike_in_every_batch(half, how):
    randomiser, some = Randomiser(some_pairs(), GREY, 5), torch.tensor([31, 2, 17])
    whole, part = randomiser(torch.arange(40), half, how), randomiser(some, half, how)
    assert all(torch.equal(a[some], b) for a, b in zip(whole, part, strict=True))


def test_equal_halves_are_worth_the_same():
    pairs = some_pairs()
    pairs = Pairs(pairs.originals, pairs.originals, pairs.labels)
    randomiser = Randomiser(pairs, GREY, 0)
    for how in WAYS:
        halves = [correct(Reads(half, "above"), randomiser, "above", half, how) for half in HALVES]
        assert halves[0] == halves[1]


def test_the_networks_mode_is_given_back():
    net = nn.Sequential(nn.BatchNorm2d(2), Reads("copy", "above")).train()
    net[1].forward = lambda x: torch.zeros(len(x), 2)
    assert correct(net, Randomiser(some_pairs(), GREY, 0), "above", None, None) == 26
    assert net.training
    assert int(net[0].num_batches_tracked) == 0
