"""What holds of every corruption: shapes, types, range, and that an image's does not depend on the others."""

import pytest
import torch
from torch import Tensor

from easybn import data
from easybn.data.corruptions import CORRUPTIONS, GROUPS, SEVERITIES, corrupt
from easybn.keyed_random import Noise

UNCHANGED_IF_CONSTANT = {
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate",
}  # fmt: skip
WITHOUT_NOISE = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
# In CIFAR-10-C a severity of these is stronger than the one before. Of the others one constant grows where another one
# shrinks or stays (blur and rounds of glass, radius of motion, weights of frost, corners of elastic), or the fewer
# pixels of pixelate beat against the 28 there are.
STRONGER = {*CORRUPTIONS} - {"glass_blur", "motion_blur", "frost", "elastic_transform", "pixelate"}


@pytest.fixture(scope="module")
def sample() -> Tensor:
    return data.load("sample").test.batch(torch.arange(24))[0]


def colours(n: int, height: int = 32, width: int = 32) -> Tensor:
    drawn = torch.rand(n, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(n))
    x = torch.nn.functional.interpolate(drawn, (height, width), mode="bilinear", align_corners=False)
    return (x * 255).round() / 255


def test_the_kinds_are_those_of_the_paper():
    assert [len([each for each in CORRUPTIONS.values() if each.group == group]) for group in GROUPS] == [3, 4, 4, 4]
    assert all(len(each.small) == len(each.large) == len(SEVERITIES) for each in CORRUPTIONS.values())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_shape_type_and_range_are_kept(kind, sample):
    grey, wide = sample[:3], colours(2, 24, 40).double()
    for severity in SEVERITIES:
        for x in (grey, colours(3), wide):
            y = corrupt(x, kind, severity)
            assert (y.shape, y.dtype) == (x.shape, x.dtype)
            assert 0 <= float(y.min()) <= float(y.max()) <= 1
            levels = y.double() * 255
            torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_large_images_take_other_constants(kind):
    each = CORRUPTIONS[kind]
    large, small = (
        constants if isinstance(constants, tuple) else (constants,) for constants in (each.large[3], each.small[3])
    )
    for shape, expected in (((96, 88), large), ((84, 200), small)):
        x = colours(1, *shape)
        noise = Noise.of(0, f"corruptions/{kind}", torch.arange(1), 4)
        made = each.make(x.double().mul(255).round().numpy() / 255, noise, *expected)
        torch.testing.assert_close(
            corrupt(x, kind, 4).double(), torch.from_numpy(made).clamp(0, 1), rtol=0, atol=1.01 / 255
        )


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_an_image_is_corrupted_to_the_bit_in_any_batch(kind):
    x, ids = colours(67), torch.arange(67) * 13 + 5
    whole = corrupt(x, kind, 3, seed=1, ids=ids)
    some = torch.tensor([66, 0, 31, 7])
    assert torch.equal(corrupt(x[some], kind, 3, seed=1, ids=ids[some]), whole[some])
    assert torch.equal(corrupt(x[40:41], kind, 3, seed=1, ids=ids[40:41]), whole[40:41])
    others = [corrupt(x, kind, 3, seed=2, ids=ids), corrupt(x, kind, 3, seed=1, ids=ids + 1)]
    assert all(torch.equal(each, whole) == (kind in WITHOUT_NOISE) for each in others)
    if kind not in WITHOUT_NOISE:  # the same image under two names
        twice = corrupt(x[:1].expand(2, -1, -1, -1), kind, 3, ids=torch.tensor([1, 2]))
        assert not torch.equal(twice[0], twice[1])


@pytest.mark.parametrize("kind", sorted(UNCHANGED_IF_CONSTANT))
def test_what_only_moves_or_mixes_pixels_leaves_a_constant_image(kind):
    for x in (torch.full((2, 3, 32, 32), 77 / 255), torch.full((1, 1, 100, 100), 200 / 255)):
        for severity in SEVERITIES:
            assert torch.equal(corrupt(x, kind, severity), x)


@pytest.mark.parametrize("kind", sorted(STRONGER))
def test_a_higher_severity_is_farther_from_the_image(kind, sample):
    distances = [float((corrupt(sample, kind, severity) - sample).square().mean()) for severity in SEVERITIES]
    assert distances == sorted(set(distances))
    assert distances[0] > 0


def test_images_are_rounded_to_eight_bits():
    x = colours(2)
    nudged = (x + 0.3 / 255).clamp(0, 1)
    for kind in ("shot_noise", "fog", "jpeg_compression"):
        assert torch.equal(corrupt(nudged, kind, 2), corrupt(x, kind, 2))


def test_mistakes_are_named():
    x = colours(1)
    with pytest.raises(ValueError, match="unknown corruption 'rain'; known: gaussian_noise, shot_noise"):
        corrupt(x, "rain", 1)
    with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, got 0"):
        corrupt(x, "fog", 0)
    with pytest.raises(ValueError, match=r"floating point in \[0, 1\], got torch.uint8"):
        corrupt(x.mul(255).byte(), "fog", 1)
    for shape, said in (((1, 2, 32, 32), "2 x 32 x 32"), ((1, 3, 7, 32), "3 x 7 x 32"), ((1, 64), "64")):
        with pytest.raises(ValueError, match=f"at least 8 x 8 pixels, got {said}$"):
            corrupt(torch.zeros(shape), "fog", 1)
