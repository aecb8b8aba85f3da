"""Positions between two classes, where they are known."""

import pytest
import torch
from torch import nn

from easybn.data.split import Split
from easybn.metrics.between_classes import POSITION, BetweenClasses, positions
from easybn.metrics.instrument import Measured, Subject
from easybn.metrics.latent import ADVERSARIAL, CLEAN, EASY


def slow(clean: torch.Tensor, copies: torch.Tensor, y: torch.Tensor) -> list[float]:
    """From the definition, image by image."""
    found = []
    for i in range(len(y)):
        rest = [j for j in range(len(y)) if j != i]
        own = torch.stack([clean[j] for j in rest if y[j] == y[i]]).mean(0)
        centres = {k: clean[y == k].mean(0) for k in set(y.tolist()) - {int(y[i])}}
        other = min(centres.values(), key=lambda centre: float((clean[i] - centre).norm()))
        found.append(float((copies[i] - own) @ (other - own) / (other - own).norm() ** 2))
    return found


def test_positions_are_their_definition():
    generator = torch.Generator().manual_seed(0)
    clean, copies = (torch.randn(14, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.tensor([0, 0, 3, 3, 3, 7, 7, 0, 3, 7, 7, 7, 0, 3])
    found = positions(clean, {"c": copies}, y)
    assert found[CLEAN].tolist() == pytest.approx(slow(clean, clean, y), rel=1e-9)
    assert found["c"].tolist() == pytest.approx(slow(clean, copies, y), rel=1e-9)
    turned = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    moved = positions(3 * clean @ turned + 1, {"c": 3 * copies @ turned + 1}, y)
    assert torch.allclose(moved["c"], found["c"], rtol=1e-9)


def test_two_classes_that_are_points():
    clean = torch.tensor([[0.0, 1.0], [0.0, 1.0], [4.0, 1.0], [4.0, 1.0]])
    y = torch.tensor([0, 0, 1, 1])
    copies = torch.tensor([[1.0, 9.0], [-2.0, 1.0], [2.0, 1.0], [0.0, 1.0]])  # across the line nothing counts
    found = positions(clean, {"c": copies}, y)
    assert found[CLEAN].tolist() == [0, 0, 0, 0]
    assert found["c"].tolist() == pytest.approx([0.25, -0.5, 0.5, 1.0])


def test_images_alone_in_their_class_are_left_out():
    clean = torch.tensor([[0.0], [0.0], [1.0], [4.0], [4.0]])
    y = torch.tensor([0, 0, 5, 1, 1])
    assert positions(clean, {}, y)[CLEAN].tolist() == [0, 0, 0, 0]
    assert not len(positions(clean, {}, torch.arange(5))[CLEAN])
    assert not len(positions(clean, {}, torch.zeros(5, dtype=torch.int64))[CLEAN])
    assert not len(positions(torch.zeros(4, 2), {}, torch.tensor([0, 0, 1, 1]))[CLEAN])  # no line


def test_a_linear_network_moves_copies_along_the_line():
    """Logit 1 - logit 0 is the mean of the pixels: an attack brightens dark images by eps and darkens bright ones."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).eval()
    with torch.no_grad():
        net[1].weight[0], net[1].weight[1] = -1 / 16, 1 / 16
    levels = torch.tensor([51] * 6 + [204] * 6, dtype=torch.uint8)  # 0.2 and 0.8
    split = Split(levels[:, None, None, None].repeat(1, 1, 4, 4), torch.tensor([0] * 6 + [1] * 6))
    subject = Subject(net, split, torch.arange(12), 2, batch_size=5)
    found = {(each.series, each.place): each for each in BetweenClasses(eps=0.15).measure(subject)}
    for place in ("image", "logits"):
        for kind, expected in ((CLEAN, 0), (ADVERSARIAL, 0.25), (EASY, -0.25)):
            assert found[kind, place].value == pytest.approx(expected, abs=1e-6)
            assert found[kind, place].n == 12
    assert {each.measure for each in found.values()} == {POSITION}


def test_the_sentence_says_whose_logits_move_most():
    def logits(clean, adversarial):
        ends = ((CLEAN, clean), (ADVERSARIAL, adversarial))
        return [Measured(POSITION, series, "logits", 4, 9, value) for series, value in ends]

    told = "On their way to the next class the attack moves images in the logits: "
    assert BetweenClasses.sentence({"a": logits(0.1, 0.3), "b": logits(0.2, 0.9), "c": []}) == (
        f"{told}b from 0.200 to 0.900 (most), a from 0.100 to 0.300 (least)."
    )
    assert BetweenClasses.sentence({"a": logits(0.1, 0.3)}) == f"{told}a from 0.100 to 0.300."
    assert BetweenClasses.sentence({}) == ""


def test_mistakes():
    with pytest.raises(ValueError, match="eps"):
        BetweenClasses(eps=-1.0)
    split = Split(torch.arange(8, dtype=torch.uint8).reshape(4, 1, 1, 2), torch.arange(4))
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 4)).eval()
    with pytest.raises(ValueError, match="between needs two classes with two images each"):
        BetweenClasses().measure(Subject(net, split, torch.arange(4), 4))
