"""One image file as 8-bit pixels."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import DataError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")  # the decoders that a stranger's file may reach
_MOST_PIXELS = 2**26  # 8192 x 8192; a small file can announce, and then need the memory of, far more


def decode_picture(data: bytes, name: str, channels: int, resize: int | None = None) -> NDArray[np.uint8]:
    """The image in ``data``, as uint8 of shape (channels, H, W).

    Args:
        data: the content of a file.
        name: what an error calls it.
        channels: 3: as RGB, grey repeated; 1: as grey, by the luma of ITU-R 601. Transparency is dropped.
        resize: None, or the height and width of the result: the shorter side is brought to that length
            (bilinear, antialiased), and the middle of the longer one kept.

    Raises:
        DataError: no image, a damaged one, one of more than 8 bits a channel or of too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > _MOST_PIXELS:
                raise DataError(f"{name}: has {width} x {height} pixels, more than {_MOST_PIXELS}: make it smaller")
            if image.mode in ("I", "F") or image.mode.startswith("I;"):
                raise DataError(f"{name}: has more than 8 bits a pixel (mode {image.mode}): convert it to 8 bits")
            pixels = np.asarray(_fit(_converted(image, "RGB" if channels == 3 else "L"), resize))
    except DataError:
        raise
    except Exception as error:  # a damaged image raises almost anything
        raise DataError(f"{name}: is no readable image ({_reason(error)}): replace or remove it") from None
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # as Pillow wants it: a palette may give transparency as bytes
    return image if image.mode == mode else image.convert(mode)


def _fit(image: Image.Image, size: int | None) -> Image.Image:
    if size is None:
        return image
    width, height = image.size
    shorter = min(width, height)
    width, height = size * width // shorter, size * height // shorter
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def _reason(error: Exception) -> str:
    # Pillow would print the address of the buffer
    return "of no known format" if type(error).__name__ == "UnidentifiedImageError" else str(error)
