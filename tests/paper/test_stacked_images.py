"""The stacked experiment: settings, pairs, copies, randomised halves and pictures."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from easybn.data import Source, Split
from easybn.paper.stacked import correct, measurements
from easybn.paper.stacked_images import (
    GAP,
    HALVES,
    LAYOUTS,
    MARGIN,
    WAYS,
    Condition,
    Pairs,
    Randomiser,
    Settings,
    paired,
    partners,
    recognised,
    rows_of,
    save_picture,
    stack,
    two_classes,
)


def test_every_eps_with_every_number_of_steps():
    settings = Settings(eps=(1 / 255, 8 / 255, 8 / 255), steps=(1, 10), copies=("easy", "untouched", "easy"))
    assert settings.conditions == [
        *(Condition("easy", eps / 255, steps) for eps in (1, 8) for steps in (1, 10)), Condition("untouched"),
    ]  # fmt: skip
    assert len(Settings().conditions) == 13


def test_names():
    names = [(str(c), c.file_name) for c in Settings(eps=(16 / 255,)).conditions]
    assert names == [
        ("easy 16/255, 1 step", "easy-16of255-1step"),
        ("easy 16/255, 10 steps", "easy-16of255-10steps"),
        ("untouched", "untouched"),
        ("adversarial 16/255, 1 step", "adversarial-16of255-1step"),
        ("adversarial 16/255, 10 steps", "adversarial-16of255-10steps"),
    ]
    assert Condition("untouched").attack is None
    assert Condition("easy", 8 / 255, 10).attack.step_length == pytest.approx(2 / 255)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"eps": (-1 / 255,)}, r"eps must be a whole number of 255ths in \(0, 1\] .*, got -1/255"),
        ({"eps": (0.0,)}, "got 0/255"),
        ({"eps": (0.5 / 255,)}, "got 0.5/255"),
        ({"eps": (2.0,)}, "got 510/255"),
        ({"eps": (float("nan"),)}, "got nan"),
        ({"eps": ()}, "at least one eps"),
        ({"steps": (1, 0)}, "steps must be at least 1, got 0"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must"),
        ({"epochs_first": 0}, "epochs_first must"),
        ({"batch_size": -1}, "batch_size must"),
        ({"copies": ("hard",)}, "copies: no 'hard', there are easy, untouched, adversarial"),
        ({"copies": ()}, "copies: name at least one"),
        ({"layout": "below"}, "layout: no 'below', there are above, beside, channels"),
    ],
)
def test_values_out_of_range(wrong, told):
    with pytest.raises(ValueError, match=told):
        Settings(**wrong)


def source(classes, labels=None):
    labels = torch.arange(len(classes)) if labels is None else torch.tensor(labels)
    pixels = torch.arange(len(labels) * 4).view(-1, 1, 2, 2).byte()
    return Source.from_tensors(pixels, labels, pixels, labels, classes=classes, name="mine")


def test_where_the_copy_stands():
    a, b = torch.randint(0, 256, (2, 5, 3, 4, 6)).byte()
    above, beside, channels = (stack(a, b, layout) for layout in ("above", "beside", "channels"))
    for n in range(5):
        for c in range(3):
            assert torch.equal(above[n, c, :4], a[n, c])
            assert torch.equal(above[n, c, 4:], b[n, c])
            assert torch.equal(beside[n, c, :, :6], a[n, c])
            assert torch.equal(beside[n, c, :, 6:], b[n, c])
            assert torch.equal(channels[n, c], a[n, c])
            assert torch.equal(channels[n, 3 + c], b[n, c])
    assert (above.shape, beside.shape, channels.shape) == ((5, 3, 8, 6), (5, 3, 4, 12), (5, 6, 4, 6))


def test_the_papers_classes_unless_others_are_asked_for():
    assert two_classes(source(["cat", "truck", "automobile"]), None) == (2, 1)
    assert two_classes(source(["Shirt", "Bag", "T-shirt/top"]), None) == (2, 0)
    assert two_classes(source(["Shirt", "Bag", "T-shirt/top"]), ["bag", "0"]) == (1, 0)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (None, "--classes: name two classes of mine; there are cat, dog, mouse"),
        (["cat", "dgo"], r"--classes: no class 'dgo' \(did you mean dog\?\); there are cat, dog, mouse"),
        (["cat", "0"], "--classes: cat is named twice, give two different ones of cat, dog, mouse"),
        (["cat", "mouse"], "there are no training images of mouse in mine"),
    ],
)
def test_classes_that_will_not_do(asked, told):
    with pytest.raises(ValueError, match=told):
        two_classes(source(["cat", "dog", "mouse"], [0, 1, 0, 1]), asked)


def test_the_images_of_two_classes():
    split = source(["a", "b", "c"], [2, 0, 1, 2, 1, 0, 0]).train
    assert rows_of(split, (2, 0)).tolist() == [0, 1, 3, 5, 6]


class Linear(nn.Module):
    """Three classes of 2 x 3 x 3 images; the logit of class 2 is far below the others."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 18))
        self.register_buffer("bias", torch.tensor([0.0, 0.0, -1e4]))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


def split_of(n):
    return Split(torch.randint(0, 256, (n, 2, 3, 3)).byte(), torch.arange(n) % 3)


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("k", [1, 8, 16])
@pytest.mark.parametrize(("kind", "sign"), [("easy", 1), ("adversarial", -1)])
def test_a_linear_networks_copies_are_the_balls_corners(kind, sign, k, steps):
    net, split = Linear().eval(), split_of(600)
    pairs = paired(net, split, (1, 0), Condition(kind, k / 255, steps))
    # class 2 has no share in the softmax: the gradient is along the difference of two rows, whatever the image
    toward_0 = (net.weight[0] - net.weight[1]).sign().view(2, 3, 3)
    found = 0
    for image, label in zip(split.images, split.labels.tolist(), strict=True):
        if label == 2:
            continue
        direction = toward_0 if label == 0 else -toward_0
        expected = (image + sign * k * direction).clamp(0, 255).byte()
        assert torch.equal(pairs.originals[found], image)
        assert torch.equal(pairs.copies[found], expected)
        assert int(pairs.labels[found]) == (label == 0)  # the class named second is 1
        found += 1
    assert found == len(pairs) == 400


def test_copies_stay_in_the_ball_and_reach_their_goal(trained):
    net, x, y = trained
    split = Split((255 * x).round().byte(), y)
    right = {}
    for condition in (Condition("easy", 8 / 255, 10), Condition("untouched"), Condition("adversarial", 8 / 255, 10)):
        pairs = paired(net, split, (0, 6), condition)
        distance = (pairs.copies.int() - pairs.originals.int()).abs().max()
        assert int(distance) == (0 if condition.copy == "untouched" else 8)
        right[condition.copy] = recognised(net, pairs.copies, torch.where(pairs.labels == 1, 6, 0))
    assert right["easy"] > right["untouched"] > right["adversarial"]


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Flatten(), nn.Linear(18, 3), nn.BatchNorm1d(3))
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    paired(net, split_of(30), (0, 1), Condition("easy", 8 / 255, 2))
    recognised(net, split_of(30).images, split_of(30).labels)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_recognised_counts():
    net, split = Linear(), split_of(300)
    with torch.no_grad():
        slow = sum(int(net(x[None].float() / 255).argmax()) == int(y) for x, y in zip(split.images, split.labels))  # noqa: B905
    assert recognised(net, split.images, split.labels) == slow


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


@pytest.mark.parametrize("channels", [1, 3])
def test_originals_above_copies_above_amplified_differences(channels, tmp_path):
    originals = torch.randint(20, 230, (6, channels, 32, 40)).byte()
    change = torch.randint(-5, 6, (6, channels, 32, 40))
    change[:, 0, 0, 0] = 5
    labels = torch.tensor([1, 0, 1, 0, 1, 1])
    pairs = Pairs(originals, (originals + change).byte(), labels)
    save_picture(tmp_path / "new" / "p.png", pairs, ["a", "b"], "easy 5/255, 1 step")
    with Image.open(tmp_path / "new" / "p.png") as image:
        assert image.text["Description"] == "easy 5/255, 1 step; difference x 25"  # type: ignore[attr-defined]
        pixels = np.asarray(image)
    for label, indices in enumerate(([1, 3], [0, 2, 4, 5])):
        for column, i in enumerate(indices):
            for row, tile in enumerate((pairs.originals, pairs.copies, 128 + 25 * change)):
                top = label * (3 * (64 + GAP) + 2 * GAP) + row * (64 + GAP) + GAP
                left = MARGIN + column * (80 + GAP)
                seen = pixels[top : top + 64 : 2, left : left + 80 : 2]  # every pixel is shown as 2 x 2
                expected = tile[i].expand(3, -1, -1).permute(1, 2, 0).numpy()
                assert np.array_equal(seen, expected)
    assert list(tmp_path.glob("new/*")) == [tmp_path / "new" / "p.png"]


def test_no_change_is_grey(tmp_path):
    originals = torch.randint(0, 256, (4, 1, 8, 8)).byte()
    save_picture(tmp_path / "p.png", Pairs(originals, originals, torch.tensor([0, 1, 0, 1])), ["a", "b"], "untouched")
    with Image.open(tmp_path / "p.png") as image:
        assert image.text["Description"] == "untouched; difference x 1"  # type: ignore[attr-defined]
        top = 2 * (64 + GAP) + GAP
        assert set(np.asarray(image)[top : top + 64, MARGIN : MARGIN + 64].flatten()) == {128}
