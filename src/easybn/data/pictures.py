"""One image file as 8-bit pixels, as a viewer shows it: upright, and on white where it is transparent."""

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .split import DataError

SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
# what a file from elsewhere may be decoded by
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "PPM", "TIFF", "GIF", "AVIF")
# a small file can announce a huge picture: decoding takes some 12 bytes per pixel, and 20 where it is transparent or of
# 16 bits, so that these limits keep it below half a GB
_MOST_PIXELS = 2**25  # 5,792 x 5,792
_PLAIN = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
_MOST_RESIZED = 2**24  # of a long strip as wide as the result, of which the middle is kept

# what was done to pictures besides reading them; a Counter has the number of pictures for each
TRANSPARENT = "transparent pictures put on white"
TURNED = "pictures turned or mirrored as their EXIF orientation says"
DEEP = "pictures of 16 bits per channel reduced to their upper 8"
FRAMES = "pictures of several frames or pages, of which the first is taken"
CMYK = "CMYK pictures converted to RGB without their colour profile"

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_picture(
    data: bytes, name: str, channels: int, resize: int | None = None, changes: Counter[str] | None = None
) -> NDArray[np.uint8]:
    """The image in ``data``, as uint8 of shape (channels, H, W).

    It is turned upright by its EXIF orientation, and what is transparent is put on white. Of 16 bits per channel the
    upper 8 are kept. Of an animation or a file of several pages the first is taken.

    Args:
        data: the content of a file.
        name: what an error calls it.
        channels: 3: as RGB, grey repeated; 1: as grey, by the luma of ITU-R 601.
        resize: None, or the height and width of the result: the shorter side is brought to that length
            (bilinear, antialiased), and the middle of the longer one kept.
        changes: counts what was done: ``TRANSPARENT``, ``TURNED``, ``DEEP``, ``FRAMES``, ``CMYK``.

    Raises:
        DataError: no image, a damaged one, one of floating-point or 32-bit pixels, or of too many pixels.
    """
    done: Counter[str] = Counter()
    with _opened(io.BytesIO(data), name) as image:
        pixels = np.asarray(_fit(_converted(image, name, "RGB" if channels == 3 else "L", done), resize, name))
    if changes is not None:
        changes.update(done)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def picture_size(file: IO[bytes], name: str) -> tuple[int, int]:
    """(width, height) of the image in ``file`` once it is upright, mostly from its first bytes.

    Raises:
        DataError: no image, or one of too many pixels.
    """
    with _opened(file, name) as image:
        width, height = image.size
        if image.format == "TIFF":  # some versions of Pillow have turned the size already
            width, height = (getattr(image, "tag_v2")[tag] for tag in (256, 257))  # noqa: B009
        # a PNG would be decoded completely to look for an orientation after its pixels
        turned = (image.format != "PNG" or "exif" in image.info) and _orientation(image) >= 5
    return (height, width) if turned else (width, height)


@contextmanager
def _opened(file: IO[bytes], name: str) -> Iterator[Image.Image]:
    try:
        # Pillow warns of oddities in what surrounds the pixels, such as a damaged EXIF block
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            plain = image.mode in _PLAIN and "transparency" not in image.info
            most = _MOST_PIXELS if plain else _MOST_PIXELS // 2
            if width * height > most:
                raise DataError(f"{name}: has {width} x {height} pixels, more than {most}: make it smaller")
            yield image
    except DataError:
        raise
    except Exception as error:  # a damaged image raises almost anything
        raise DataError(f"{name}: is no readable image ({_reason(error)}): replace or remove it") from None


def _converted(image: Image.Image, name: str, mode: str, changes: Counter[str]) -> Image.Image:
    """The picture in ``mode``, RGB or L, upright and opaque."""
    deep = _is_deep(image)
    _scale_transparency(image)
    changes[FRAMES] += image.format != "MPO" and bool(getattr(image, "is_animated", False))
    changes[TURNED] += _orientation(image) in _UPRIGHT
    image.load()
    turn = _orientation(image)  # a TIFF is upright once it is loaded, and says so
    if image.mode.startswith("I") and deep:
        image = _upper_bits(image, changes)
    elif image.mode == "F" or image.mode.startswith("I"):
        kind = "floating-point pixels" if image.mode == "F" else f"pixels of neither 8 nor 16 bits (mode {image.mode})"
        raise DataError(f"{name}: has {kind}: convert it to 8 bits")
    elif deep and image.mode == "RGB" and "transparency" in image.info:
        raise DataError(f"{name}: has 16 bits per channel and a transparent colour: convert it to 8 bits")
    changes[DEEP] += deep
    changes[CMYK] += image.mode == "CMYK"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            changes[TRANSPARENT] += 1
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if turn in _UPRIGHT:
        image = image.transpose(_UPRIGHT[turn])
    return image if image.mode == mode else image.convert(mode)


def _arguments(image: Image.Image) -> Any:
    """How the file's bytes become pixels, before they are loaded."""
    tiles: Any = getattr(image, "tile", None)
    return tiles[0][3] if tiles else None


def _is_deep(image: Image.Image) -> bool:
    """Whether a channel has 16 bits; asked before the pixels are loaded."""
    arguments = _arguments(image)
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2").get(258, (1,))) == 16 and image.mode != "F"  # noqa: B009
    if image.format == "PPM":  # unless its raw bytes can be copied, the decoder's arguments hold the largest value
        largest = arguments[-1] if isinstance(arguments, tuple) else 0
        return image.mode == "I" or (isinstance(largest, int) and largest > 255)
    return image.format == "PNG" and str(arguments).endswith("16B")


def _scale_transparency(image: Image.Image) -> None:
    """Of a PNG of 1, 2 or 4 bits grey: Pillow scales the pixels to 8 bits, but not the value that is transparent."""
    clear: Any = image.info.get("transparency")
    factor = {"1": 255, "L;2": 85, "L;4": 17}.get(str(_arguments(image))) if image.format == "PNG" else None
    if factor is not None and isinstance(clear, int) and clear * factor <= 255:
        image.info["transparency"] = clear * factor


def _upper_bits(image: Image.Image, changes: Counter[str]) -> Image.Image:
    """A grey picture of 16 bits as one of 8."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0:  # signed pixels have no agreed black
        raise ValueError("its pixels are signed")
    if getattr(image, "tag_v2", {}).get(262) == 0:  # of a TIFF: zero is white
        values = 65535 - values
    if isinstance(clear := image.info.get("transparency"), int) and (values == clear).any():
        changes[TRANSPARENT] += 1
        values[values == clear] = 65535
    return Image.fromarray((values >> 8).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """1 .. 8 by EXIF; 1, which is upright, where it is not said or cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block: the pixels may still be good
        return 1


def _fit(image: Image.Image, size: int | None, name: str) -> Image.Image:
    if size is None:
        return image
    width, height = image.size
    shorter = min(width, height)
    longer = max(width, height)
    width, height = size * width // shorter, size * height // shorter
    if width * height > _MOST_RESIZED:
        raise DataError(
            f"{name}: is {longer:,} pixels long and {shorter:,} wide, too long a strip to be resized to {size}: cut it"
        )
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def _reason(error: Exception) -> str:
    # Pillow would print the address of the buffer; a KeyError is of a decoder that this build of Pillow lacks
    return "of no known format" if isinstance(error, (UnidentifiedImageError, KeyError)) else str(error)
