"""Each corruption against its closed form, a slow version that is obviously right, or the library that defines it."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.special import pdtr

from easybn.data import corruption_kinds as kinds
from easybn.data.corruptions import CORRUPTIONS
from easybn.keyed_random import Noise


def noise_of(count: int) -> Noise:
    return Noise.of(0, "test", torch.arange(count))


def images(count: int, channels: int = 3, height: int = 32, width: int = 32) -> np.ndarray:
    """Smooth and busy places, and 8 bits."""
    drawn = np.random.default_rng(count).uniform(size=(count, channels, height, width))
    smooth = ndimage.gaussian_filter(drawn, 2, axes=(2, 3))
    mixed = np.where(np.arange(width) < width // 2, (smooth - 0.5) * 4 + 0.5, drawn)
    return np.floor(mixed.clip(0, 1) * 255) / 255


def constants(kind: str) -> list[tuple]:
    """Of every severity, of small and of large images."""
    both = [*CORRUPTIONS[kind].small, *CORRUPTIONS[kind].large]
    return [each if isinstance(each, tuple) else (each,) for each in both]


def test_gaussian_noise_has_its_mean_and_variance():
    x = images(40)
    for (std,) in constants("gaussian_noise"):
        added = (kinds.gaussian_noise(x, noise_of(40), std) - x) / std
        n = added.size
        assert abs(added.mean()) < 4 / math.sqrt(n)
        assert abs(added.var() - 1) < 4 * math.sqrt(2 / n)
        assert abs((added**4).mean() - 3) < 4 * math.sqrt(96 / n)  # the variance of z^4 is 96


def test_shot_noise_has_the_moments_and_the_shares_of_poisson():
    for (photons,) in constants("shot_noise"):
        for level in (0, 3, 40, 255):
            x = np.full((30, 1, 32, 32), level / 255)
            counts = kinds.shot_noise(x, noise_of(30), photons) * photons
            mean, n = level / 255 * photons, counts.size
            np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
            assert abs(counts.mean() - mean) <= 4 * math.sqrt(mean / n)
            assert abs(counts.var() - mean) <= 4 * math.sqrt((mean + 2 * mean**2) / n)
            below = pdtr(math.floor(mean), mean)  # chance of at most the mean
            assert abs((counts < math.floor(mean) + 0.5).mean() - below) <= 4 * math.sqrt(below * (1 - below) / n)


def test_impulse_noise_changes_its_share_half_to_black_and_half_to_white():
    x = np.full((40, 3, 32, 32), 0.5)
    for (share,) in constants("impulse_noise"):
        y = kinds.impulse_noise(x, noise_of(40), share)
        for value in (0.0, 1.0):
            expected, n = share / 2, x.size
            assert abs((y == value).mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
        assert set(np.unique(y)) == {0.0, 0.5, 1.0}


@pytest.mark.parametrize(("radius", "smoothing"), constants("defocus_blur"))
def test_the_kernel_of_defocus_is_a_disc_with_a_smooth_edge(radius, smoothing):
    kernel, taps = kinds.defocus_kernel(radius, smoothing), 1 if radius <= 8 else 2
    reach = len(kernel) // 2
    slow = np.zeros_like(kernel)
    for row in range(-reach, reach + 1):
        for column in range(-reach, reach + 1):
            for down in range(-taps, taps + 1):
                for right in range(-taps, taps + 1):
                    if (row + down) ** 2 + (column + right) ** 2 <= radius**2:
                        slow[row + reach, column + reach] += math.exp(-(down**2 + right**2) / (2 * smoothing**2))
    np.testing.assert_allclose(kernel, slow / slow.sum(), rtol=1e-12, atol=0)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("radius", "smoothing"), [(0.5, 0.6), (1.5, 0.1), (3, 0.1)])
def test_defocus_is_the_correlation_with_its_kernel(radius, smoothing):
    x = images(2, height=24, width=40)
    expected = ndimage.correlate(x, kinds.defocus_kernel(radius, smoothing)[None, None], mode="mirror")
    np.testing.assert_allclose(kinds.defocus_blur(x, noise_of(2), radius, smoothing), expected, atol=1e-12)


@pytest.mark.parametrize(("sigma", "reach", "rounds"), [(0.05, 1, 1), (0.4, 1, 2), (0.9, 2, 1), (1.1, 3, 2)])
def test_glass_moves_pixels_one_after_the_other(sigma, reach, rounds):
    x, noise, height, width = images(3, height=18, width=22), noise_of(3), 18, 22
    result = kinds.glass_blur(x, noise, sigma, reach, rounds)
    for number, image in enumerate(x):
        image = np.stack([ndimage.gaussian_filter(channel, sigma, mode="nearest") for channel in image])
        image = np.floor(image * 255 + 1e-6) / 255
        for again in range(rounds):
            moves = noise.numbered(again).integers(2 * reach, height, width, 2)[number].numpy() - reach
            for row in range(height - reach, reach, -1):
                for column in range(width - reach, reach, -1):
                    down, right = moves[row, column]
                    image[:, row, column] = image[:, row + down, column + right]
        image = np.stack([ndimage.gaussian_filter(channel, sigma, mode="nearest") for channel in image])
        np.testing.assert_allclose(result[number], image, atol=1e-12)


def test_the_trail_of_motion_is_half_a_gaussian_along_its_direction():
    x = np.zeros((5, 1, 41, 41))
    x[:, :, 20, 20] = 1
    degrees, radius, sigma = np.array([0.0, 45.0, -45.0, 30.0, -100.0]), 8, 2.5
    blurred = kinds._trail(x, radius, sigma, degrees)
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    for image, angle in zip(blurred[:, 0], np.deg2rad(degrees), strict=True):
        slow = np.zeros((41, 41))
        for tap, weight in enumerate(weights):  # the pixel that has the white one at this tap
            slow[20 - math.ceil(tap * math.sin(angle) - 0.5), 20 - math.ceil(tap * math.cos(angle) - 0.5)] += weight
        np.testing.assert_allclose(image, slow, atol=1e-7)
    # at the edge it continues: along the row from the last pixel nothing changes
    edge = np.linspace(0, 1, 12) * np.ones((1, 1, 12, 1))
    slow = [sum(w * edge[0, 0, 0, min(i + t, 11)] for t, w in enumerate(weights)) for i in range(12)]
    np.testing.assert_allclose(kinds._trail(edge, radius, sigma, np.zeros(1))[0, 0, 5], slow, atol=1e-7)


def test_motion_goes_up_to_45_degrees_either_way():
    x = np.zeros((60, 1, 33, 33))
    x[:, :, 16, 16] = 1
    y = kinds.motion_blur(x, noise_of(60), 6, 2)[:, 0]
    rows, columns = np.arange(33)[:, None] - 16, np.arange(33) - 16
    down, left = (y * rows).sum((1, 2)), -(y * columns).sum((1, 2))
    angle = np.rad2deg(np.arctan2(down, left))
    assert (np.abs(angle) < 50).all()
    assert angle.min() < -30
    assert angle.max() > 30


@pytest.mark.parametrize(("step", "zooms"), constants("zoom_blur"))
def test_zoom_blur_is_the_mean_of_enlarged_centres(step, zooms):
    side = 32 if step == 0.01 else 60
    x = images(1, height=side, width=side)
    total = x[0].copy()
    for number in range(zooms):
        factor = 1 + number * step
        part = math.ceil(side / factor)
        top = (side - part) // 2
        large = ndimage.zoom(x[0][:, top : top + part, top : top + part], (1, factor, factor), order=1)
        cut = (large.shape[1] - side) // 2
        total += large[:, cut : cut + side, cut : cut + side]
    np.testing.assert_allclose(kinds.zoom_blur(x, noise_of(1), step, zooms)[0], total / (zooms + 1), atol=1e-12)


def test_snow_whitens_and_falls_the_same_upside_down():
    x = np.full((6, 3, 32, 32), 0.25)
    x[:, 0], x[:, 1] = 0.75, 0.5
    for each in constants("snow"):
        rest = each[-1]
        y = kinds.snow(x, noise_of(6), *each)
        grey = 0.299 * 0.75 + 0.587 * 0.5 + 0.114 * 0.25
        whitened = rest * x + (1 - rest) * np.maximum(x, 1.5 * grey + 0.5)
        flakes = y - whitened
        assert flakes.min() > -1e-12
        assert flakes.max() > 0.05
        np.testing.assert_allclose(flakes, flakes[:, :, ::-1, ::-1], atol=1e-12)
        np.testing.assert_allclose(flakes[:, 0], flakes[:, 2], atol=1e-12)  # white
        levels = flakes * 255
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-9)
    sparse = kinds.snow(x, noise_of(6), *CORRUPTIONS["snow"].small[0]) - 1
    assert np.ptp(sparse) > 0


def test_snow_lies_where_the_noise_is_above_its_threshold():
    """Without a blur, in each pixel on its own: the share of pixels is the normal tail."""
    x, mean, std, least = np.zeros((40, 1, 32, 32)), 0.1, 0.3, 0.5
    y = kinds.snow(x, noise_of(40), mean, std, 1, least, 1, 0.05, 1.0)
    flakes = y[:, 0]  # of the layer and its rotation
    tail = 0.5 * math.erfc((least - mean) / std / math.sqrt(2))
    either = 1 - (1 - tail) ** 2
    assert abs((flakes > 0).mean() - either) < 5 * math.sqrt(either / (flakes.size / 2))


def test_frost_adds_a_texture_that_is_the_same_for_every_image():
    x, black = images(5), np.zeros((5, 3, 32, 32))
    for kept, added in constants("frost"):
        texture = kinds.frost(black, noise_of(5), kept, added)
        np.testing.assert_allclose(kinds.frost(x, noise_of(5), kept, added), kept * x + texture, atol=1e-12)
        assert texture.min() >= 0.3 * 0.92 * added - 1e-12
        assert texture.max() <= 0.75 * 1.04 * added + 1e-12
        assert texture.std((2, 3)).min() > 0.03 * added
    assert np.abs(texture[0] - texture[1]).mean() > 0.01


def slow_plasma(uniforms, size: int, decay: float) -> np.ndarray:
    """Diamond-square on a torus, point by point; ``uniforms(level, number, count)`` are its random numbers."""
    heights, spread, level, step = np.zeros((size, size)), 1.0, 0, size
    while step >= 2:
        half = step // 2
        for number, (row0, column0) in enumerate(((half, half), (0, half), (half, 0))):
            drawn = uniforms(level, number, size // step)
            # a square's corners are diagonal neighbours, a diamond's are straight ones
            around = [(-1, -1), (-1, 1), (1, -1), (1, 1)] if number == 0 else [(-1, 0), (1, 0), (0, -1), (0, 1)]
            for i in range(size // step):
                for j in range(size // step):
                    row, column = row0 + i * step, column0 + j * step
                    mean = sum(heights[(row + a * half) % size, (column + b * half) % size] for a, b in around) / 4
                    heights[row, column] = mean + spread * (2 * drawn[i, j] - 1)
        spread, level, step = spread / decay**2, level + 1, half
    heights -= heights.min()
    return heights / heights.max()


def test_plasma_is_made_by_diamond_square():
    noise = noise_of(2)
    plasma = kinds._plasma(noise, 28, 1.75)
    assert plasma.shape == (2, 32, 32)
    for number in (0, 1):
        expected = slow_plasma(
            lambda level, which, n, number=number: noise.numbered(3 * level + which).uniform(n, n)[number].numpy(),
            32,
            1.75,
        )
        np.testing.assert_allclose(plasma[number], expected, atol=1e-6)
    assert (plasma.min((1, 2)) == 0).all()
    assert (plasma.max((1, 2)) == 1).all()


def test_fog_adds_plasma_and_keeps_the_maximum_of_the_image():
    x = images(3, height=28, width=28)
    for density, decay in constants("fog"):
        plasma = kinds._plasma(noise_of(3), 28, decay)[:, None, :28, :28]
        most = x.max((1, 2, 3))[:, None, None, None]
        expected = (x + density * plasma) / (1 + density / most)
        np.testing.assert_allclose(kinds.fog(x, noise_of(3), density, decay), expected, atol=1e-12)


def test_brightness_raises_the_value_of_hsv():
    x = images(2, height=8, width=8)
    x[0, :, 0, 0] = 0.0
    for (more,) in constants("brightness"):
        y = kinds.brightness(x, noise_of(2), more)
        for image in range(2):
            for row in range(8):
                for column in range(8):
                    hue, saturation, value = colorsys.rgb_to_hsv(*x[image, :, row, column])
                    expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + more))
                    np.testing.assert_allclose(y[image, :, row, column], expected, atol=1e-12)


def test_brightness_of_grey_images_is_a_sum():
    x = images(2, channels=1)
    np.testing.assert_allclose(kinds.brightness(x, noise_of(2), 0.3), np.minimum(x + 0.3, 1), atol=1e-12)


def test_contrast_shrinks_towards_the_mean_of_each_channel():
    x = images(3)
    for (factor,) in constants("contrast"):
        mean = x.mean((2, 3), keepdims=True)
        np.testing.assert_allclose(kinds.contrast(x, noise_of(3), factor), factor * x + (1 - factor) * mean, atol=1e-12)


@pytest.mark.parametrize(("most", "sigma", "corner"), [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.1, 0.03, 0.03)])
def test_elastic_is_an_affine_map_and_then_a_displacement(most, sigma, corner):
    noise, height, width = noise_of(2), 24, 30
    x, side = images(2, height=height, width=width), 24
    result = kinds.elastic_transform(x, noise, most, sigma, corner)
    points = np.array([[20.0, 23.0], [4.0, 23.0], [4.0, 7.0]])  # a third of 24 from the centre (12, 15): row, column
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    for number in (0, 1):
        moved = points + corner * side * (2 * noise.child("affine").uniform(3, 2)[number].double().numpy() - 1)
        assert np.abs(moved - points).max() <= corner * side
        # every pixel in barycentric coordinates of the moved points, at the same ones of the points
        edges = (moved[1:] - moved[0]).T
        weights = np.linalg.solve(edges, (grid.reshape(2, -1) - moved[0][:, None]))
        source = points[0][:, None] + (points[1:] - points[0]).T @ weights
        turned = [ndimage.map_coordinates(channel, source, order=1, mode="mirror") for channel in x[number]]
        moves = 2 * noise.uniform(2, height, width)[number].double().numpy() - 1
        moves = [
            most * side * ndimage.gaussian_filter(each, sigma * side, mode="reflect", truncate=3) for each in moves
        ]
        assert np.abs(moves).max() <= most * side
        for channel, before in enumerate(turned):
            before = before.reshape(height, width)
            expected = ndimage.map_coordinates(before, grid + np.stack(moves), order=1, mode="reflect")
            np.testing.assert_allclose(result[number, channel], expected, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixelate_and_jpeg_are_those_of_pil(channels):
    x = images(3, channels=channels, height=28, width=36)

    def picture(image: np.ndarray) -> Image.Image:
        pixels = np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)
        return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)

    def pixels(picture: Image.Image) -> np.ndarray:
        return np.asarray(picture).reshape(28, 36, channels).transpose(2, 0, 1)

    for (share,) in constants("pixelate"):
        for image, result in zip(x, kinds.pixelate(x, noise_of(3), share), strict=True):
            small = picture(image).resize((int(36 * share), int(28 * share)), Image.Resampling.BOX)
            assert np.array_equal(np.rint(result * 255), pixels(small.resize((36, 28), Image.Resampling.BOX)))
    for (quality,) in constants("jpeg_compression"):
        for image, result in zip(x, kinds.jpeg_compression(x, noise_of(3), quality), strict=True):
            file = io.BytesIO()
            picture(image).save(file, "JPEG", quality=quality)
            assert np.array_equal(np.rint(result * 255), pixels(Image.open(file)))


def test_pixelate_by_a_half_has_means_of_squares():
    x = images(1)
    means = x.reshape(1, 3, 16, 2, 16, 2).mean((3, 5)).repeat(2, 2).repeat(2, 3)
    np.testing.assert_allclose(kinds.pixelate(x, noise_of(1), 0.5), means, atol=1.01 / 255)  # rounded twice
