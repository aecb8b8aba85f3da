"""JSON files whose objects carry a checksum of their content, so that what has rotted is not read as something else.

The checksum is the last key of an object and covers its content, not its layout: a file that another program has
reformatted or sorted still passes. Objects without one, of earlier versions or written by hand, are taken as they are.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files import write_text
from .reading import MOST_TEXT, read_bytes

KEY = "checksum"


class Damaged(ValueError):
    """A file that is not what was written under its name."""


def digest(*parts: "bytes | memoryview", size: int = 16) -> str:
    """``size`` bytes in hexadecimal, of all parts and where each begins."""
    total = hashlib.blake2b(digest_size=size)
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """``value`` with its checksum; one that it had is replaced."""
    content = {key: each for key, each in value.items() if key != KEY}
    return {**content, KEY: _checksum(content)}


def unseal(value: Any, where: str) -> dict[str, Any]:
    """``value`` without its checksum.

    Args:
        where: named by the error.

    Raises:
        Damaged: it is no object, or not the one that was sealed.
    """
    if not isinstance(value, dict):
        raise Damaged(f"{where} is damaged: it does not hold what it should")
    content = {key: each for key, each in value.items() if key != KEY}
    # a bit that flips in the word itself must not make an object of one that has no checksum
    if any(_like_the_key(key) for key in content) or (KEY in value and value[KEY] != _checksum(content)):
        raise Damaged(f"{where} is damaged: its checksum is another one")
    return content


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """``rows`` as the whole of a file of JSON lines, each with its checksum."""
    write_text(path, "".join(json.dumps(seal(row)) + "\n" for row in rows))


def parsed(text: bytes, where: str) -> Any:
    """The JSON in ``text``; Damaged, naming ``where``, if there is none."""
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Damaged(f"{where} is damaged: no UTF-8 text (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{where} is damaged: {error}") from error


def read_sealed(path: Path) -> Any:
    """The object of a JSON file, or the list of objects, without their checksums.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is damaged; the message names it.
    """
    found = parsed(read_bytes(path, MOST_TEXT), str(path))
    if isinstance(found, list):
        return [unseal(each, str(path)) for each in found]
    return unseal(found, str(path))


def write_json(path: Path, value: dict[str, Any] | list[dict[str, Any]], indent: int | None = 2) -> None:
    """``value`` as the whole of a file, each object with its checksum."""
    sealed = [seal(each) for each in value] if isinstance(value, list) else seal(value)
    write_text(path, json.dumps(sealed, indent=indent) + "\n")


def _checksum(content: dict[str, Any]) -> str:
    # as it comes back from the file: keys as text, tuples as lists
    return digest(json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode(), size=8)


def _like_the_key(key: str) -> bool:
    return len(key) == len(KEY) and 0 < sum(a != b for a, b in zip(key, KEY, strict=True)) <= 2
