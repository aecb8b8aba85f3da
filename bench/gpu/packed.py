"""The data sets small enough to be copied along: CIFAR-10's 60,000 JPEG files in 19 MB instead of 62.

All the files of that zip share one header of 623 bytes, which is kept once; unpacked, every file has the same bytes.
"""

import os
import shutil
import struct
import zipfile
from pathlib import Path

PACK, ARCHIVE = "cifar10.pack", "cifar10-images.zip"
_COUNTS = struct.Struct("<III")


def pack(archive: Path, target: Path) -> None:
    """Write the JPEG files of a zip, which must have one header in common, to ``target``.

    Raises:
        ValueError: they have not, or a file is none.
    """
    with zipfile.ZipFile(archive) as opened:
        names = [entry.filename for entry in opened.infolist() if not entry.is_dir()]
        heads, scans = zip(*(_split(opened.read(name), name) for name in names), strict=True)
    if len(set(heads)) != 1:
        raise ValueError(f"{archive}: the files do not share one header")
    listing = "\n".join(names).encode()
    part = target.with_name(target.name + ".part")
    with part.open("wb") as file:
        file.write(_COUNTS.pack(len(names), len(listing), len(heads[0])))
        file.write(listing + heads[0] + struct.pack(f"<{len(scans)}H", *map(len, scans)) + b"".join(scans))
    part.replace(target)


def unpack(source: Path, target: Path) -> None:
    """Write a zip of the files that :func:`pack` packed, in their order and with their bytes."""
    data = source.read_bytes()
    count, listing, head = _COUNTS.unpack_from(data)
    at = _COUNTS.size
    names, at = data[at : at + listing].decode().split("\n"), at + listing
    header, at = data[at : at + head], at + head
    lengths, at = struct.unpack_from(f"<{count}H", data, at), at + 2 * count
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, length in zip(names, lengths, strict=True):
            # a date of its own would make the zip, and what is known by its digest, another one each time
            archive.writestr(zipfile.ZipInfo(name), header + data[at : at + length])
            at += length


def unpacked(data: Path, folder: Path) -> Path:
    """``folder`` with the data sets of ``data`` as they are read, made once and in one piece."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.copytree(data, part, ignore=shutil.ignore_patterns(PACK))
        if (data / PACK).exists():
            unpack(data / PACK, part / ARCHIVE)
        part.rename(folder)
    return folder


def _split(data: bytes, name: str) -> tuple[bytes, bytes]:
    """A JPEG file's segments up to the start of its scan, and the rest."""
    at = 2
    while data[at : at + 1] == b"\xff":
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        at += 2 + length
        if marker == 0xDA:
            return data[:at], data[at:]
    raise ValueError(f"{name} is no JPEG file")
