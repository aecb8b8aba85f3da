"""Crops and flips, against a loop over images."""

import pytest
import torch
from torch import Tensor

from easybn.data.augment import AUGMENTATIONS, crop_flip
from easybn.keyed_random import Noise

IDS = torch.tensor([5, 900, 17, 3, 42, 8, 77])


def images(n: int, channels: int = 3, height: int = 9, width: int = 7) -> Tensor:
    # no zero, so that padding can be told from image
    generator = torch.Generator().manual_seed(n)
    return torch.randint(1, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)


def candidates(image: Tensor) -> dict[tuple[int, int, bool], Tensor]:
    """All 9 x 9 x 2 crops of one image, pixel by pixel."""
    height, width = image.shape[1:]
    found = {}
    for top in range(-4, 5):
        for left in range(-4, 5):
            out = torch.zeros_like(image)
            for y in range(height):
                for x in range(width):
                    if 0 <= y + top < height and 0 <= x + left < width:
                        out[:, y, x] = image[:, y + top, x + left]
            found[top, left, False] = out
            found[top, left, True] = out[:, :, list(range(width - 1, -1, -1))]
    return found


def which(image: Tensor, out: Tensor) -> tuple[int, int, bool]:
    """The one crop of ``image`` that ``out`` is."""
    (only,) = [name for name, crop in candidates(image).items() if torch.equal(crop, out)]
    return only


@pytest.mark.parametrize("channels", [1, 3])
def test_every_result_is_exactly_one_crop_of_its_own_image(channels: int) -> None:
    x = images(7, channels)
    out = crop_flip(x, Noise.of(0, "augment", IDS, 11))
    assert out.dtype == torch.uint8
    crops = [which(before, after) for before, after in zip(x, out, strict=True)]
    assert len(set(crops)) > 3


def test_the_result_does_not_depend_on_the_batch() -> None:
    x = images(7)
    whole = crop_flip(x, Noise.of(0, "augment", IDS, 11))
    for rows in ([2], [6, 0, 3], [5, 4, 3, 2, 1, 0]):
        assert torch.equal(crop_flip(x[rows], Noise.of(0, "augment", IDS[rows], 11)), whole[rows])


def test_floats_and_bytes_are_cropped_alike() -> None:
    x, noise = images(7), Noise.of(0, "augment", IDS, 11)
    assert torch.equal(crop_flip(x.float() / 255, noise), crop_flip(x, noise).float() / 255)
    turned = x.to(memory_format=torch.channels_last)
    assert torch.equal(crop_flip(turned, noise), crop_flip(x, noise))


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 12}, {"purpose": "else"}])
def test_another_seed_step_or_purpose_is_another_crop(other: dict[str, object]) -> None:
    x, name = images(7), {"seed": 0, "purpose": "augment", "ids": IDS, "step": 11}
    first = crop_flip(x, Noise.of(**name))  # type: ignore[arg-type]
    assert not torch.equal(first, crop_flip(x, Noise.of(**{**name, **other})))  # type: ignore[arg-type]
    assert torch.equal(first, crop_flip(x, Noise.of(**name)))  # type: ignore[arg-type]


def test_all_crops_are_equally_likely() -> None:
    x = images(1, 1)
    n = 162 * 100
    out = crop_flip(x.expand(n, -1, -1, -1), Noise.of(0, "augment", torch.arange(n)))
    kinds, count = torch.unique(out.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 162
    # chi-squared with 161 degrees of freedom: 161 on average, standard deviation 17.9
    assert ((count - 100.0) ** 2 / 100).sum() < 161 + 5 * 17.9


def test_none_is_the_batch_itself() -> None:
    x = images(7)
    assert AUGMENTATIONS["none"](x, Noise.of(0, "augment", IDS)) is x


def test_the_noise_must_be_of_these_images() -> None:
    with pytest.raises(ValueError, match="7 images and 3 streams"):
        crop_flip(images(7), Noise.of(0, "augment", IDS[:3]))
