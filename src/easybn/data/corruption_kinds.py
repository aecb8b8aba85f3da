"""What each of the 15 common corruptions does to images, given its constants; :mod:`.corruptions` has these.

Written from the definitions of Hendrycks and Dietterich ("Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations", ICLR 2019, arXiv:1903.12261) and of what their code calls: ImageMagick's motion blur, OpenCV's
affine map, scikit-image's filters. Every function takes images (N, C, H, W) in [0, 1], whole multiples of 1 / 255, and
one stream of random numbers per image, and gives images that need not lie in [0, 1]. An image's result does not depend
on the others of the batch, to the bit: nothing is summed in an order that the shape of the batch decides.
"""

import io
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..keyed_random import Noise

Floats = NDArray[np.float64]


def eight_bits(x: Floats) -> NDArray[np.uint8]:
    """Clipped and truncated, as the published files; 1e-6 of a level keeps k / 255 at k, whatever was rounded."""
    return np.floor(x.clip(0, 1) * 255 + 1e-6).astype(np.uint8)


def _uniform(noise: Noise, *shape: int) -> Floats:
    return noise.uniform(*shape).numpy().astype(np.float64)


def _normal(noise: Noise, *shape: int) -> Floats:
    """By the inverse of the distribution in float64: torch's logarithm may round differently at the end of a batch."""
    from scipy.special import ndtri

    return ndtri(_uniform(noise, *shape) + 2.0**-25)


# Noise: of every channel by itself.


def gaussian_noise(x: Floats, noise: Noise, std: float) -> Floats:
    """Normal noise is added."""
    return x + std * _normal(noise, *x.shape[1:])


def shot_noise(x: Floats, noise: Noise, photons: float) -> Floats:
    """A Poisson number of photons with mean x * photons, over photons; by the inverse of its distribution."""
    level, table = np.rint(x * 255), _poisson(photons)
    count = table.ravel().searchsorted((level + _uniform(noise, *x.shape[1:])).ravel(), side="right")
    return (count.reshape(x.shape) - table.shape[1] * level).clip(0, table.shape[1]) / photons


@cache
def _poisson(photons: float) -> Floats:
    """(256, n), ascending as a whole: row k has k + the chance of at most 0, 1, ... photons at level k of 255."""
    from scipy.special import pdtr

    levels = np.arange(256)[:, None]
    return levels + pdtr(np.arange(int(photons + 8 * math.sqrt(photons) + 8)), levels / 255 * photons).clip(0, 1)


def impulse_noise(x: Floats, noise: Noise, share: float) -> Floats:
    """A share of all values becomes 0 or 1, as often the one as the other."""
    drawn = _uniform(noise, *x.shape[1:])
    return np.where(drawn < share / 2, 0.0, np.where(drawn < share, 1.0, x))


# Blurs.


def defocus_blur(x: Floats, noise: Noise, radius: float, smoothing: float) -> Floats:
    """The mean over a disc of so many pixels, whose edge is smoothed by a Gaussian."""
    kernel = defocus_kernel(radius, smoothing)
    reach = len(kernel) // 2
    padded, out = _padded(x, reach, "reflect"), np.zeros_like(x)
    for row, column in zip(*kernel.nonzero(), strict=True):
        out += kernel[row, column] * _window(padded, x.shape, row, column)
    return out


def defocus_kernel(radius: float, smoothing: float) -> Floats:
    """(2k + 1, 2k + 1), adding up to 1: pixels within ``radius``, convolved with a Gaussian of 3 or 5 taps.

    (That of the published code adds up to a little more than 1 for radii 8 and 10, where it is cut at the disc's edge.)
    """
    taps = 1 if radius <= 8 else 2
    reach = int(radius) + taps
    offsets = np.arange(-reach, reach + 1)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    line = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * smoothing**2))
    for axis in (0, 1):
        disc = sum(weight * np.roll(disc, shift - taps, axis) for shift, weight in enumerate(line))
    return disc / disc.sum()


def glass_blur(x: Floats, noise: Noise, sigma: float, reach: int, rounds: int) -> Floats:
    """Pixel after pixel takes the colour of a neighbour, between two Gaussian blurs.

    From the lower right to the upper left, a pixel takes the present colour of the one -reach .. reach - 1 rows and
    columns away. (The published code means to exchange both, and overwrites the first before it reads it.)
    """
    from scipy.ndimage import gaussian_filter

    count, channels, height, width = x.shape
    x = eight_bits(gaussian_filter(x, sigma, mode="nearest", axes=(2, 3))) / 255
    source = np.repeat(np.arange(height * width)[:, None], count, 1)  # of each pixel, where its colour is from
    images = np.arange(count)
    for number in range(rounds):
        moves = noise.numbered(number).integers(2 * reach, height, width, 2).numpy() - reach
        taken = np.arange(height)[:, None] + moves[..., 0], np.arange(width) + moves[..., 1]
        neighbour = (taken[0] * width + taken[1]).reshape(count, -1).T.copy()
        for row in range(height - reach, reach, -1):
            for pixel in range(row * width + width - reach, row * width + reach, -1):
                source[pixel] = source[neighbour[pixel], images]
    moved = np.take_along_axis(x.reshape(count, channels, -1), source.T[:, None], 2).reshape(x.shape)
    return gaussian_filter(moved, sigma, mode="nearest", axes=(2, 3))


def motion_blur(x: Floats, noise: Noise, radius: int, sigma: float) -> Floats:
    """A trail of Gaussian weights in a direction of -45 to 45 degrees."""
    return _trail(x, radius, sigma, _uniform(noise, 1)[:, 0] * 90 - 45)


def _trail(x: Floats, radius: int, sigma: float, degrees: Floats) -> Floats:
    """Each image blurred in its direction: 2 * radius + 1 taps with the weights of half a Gaussian; edges continue.

    The definition of ImageMagick's motion blur: tap t is the pixel at t steps, rounded.
    """
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    padded, out = _padded(x, len(taps), "edge"), np.zeros_like(x)
    for image, angle in enumerate(np.deg2rad(degrees).tolist()):
        sine, cosine = math.sin(angle), math.cos(angle)
        for tap in taps[weights > 1e-9].tolist():
            row, column = (len(taps) + math.ceil(tap * part - 0.5) for part in (sine, cosine))
            out[image] += weights[tap] * _window(padded[image], x.shape, row, column)
    return out


def zoom_blur(x: Floats, noise: Noise, step: float, zooms: int) -> Floats:
    """The mean of the image and of its centre enlarged by 1, 1 + step, 1 + 2 step, ..., so many of them."""
    total = x.copy()
    for number in range(zooms):
        total += _zoomed(x, 1 + number * step)
    return total / (zooms + 1)


def _zoomed(x: Floats, factor: float) -> Floats:
    """The centre of images (..., H, W), enlarged by linear interpolation to H x W."""
    for axis in (-2, -1):
        side = x.shape[axis]
        part = math.ceil(side / factor)
        grown = round(part * factor)
        # positions of the part's pixels that the middle of the enlarged part shows
        at = (np.arange(side) + (grown - side) // 2) * ((part - 1) / max(grown - 1, 1))
        low = np.minimum(at.astype(np.int64), max(part - 2, 0))
        share = (at - low).reshape((-1, 1) if axis == -2 else (-1,))
        first = low + (side - part) // 2
        x = x.take(first, axis) * (1 - share) + x.take(np.minimum(first + 1, side - 1), axis) * share
    return x


# Weather.


def snow(
    x: Floats, noise: Noise, mean: float, std: float, zoom: float, least: float, radius: int, sigma: float, rest: float
) -> Floats:
    """The image is whitened; enlarged normal noise above a threshold falls across it, blurred, and once upside down."""
    layer = _zoomed(mean + std * _normal(noise, *x.shape[2:]), zoom)
    layer = eight_bits(np.where(layer < least, 0.0, layer))[:, None] / 255
    degrees = _uniform(noise.child("direction"), 1)[:, 0] * 90 - 135
    flakes = np.rint(_trail(layer, radius, sigma, degrees) * 255) / 255
    grey = x if x.shape[1] == 1 else 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    whitened = rest * x + (1 - rest) * np.maximum(x, 1.5 * grey + 0.5)
    return whitened + flakes + flakes[:, :, ::-1, ::-1]


def frost(x: Floats, noise: Noise, kept: float, added: float) -> Floats:
    """The image and a texture of frost are added. The texture is drawn: the original's are crops of photographs.

    Ridges of rough plasma, bluish on colour images, about as bright and as rough at 32 x 32 pixels as those are.
    """
    plasma = _plasma(noise, max(x.shape[2:]), 1.25)[:, None, : x.shape[2], : x.shape[3]]
    texture = 0.3 + 0.45 * (1 - np.abs(2 * plasma - 1))
    tint = np.array([0.92, 1.0, 1.04] if x.shape[1] == 3 else [1.0])
    return kept * x + added * texture * tint[:, None, None]


def fog(x: Floats, noise: Noise, density: float, decay: float) -> Floats:
    """Plasma is added, and the sum scaled back to the image's maximum."""
    plasma = _plasma(noise, max(x.shape[2:]), decay)[:, None, : x.shape[2], : x.shape[3]]
    most = x.max((1, 2, 3), keepdims=True)
    return (x + density * plasma) * most / (most + density)


def _plasma(noise: Noise, side: int, decay: float) -> Floats:
    """(N, M, M) heights that span [0, 1], M the power of two from ``side`` on: a plasma fractal on a torus.

    Diamond-square (Fournier, Fussell & Carpenter, 1982): the middle of each square of known heights, then of each
    diamond, is the mean of its four corners and a uniform number. That of the next finer grid is smaller by decay^2.
    """
    size, level, spread = 1 << (side - 1).bit_length(), 0, 1.0
    heights = np.zeros((len(noise.keys), size, size))

    def middle(corners: Floats, number: int) -> Floats:
        drawn = _uniform(noise.numbered(3 * level + number), *corners.shape[1:])
        return corners / 4 + spread * (2 * drawn - 1)

    for step in (size >> i for i in range(size.bit_length() - 1)):
        half = step // 2
        known = heights[:, ::step, ::step]
        rows, columns = known + np.roll(known, -1, 1), known + np.roll(known, -1, 2)
        heights[:, half::step, half::step] = centres = middle(rows + np.roll(rows, -1, 2), 0)
        heights[:, ::step, half::step] = middle(columns + centres + np.roll(centres, 1, 1), 1)
        heights[:, half::step, ::step] = middle(rows + centres + np.roll(centres, 1, 2), 2)
        level, spread = level + 1, spread / decay**2
    heights -= heights.min((1, 2), keepdims=True)
    return heights / heights.max((1, 2), keepdims=True)


def brightness(x: Floats, noise: Noise, more: float) -> Floats:
    """The value of HSV, the largest channel, is raised: hue and saturation stay, so that the others grow with it."""
    value = x.max(1, keepdims=True)
    raised = np.minimum(value + more, 1)
    return np.where(value > 0, x / np.where(value > 0, value, 1) * raised, raised)


# Digital.


def contrast(x: Floats, noise: Noise, factor: float) -> Floats:
    """The differences from the mean of each channel shrink."""
    # a sum of whole numbers has no rounding, so that its order does not matter
    mean = np.rint(x * 255).sum((2, 3), keepdims=True) / (255 * x.shape[2] * x.shape[3])
    return (x - mean) * factor + mean


def elastic_transform(x: Floats, noise: Noise, most: float, sigma: float, corner: float) -> Floats:
    """An affine map that moves three points by up to ``corner``, then a smooth random displacement of up to ``most``.

    All three are in shorter sides of the image; sigma is that of the Gaussian that smooths the displacement.
    """
    from scipy.ndimage import gaussian_filter

    count, _, height, width = x.shape
    side = min(height, width)
    centre, third = np.array([height // 2, width // 2]), side // 3
    points = centre + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = points + corner * side * (2 * _uniform(noise.child("affine"), 3, 2) - 1)
    back = np.linalg.solve(np.concatenate((moved, np.ones((count, 3, 1))), 2), np.repeat(points[None], count, 0) + 0.0)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    affine = [
        back[:, 0, i, None, None] * rows + back[:, 1, i, None, None] * columns + back[:, 2, i, None, None]
        for i in (0, 1)
    ]
    x = _sampled(x, affine[0], affine[1], mirror=1)
    moves = 2 * _uniform(noise, 2, height, width) - 1
    moves = most * side * gaussian_filter(moves, sigma * side, mode="reflect", truncate=3, axes=(2, 3))
    return _sampled(x, rows + moves[:, 0], columns + moves[:, 1], mirror=0)


def _sampled(x: Floats, rows: Floats, columns: Floats, mirror: int) -> Floats:
    """(N, C, H, W) images at the positions (N, H, W), by bilinear interpolation.

    Beyond its edges an image is reflected, at the edge (``mirror`` 0) or at the middle of its last pixel (1).
    """
    count, channels, height, width = x.shape
    flat, out = x.reshape(count, channels, -1), np.zeros(x.shape)
    top, left = np.floor(rows), np.floor(columns)
    down, right = rows - top, columns - left

    def folded(pixel: Floats, side: int) -> NDArray[np.int64]:
        period = 2 * (side - mirror)
        index = pixel.astype(np.int64) % period
        return np.where(index < side, index, period - 1 + mirror - index)

    for below in (0, 1):
        for beside in (0, 1):
            at = folded(top + below, height) * width + folded(left + beside, width)
            weight = (down if below else 1 - down) * (right if beside else 1 - right)
            out += weight[:, None] * np.take_along_axis(flat, at.reshape(count, 1, -1), 2).reshape(x.shape)
    return out


def pixelate(x: Floats, noise: Noise, share: float) -> Floats:
    """Fewer pixels, each the mean of a box, and back to the size by the same filter."""

    def fewer(picture: Image.Image) -> Image.Image:
        size = picture.size
        smaller = int(size[0] * share), int(size[1] * share)
        return picture.resize(smaller, Image.Resampling.BOX).resize(size, Image.Resampling.BOX)

    return _by_pictures(x, fewer)


def jpeg_compression(x: Floats, noise: Noise, quality: int) -> Floats:
    """Written as JPEG and read again."""

    def written(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _by_pictures(x, written)


def _by_pictures(x: Floats, change: Callable[[Image.Image], Image.Image]) -> Floats:
    """``change`` every image as a PIL picture of 8 bits."""
    pixels = np.rint(x * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    pixels = pixels[..., 0] if x.shape[1] == 1 else pixels
    changed = np.stack([np.asarray(change(Image.fromarray(each))) for each in pixels])
    return changed.reshape(len(x), *x.shape[2:], x.shape[1]).transpose(0, 3, 1, 2) / 255


def _padded(x: Floats, reach: int, mode: Any) -> Floats:
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(reach, reach)] * 2, mode)


def _window(padded: Floats, shape: tuple[int, ...], row: int, column: int) -> Floats:
    return padded[..., row : row + shape[-2], column : column + shape[-1]]
