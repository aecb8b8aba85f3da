"""A picture's pixels are what a viewer shows: upright, on white where it is transparent, 8 bits."""

import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from easybn.data import DataError
from easybn.data.pictures import CMYK, DEEP, FRAMES, TRANSPARENT, TURNED, decode_picture, picture_size

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def content(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes, channels: int = 3) -> tuple[NDArray[np.uint8], dict[str, int]]:
    """The pixels as (H, W, channels), and what was done to them."""
    changes: Counter[str] = Counter()
    pixels = decode_picture(data, "picture", channels, changes=changes)
    return pixels.transpose(1, 2, 0), {change: count for change, count in changes.items() if count}


def on_white(colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    share = alpha[..., None].astype(float) / 255
    return share * colours + (1 - share) * 255


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_an_alpha_channel_is_put_on_white(kind: str, options: dict[str, object]) -> None:
    alpha = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
    alpha[:2] = 0
    pixels, changes = decoded(content(Image.fromarray(np.dstack([COLOURS, alpha])), kind, **options))
    assert np.abs(pixels - on_white(COLOURS, alpha)).max() <= 1
    assert (pixels[:2] == 255).all()
    assert changes == {TRANSPARENT: 1}


def test_grey_with_alpha_and_an_opaque_alpha() -> None:
    grey, alpha = COLOURS[..., 0], RNG.integers(0, 256, (6, 9), dtype=np.uint8)
    pixels, changes = decoded(content(Image.fromarray(np.dstack([grey, alpha])), "PNG"), channels=1)
    assert np.abs(pixels - on_white(grey[..., None], alpha)).max() <= 1
    assert changes == {TRANSPARENT: 1}
    opaque = np.dstack([COLOURS, np.full((6, 9), 255, np.uint8)])
    pixels, changes = decoded(content(Image.fromarray(opaque), "PNG"))
    assert np.array_equal(pixels, COLOURS)
    assert changes == {}


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(kind: str) -> None:
    image = Image.new("P", (2, 2))
    image.putdata([0, 1, 2, 0])
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    pixels, changes = decoded(content(image, kind, transparency=1))
    assert pixels.tolist() == [[[10, 20, 30], [255, 255, 255]], [[70, 80, 90], [10, 20, 30]]]
    assert changes == {TRANSPARENT: 1}


@pytest.mark.parametrize(
    ("values", "clear", "expected"),
    [
        (np.array([[7, 9]], np.uint8), 7, [[[255] * 3, [9] * 3]]),
        (np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), (4, 5, 6), [[[1, 2, 3], [255] * 3]]),
        (np.array([[700, 900]], np.uint16), 700, [[[255] * 3, [900 >> 8] * 3]]),
    ],
    ids=["grey", "colour", "16-bit grey"],
)
def test_a_transparent_colour_is_white(values: NDArray[np.uint8], clear: object, expected: list[object]) -> None:
    pixels, changes = decoded(content(Image.fromarray(values), "PNG", transparency=clear))
    assert pixels.tolist() == expected
    assert changes[TRANSPARENT] == 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey_of_any_depth_is_white(bits: int) -> None:
    """A PNG written by hand: black and the grey after it, of which either is transparent."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for clear in (0, 1):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)) + chunk(
            b"tRNS", struct.pack(">H", clear)
        )
        row = bytes([0, 0, 1]) if bits == 8 else bytes([0, 1 << (8 - 2 * bits)])
        pixels, _ = decoded(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b""))
        greys = [0, 255 // (2**bits - 1)]
        greys[clear] = 255
        assert pixels[0, :, 0].tolist() == greys


def test_every_orientation_is_turned_upright() -> None:
    """The file holds the picture as the camera turned it; what each value undoes is said by the standard."""
    upright = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9) * 4
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright[::-1, ::-1].T,
        8: upright.T[:, ::-1],
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("PNG", "TIFF", "WEBP"):
            lossless = {"lossless": True} if kind == "WEBP" else {}
            data = content(Image.fromarray(pixels), kind, exif=exif, **lossless)
            found, changes = decoded(data, channels=1)
            assert np.array_equal(found[..., 0], upright), (orientation, kind)
            assert changes == ({TURNED: 1} if orientation > 1 else {})
            assert picture_size(io.BytesIO(data), "picture") == (9, 6)
        data = content(Image.fromarray(pixels), "JPEG", exif=exif, quality=100)
        assert np.abs(decoded(data, channels=1)[0][..., 0].astype(int) - upright).max() <= 6


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0 damaged", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0"]
)
def test_an_orientation_that_says_nothing_changes_nothing(exif: bytes) -> None:
    pixels, changes = decoded(content(Image.fromarray(COLOURS), "PNG", exif=exif))
    assert np.array_equal(pixels, COLOURS)
    assert changes == {}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_of_sixteen_bits_the_upper_eight_are_kept(kind: str) -> None:
    values = np.array([[0, 255, 256, 12345, 65280, 65535]], np.uint16)
    image = Image.fromarray(values.astype(np.int32)) if kind == "PPM" else Image.fromarray(values)
    pixels, changes = decoded(content(image, kind), channels=1)
    assert pixels[..., 0].tolist() == [[0, 0, 1, 48, 255, 255]]
    assert changes == {DEEP: 1}


def test_sixteen_bits_of_colour_are_counted() -> None:
    pixels, changes = decoded(b"P6 2 1 65535 " + bytes([0, 0, 1, 0, 255, 255, 16, 0, 32, 0, 48, 0]))
    assert pixels.shape == (1, 2, 3)
    assert pixels[0, 0].tolist() == [0, 1, 255]
    assert changes == {DEEP: 1}


@pytest.mark.parametrize("values", [np.ones((2, 2), np.float32), np.ones((2, 2), np.int32)], ids=["float", "32 bits"])
def test_other_kinds_of_numbers_are_refused_by_name(values: NDArray[np.float32]) -> None:
    with pytest.raises(DataError, match=r"^picture: has (floating-point|pixels of neither 8 nor 16 bits).*8 bits$"):
        decode_picture(content(Image.fromarray(values), "TIFF"), "picture", 3)


def test_one_bit_is_black_and_white() -> None:
    image = Image.fromarray(np.array([[True, False]]))
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert decoded(content(image, kind))[0].tolist() == [[[255] * 3, [0] * 3]], kind


def test_cmyk_is_counted() -> None:
    image = Image.new("CMYK", (2, 1), (255, 0, 0, 0))
    pixels, changes = decoded(content(image, "TIFF"))
    assert pixels.tolist() == [[[0, 255, 255]] * 2]
    assert changes == {CMYK: 1}


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_taken_and_counted(kind: str) -> None:
    first, second = Image.new("RGB", (4, 3), (255, 0, 0)), Image.new("RGB", (4, 3), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels, changes = decoded(content(first, kind, save_all=True, append_images=[second], **options))
    assert (pixels == [255, 0, 0]).all()
    assert changes == {FRAMES: 1}
