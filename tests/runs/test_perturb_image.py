import io

import numpy as np
import pytest
import torch
from PIL import Image

from easybn.perturb.ball import L2, Linf
from easybn.perturb.goal import easy, targeted, untargeted
from easybn.perturb.pgd import PGD
from easybn.runs.perturb_image import as_seen, class_number, perturb


class Linear(torch.nn.Module):
    """Three classes of 2 x 4 x 4 images."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 32))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def encoded(pixels, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("attack", [PGD(Linf(4 / 255), steps=3), PGD(L2(0.2), steps=3)])
def test_confidences_and_distances_are_those_of_the_images(attack):
    model, y = Linear().eval(), torch.tensor([1])
    x = (torch.rand(2, 4, 4) * 255).round() / 255
    for goal, sign, label in ((easy(y), 1, 1), (untargeted(y), -1, 1), (targeted(torch.tensor([2])), 1, 2)):
        found = perturb(model, x, attack, goal)
        torch.testing.assert_close(found.perturbed, attack(model, x[None], goal)[0])
        for image, confidences in (
            (found.original, found.before), (found.perturbed, found.after), (found.saved, found.after_saved),
        ):  # fmt: skip
            torch.testing.assert_close(confidences, model(image[None])[0].softmax(0).detach())
        assert sign * float(found.after[label] - found.before[label]) > 0
        assert float((found.saved * 255 - (found.saved * 255).round()).abs().max()) < 1e-4
        assert float((found.saved - found.perturbed).abs().max()) <= 0.5001 / 255
        assert found.distance <= float(attack.ball.eps) + 1e-6
        assert found.distance_saved == pytest.approx(float(attack.ball.distance(x[None], found.saved[None])))
        change = found.perturbed - found.original
        torch.testing.assert_close(found.difference, 0.5 + found.amplification * change)
        assert float(change.abs().max()) * (found.amplification + 1) > 0.5


def test_no_change_is_grey():
    model = Linear().eval()
    torch.nn.init.zeros_(model.weight)
    found = perturb(model, torch.rand(2, 4, 4), PGD(Linf(0.1)), easy(torch.tensor([0])))
    assert found.amplification == 1
    assert float((found.difference - 0.5).abs().max()) == 0


def test_an_image_of_the_models_shape_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    for size in (None, (6, 8)):
        x, changes = as_seen(encoded(pixels), "a.png", 3, size)
        assert changes == []
        assert torch.equal((x * 255).round().byte(), torch.from_numpy(pixels).permute(2, 0, 1))
    grey = np.repeat(pixels[:, :, :1], 3, 2)
    x, changes = as_seen(encoded(grey), "a.png", 1, None)
    assert changes == []  # nothing is lost
    assert torch.equal((x * 255).round().byte()[0], torch.from_numpy(pixels[:, :, 0]))


def test_changes_are_told():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    x, changes = as_seen(encoded(pixels, "JPEG"), "a.jpg", 1, (8, 8))
    assert x.shape == (1, 8, 8)
    assert changes == ["resized from 30 x 20 to 8 x 8 pixels, the middle of the longer side", "colours to grey"]
    with pytest.raises(ValueError, match=r"a.jpg: has 30 x 20 pixels, the model takes 9 x 8"):
        as_seen(encoded(pixels), "a.jpg", 3, (8, 9))
    with pytest.raises(ValueError, match="takes 4 channels"):
        as_seen(encoded(pixels), "a.jpg", 4, None)
    with pytest.raises(ValueError, match=r"a.jpg: is no readable image"):
        as_seen(b"nothing", "a.jpg", 3, None)


def test_classes_by_name_and_number():
    classes = ("T-shirt", "Bag", "7")
    assert [class_number(text, classes, "--label") for text in ("bag", "T-SHIRT", "0", "2", "7")] == [1, 0, 0, 2, 2]
    with pytest.raises(ValueError, match=r"--label: no class 'bga' \(did you mean Bag\?\); there are T-shirt, Bag, 7"):
        class_number("bga", classes, "--label")
    for text in ("3", "-1", "", "²"):
        with pytest.raises(ValueError, match=r"or numbers 0 .. 2"):
            class_number(text, classes, "--label")
