"""Files of JSON that a run's folder holds, and what is said of one that is damaged."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def json_lines(path: Path, needed: Sequence[str] = ()) -> list[Row]:
    """The objects of a file of JSON lines; none if there is no file, without a last line that a kill cut off.

    Raises:
        ValueError: a line that is no object, or has not all keys ``needed``; the message names file and line.
    """
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    whole = [(number, line) for number, line in enumerate(lines, 1) if line.endswith("\n") and line.strip()]
    return [_object(line, needed, f"{path}, line {number}") for number, line in whole]


def json_file(path: Path, otherwise: Any) -> Any:
    """What a file holds; ``otherwise`` if there is none.

    Raises:
        ValueError: it is damaged, or holds another type than ``otherwise`` is of; the message names the file.
    """
    if not path.exists():
        return otherwise
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, type(otherwise)):
        raise ValueError(f"{path} is damaged: it does not hold what it should")
    return found


def _object(line: str, needed: Sequence[str], where: str) -> Row:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} is damaged: no row")
    if missing := [key for key in needed if key not in found]:
        raise ValueError(f"{where} is damaged: no {missing[0]}")
    return found
