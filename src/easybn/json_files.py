"""JSON files and files of JSON lines: written with checksums, and checked when they are read.

An object carries a checksum of its content as its last key, so that damage is not read as something else; a
file that another program has reformatted or sorted still passes, and an object without a checksum (of an earlier
version, or written by hand) is taken as it is. A *row* is an object on a line of its own. Tables, reports and studies
compute with rows that anybody may have edited, cut off or made by another program: what they rely on is a
:class:`Field`, checked here once, and the message names file and line.

Three functions read: :func:`read_json` and :func:`read_rows` files of ours, :func:`read_any_json` what others wrote.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .files import MOST_TEXT, open_regular, read_bytes, read_text, write_text

Row = dict[str, Any]
Cut = Literal["error", "legacy", "left out"]

CHECKSUM = "checksum"  # the key of an object's checksum
_NOTHING: Any = object()
_sorted_json = json.JSONEncoder(sort_keys=True).encode


@dataclass(frozen=True)
class Field:
    """What the value of a key has to be.

    Args:
        what: the condition in words, for the message.
        holds: whether a value meets it.
        needed: whether every row must have the key.
    """

    what: str
    holds: Callable[[Any], bool]
    needed: bool = False


class Damaged(ValueError):
    """A file that is not what was written under its name."""


def digest(*parts: "bytes | memoryview", size: int = 16) -> str:
    """``size`` bytes in hexadecimal, over all parts and where each begins."""
    total = hashlib.blake2b(digest_size=size)
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """``value`` with its checksum as the last key; one that it had is replaced."""
    content = {key: item for key, item in value.items() if key != CHECKSUM}
    return {**content, CHECKSUM: _checksum(content)}


def without_checksum(value: Any, where: str, verify: bool = True) -> dict[str, Any]:
    """``value`` without its checksum, which must be right where there is one.

    Args:
        where: what an error names.
        verify: whether the checksum is tested.

    Raises:
        Damaged: it is not an object, or not the one that the checksum was made of.
    """
    if not isinstance(value, dict):
        raise Damaged(f"{where} is damaged: it does not hold what it should")
    content = value.copy()
    if CHECKSUM in value:
        found = content.pop(CHECKSUM)
        intact = not verify or found == _digest(content)
    else:  # a bit that flips in the word itself must not make an object of one that has no checksum
        intact = not any(map(_is_nearly_the_key, content))
    if not intact:
        raise Damaged(f"{where} is damaged: its checksum is another one")
    return content


def write_json(path: Path, value: dict[str, Any] | list[dict[str, Any]], indent: int | None = 2) -> None:
    """Write an object, or a list of objects, each with its checksum; the file is replaced in one step."""
    checked = [with_checksum(item) for item in value] if isinstance(value, list) else with_checksum(value)
    write_text(path, json.dumps(checked, indent=indent) + "\n")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write ``rows`` as JSON lines, each with its checksum; the file is replaced in one step."""
    write_text(path, "".join(json.dumps(with_checksum(row)) + "\n" for row in rows))


def parse_json(text: bytes, where: str) -> Any:
    """The value in a piece of JSON of ours; Damaged, naming ``where``, if there is none."""
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Damaged(f"{where} is damaged: no UTF-8 text (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{where} is damaged: {error}") from error


def read_any_json(path: Path | str, most: int = MOST_TEXT) -> Any:
    """The value in a JSON file of any origin, its size limited to ``most`` bytes; no checksum is looked at.

    Raises:
        FileNotFoundError: there is none.
        ValueError: no regular file, too large, not JSON, or nested too deeply; the message names the file.
    """
    text = read_text(path, most)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is no JSON: {reason}") from None


def read_json(
    path: Path, default: Any = _NOTHING, fields: Mapping[str, Field] | None = None, verify: bool = True
) -> Any:
    """The object, or list of objects, in a JSON file of ours, without their checksums.

    Args:
        default: what is returned if there is no file; what the file holds has to be of the same type.
        fields: what is checked of the object, or of each.
        verify: whether checksums are tested, which takes most of the time.

    Raises:
        FileNotFoundError: there is no file, and no ``default``.
        ValueError: it is damaged (:class:`Damaged`), or holds values of another kind; the message names the file.
    """
    try:
        text = read_bytes(path, MOST_TEXT)
    except FileNotFoundError:
        if default is _NOTHING:
            raise
        return default
    value = parse_json(text, str(path))
    if isinstance(value, list):
        content: Any = [without_checksum(item, str(path), verify) for item in value]
    else:
        content = without_checksum(value, str(path), verify)
    if default is not _NOTHING and not isinstance(content, type(default)):
        raise ValueError(
            f"{path} is damaged: it does not hold {'a list' if isinstance(default, list) else 'an object'}"
        )
    for item in content if isinstance(content, list) else [content]:
        check(item, fields or {}, str(path))
    return content


def read_rows(
    path: Path, fields: Mapping[str, Field] | None = None, *, cut: Cut = "error", verify: bool = True
) -> list[Row]:
    """The rows of a file of JSON lines, without their checksums; an empty list if there is no file.

    Args:
        fields: what is checked of each row; other keys may hold anything.
        cut: what to do with a last line that is cut off. Earlier versions appended rows, so that a kill could cut one:
            "legacy" leaves it out where no row has a checksum, "left out" always.
        verify: whether checksums are tested, which takes most of the time.

    Raises:
        ValueError: a line that is cut off, is not an object, has another checksum, lacks a needed key or holds a value
            of the wrong kind; the message names file and line.
    """
    try:
        *lines, last = read_bytes(path, MOST_TEXT).split(b"\n")
    except FileNotFoundError:
        return []
    checked = any(f'"{CHECKSUM}"'.encode() in line for line in lines)
    if last and (cut == "error" or (cut == "legacy" and checked)):
        raise Damaged(f"{path}, line {len(lines) + 1} is damaged: it is cut off; restore the file, or delete that line")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return [_row(line, fields or {}, f"{path}, line {number}", verify) for number, line in numbered]


def read_last_row(path: Path, fields: Mapping[str, Field] | None = None) -> Row | None:
    """The last row of a file of JSON lines, verified, without looking at the others; None if there is none.

    Raises:
        ValueError: see :func:`read_rows`; a line that is cut off is left out where no row has a checksum.
    """
    try:
        with open_regular(path) as file:
            size, length = file.seek(0, os.SEEK_END), 2**12
            while True:
                start = file.seek(max(0, size - length))
                *lines, last = file.read().split(b"\n")
                lines = lines[1:] if start else lines  # the first may be a part of one
                if lines or not start:
                    break
                length *= 8
    except FileNotFoundError:
        return None
    if last and any(f'"{CHECKSUM}"'.encode() in line for line in lines):
        raise Damaged(f"{path}, the last line is damaged: it is cut off; restore the file, or delete that line")
    row = next((line for line in reversed(lines) if line.strip()), None)
    return None if row is None else _row(row, fields or {}, f"{path}, the last line")


def check(row: Row, fields: Mapping[str, Field], where: str) -> None:
    """ValueError, naming ``where`` and the key, unless ``row`` has what ``fields`` say."""
    for name, field in fields.items():
        if name not in row:
            if field.needed:
                raise ValueError(f"{where} is damaged: no {name}")
        elif not field.holds(row[name]):
            raise ValueError(f"{where} is damaged: {name} must be {field.what}, got {_short(row[name])}")


def _row(line: bytes, fields: Mapping[str, Field], where: str, verify: bool = True) -> Row:
    try:
        row = parse_json(line, where)
        if not isinstance(row, dict):
            raise Damaged(f"{where} is damaged: no row")
        row = without_checksum(row, where, verify)
    except Damaged as error:
        raise Damaged(f"{error}; restore the file, or delete that line") from error
    check(row, fields, where)
    if "correct" in fields and row["correct"] > row["n"]:
        raise ValueError(f"{where} is damaged: {row['correct']} correct of {row['n']}")
    return row


def _checksum(content: dict[str, Any]) -> str:
    return _digest(json.loads(json.dumps(content)))  # as it comes back from the file: keys as text, tuples as lists


def _digest(content: dict[str, Any]) -> str:
    """The checksum of what was read from a file."""
    return digest(_sorted_json(content).encode(), size=8)


def _is_nearly_the_key(key: str) -> bool:
    return len(key) == len(CHECKSUM) and 0 < sum(a != b for a, b in zip(key, CHECKSUM, strict=True)) <= 2


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
