"""JSON files that a folder of results holds, each value checked when it is read.

A row is an object on a line of its own (JSON lines). Tables, reports and studies compute with rows that anybody may
have edited, cut or made by another program: what they rely on is checked here, once, and the message names file and
line.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .reading import MOST_TEXT, read_bytes
from .sealed import KEY, Damaged, parsed, read_sealed, unseal

Row = dict[str, Any]
Cut = Literal["error", "legacy", "left out"]


@dataclass(frozen=True)
class Field:
    """What the value of a key has to be.

    Args:
        what: the condition in words, for the message.
        holds: whether a value meets it.
        needed: every row has the key.
    """

    what: str
    holds: Callable[[Any], bool]
    needed: bool = False


def is_count(value: Any, low: int = 0) -> bool:
    """Whether ``value`` is a whole number from ``low`` on; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_measures(value: Any) -> bool:
    """Loss, accuracy and the like by the name of a branch or a term; a diverged loss may be NaN."""
    return isinstance(value, dict) and all(
        isinstance(each, dict) and all(isinstance(v, (int, float)) for v in each.values()) for each in value.values()
    )


def optional(field: Field) -> Field:
    """The same, or null."""
    return Field(f"{field.what} or null", lambda value: value is None or field.holds(value), field.needed)


def needed(field: Field) -> Field:
    """The same, in every row."""
    return Field(field.what, field.holds, needed=True)


TEXT = Field("a text", _is_text)
COUNT = Field("a whole number from 0 on", is_count)
POSITIVE = Field("a whole number from 1 on", lambda value: is_count(value, 1))
NUMBER = Field("a finite number", is_number)
RADIUS = Field("a positive number", lambda value: is_number(value) and value > 0)
TEXTS = Field("a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value)))
COUNTS = Field("whole numbers by name", lambda value: isinstance(value, dict) and all(map(is_count, value.values())))
MEASURES = Field("numbers by branch", _are_measures)
NAMED = Field("an object", lambda value: isinstance(value, dict))


def _are(value: Any, fields: Mapping[str, Field]) -> bool:
    """Whether ``value`` is a list of objects that have what ``fields`` say."""
    return isinstance(value, list) and all(
        isinstance(each, dict) and all(name in each and field.holds(each[name]) for name, field in fields.items())
        for each in value
    )


def _is_confidence(value: Any) -> bool:
    """Counts of images by confidence, as many bins of those that are right as of those that are wrong."""
    if not isinstance(value, dict):
        return False
    right, wrong = value.get("right"), value.get("wrong")
    if not (isinstance(right, list) and isinstance(wrong, list) and len(right) == len(wrong)):
        return False
    return all(map(is_count, [*right, *wrong]))


def _is_gallery(value: Any) -> bool:
    answer = Field("", lambda each: _are([each], {"class": TEXT, "confidence": NUMBER}))
    images = {"label": TEXT, "original": answer, "easy": answer, "adversarial": answer}
    return (
        isinstance(value, dict)
        and isinstance(value.get("how"), str)
        and isinstance(value.get("size"), list)
        and len(value["size"]) == 2
        and all(is_count(each, 1) for each in value["size"])
        and _are(value.get("images"), images)
    )


FINDINGS = Field(
    "a list of findings",
    lambda value: _are(value, {"name": TEXT, "severity": TEXT, "what": TEXT}),
)

SUMMARY: Mapping[str, Field] = {
    "findings": FINDINGS,
    "confidence": Field("counts of right and wrong images", _is_confidence),
    "gallery": Field("a gallery", _is_gallery),
}
"""Of summary.json, what only a model can tell of a run."""

ENVIRONMENT: Mapping[str, Field] = {
    "packages": NAMED, "command": Field("a list", lambda value: isinstance(value, list)), "commit": optional(TEXT),
    "processor": optional(TEXT), "cuda": optional(TEXT), "cpus": optional(COUNT), "time": TEXT,
}  # fmt: skip
"""Of environment.json, an object per start of a run."""

EVALUATED: Mapping[str, Field] = {"digest": TEXT, "seconds": NUMBER, "findings": needed(FINDINGS)}
"""Of evaluated.json, an object per evaluation that a study has done."""

METRICS: Mapping[str, Field] = {
    "epoch": needed(POSITIVE), "step": COUNT, "lr": NUMBER, "train": MEASURES, "val": MEASURES,
    "images_per_second": NUMBER, "seconds": NUMBER,
}  # fmt: skip
"""Of metrics.jsonl, a row per epoch."""

SCORES: Mapping[str, Field] = {
    "attack": needed(TEXT), "n": needed(POSITIVE), "correct": needed(COUNT), "accuracy": NUMBER, "data": TEXT,
    "branch": TEXT, "protocol": optional(TEXT), "norm": optional(TEXT), "eps": optional(RADIUS), "steps": COUNT,
    "step_size": optional(NUMBER), "batch_size": optional(POSITIVE), "test_images": POSITIVE,
    "max_perturbation": NUMBER, "non_finite": COUNT, "broke": COUNTS, "notes": TEXTS, "seconds": NUMBER,
    "right": TEXT, "points": TEXT, "findings": FINDINGS,
}  # fmt: skip
"""Of scores.jsonl, a row per attack and radius (:class:`easybn.evaluation.Score`); findings are of the rows that were
measured together, and stand in the first of them."""

HIDDEN: Mapping[str, Field] = {
    "perturbation": needed(TEXT), "layer": needed(TEXT), "depth": needed(COUNT), "relative_distance": needed(NUMBER),
    "eps": optional(NUMBER), "n": POSITIVE, "low": NUMBER, "high": NUMBER, "branch": TEXT,
}  # fmt: skip
"""Of hidden.jsonl, a row per layer and perturbation."""

BRANCHES: Mapping[str, Field] = {
    "layer": needed(TEXT), "depth": needed(COUNT), "branch_a": needed(TEXT), "branch_b": needed(TEXT),
    "measure": needed(TEXT), "value": needed(NUMBER),
}  # fmt: skip
"""Of branches.jsonl, a row per layer and pair of branches."""

VERDICTS: Mapping[str, Field] = {
    "attack": needed(TEXT), "n": needed(POSITIVE), "points": needed(TEXT), "right": needed(TEXT),
    "eps": optional(RADIUS), "norm": optional(TEXT), "protocol": optional(TEXT),
}  # fmt: skip
"""Of verdicts.jsonl, a row per attack and radius, with a bit per point."""

STACKED: Mapping[str, Field] = {
    "data": needed(TEXT), "classes": needed(TEXTS), "seed": needed(COUNT), "copy": needed(TEXT),
    "eps": optional(needed(NUMBER)), "steps": optional(needed(COUNT)), "half": optional(needed(TEXT)),
    "how": optional(needed(TEXT)), "n": needed(POSITIVE), "accuracy": needed(NUMBER),
}  # fmt: skip
"""Of rows.jsonl of ``easybn stacked``."""


def read_rows(path: Path, fields: Mapping[str, Field] | None = None, *, cut: Cut = "error") -> list[Row]:
    """The rows of a file of JSON lines, without their checksums; none if there is no file.

    Args:
        fields: what is checked of each row; other keys may hold anything.
        cut: what a last line that is cut off is. Earlier versions appended rows, so that a kill could do that:
            "legacy" leaves it out where no row has a checksum, "left out" always.

    Raises:
        ValueError: a line that is cut off, is no object, has another checksum, lacks a needed key or holds a value of
            the wrong kind; the message names file and line.
    """
    try:
        *lines, last = read_bytes(path, MOST_TEXT).split(b"\n")
    except FileNotFoundError:
        return []
    sealed = any(f'"{KEY}"'.encode() in line for line in lines)
    if last and (cut == "error" or (cut == "legacy" and sealed)):
        raise Damaged(f"{path}, line {len(lines) + 1} is damaged: it is cut off; restore the file, or delete that line")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return [_row(line, fields or {}, f"{path}, line {number}") for number, line in numbered]


def read_json(path: Path, otherwise: Any, fields: Mapping[str, Field] | None = None) -> Any:
    """What a JSON file holds, an object or a list of them, without their checksums; ``otherwise`` if there is none.

    Args:
        fields: what is checked of the object, or of each.

    Raises:
        ValueError: it is damaged, or holds another type than ``otherwise`` is of; the message names the file.
    """
    if not path.exists():
        return otherwise
    found = read_sealed(path)
    if not isinstance(found, type(otherwise)):
        kind = "a list" if isinstance(otherwise, list) else "an object"
        raise ValueError(f"{path} is damaged: it does not hold {kind}")
    for each in found if isinstance(found, list) else [found]:
        check(each, fields or {}, str(path))
    return found


def check(row: Row, fields: Mapping[str, Field], where: str) -> None:
    """ValueError, naming ``where`` and the key, unless ``row`` has what ``fields`` say."""
    for name, field in fields.items():
        if name not in row:
            if field.needed:
                raise ValueError(f"{where} is damaged: no {name}")
        elif not field.holds(row[name]):
            raise ValueError(f"{where} is damaged: {name} must be {field.what}, got {_short(row[name])}")


def _row(line: bytes, fields: Mapping[str, Field], where: str) -> Row:
    try:
        row = parsed(line, where)
        if not isinstance(row, dict):
            raise Damaged(f"{where} is damaged: no row")
        row = unseal(row, where)
    except Damaged as error:
        raise Damaged(f"{error}; restore the file, or delete that line") from error
    check(row, fields, where)
    if "correct" in fields and row["correct"] > row["n"]:
        raise ValueError(f"{where} is damaged: {row['correct']} correct of {row['n']}")
    return row


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
