"""Files that others made, read with care: regular files alone, of a size that fits what they are for.

A pipe or a device in the place of a file would be waited for without end, and a sparse file of a terabyte would fill
the memory.
"""

import io
import json
import os
import stat
from pathlib import Path
from typing import Any

MOST_IMAGE = 2**28  # bytes of one picture: far above any sensible one
MOST_TEXT = 2**26  # bytes of JSON, YAML or rows: a thousand times what any of ours has


def check_regular(path: Path | str, most: int | None = None) -> None:
    """Raise unless ``path`` is a regular file (or a link to one) of at most ``most`` bytes.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a folder, pipe, socket or device, or a file that is too large.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is {_kind(status.st_mode)}, no file")
    if most is not None and status.st_size > most:
        raise ValueError(f"{path} has {status.st_size:,} bytes, more than the {most:,} that are read of such a file")


def open_regular(path: Path | str, most: int | None = None) -> io.BufferedReader:
    """A regular file, opened to be read, see :func:`check_regular`.

    What is opened is what was checked: a file that is exchanged for a pipe in between is not waited for.
    """
    check_regular(path, most)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file: io.BufferedReader = io.BufferedReader(io.FileIO(handle, "rb"))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise ValueError(f"{path} is no file")
    return file


def read_bytes(path: Path | str, most: int | None = None) -> bytes:
    """The content of a regular file, see :func:`check_regular`."""
    with open_regular(path, most) as file:
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise ValueError(f"{path} has more than {most:,} bytes")
    return content


def read_text(path: Path | str, most: int = MOST_TEXT) -> str:
    """The UTF-8 text of a regular file; ValueError, with the file's name, if it is none."""
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from None


def parse_json(text: str, path: Path | str) -> Any:
    """What JSON text says; ValueError, with the file's name, for anything else, also if it is nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is no JSON: {reason}") from None


def read_json(path: Path | str, most: int = MOST_TEXT) -> Any:
    """What a regular file of JSON says, see :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path, most), path)


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
    ):  # fmt: skip
        if test(mode):
            return name
    return "something else"
