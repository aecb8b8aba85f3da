"""What the files of a run, an evaluation and a study have to hold: a field for each key that is relied on.

Keys that are not named here may hold anything; a key that is ``needed`` has to be in every row.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from .json_files import Field


def is_count(value: Any, low: int = 0) -> bool:
    """Whether ``value`` is a whole number from ``low`` on; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_COLOUR = re.compile(r"#[0-9a-f]{6}")


def is_colour_pair(value: Any) -> bool:
    """Whether ``value`` is two colours written as ``#rrggbb``, for light and for dark pages."""
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(colour, str) and _COLOUR.fullmatch(colour) for colour in value)
    )


def check_colours(name: str, value: Any) -> None:
    """ValueError unless ``value``, called ``name``, is None or a pair of colours."""
    if value is not None and not is_colour_pair(value):
        raise ValueError(
            f'{name} must be two colours, for light and for dark pages, such as ("#0069a8", "#62b6f7"), got {value!r}'
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_measures(value: Any) -> bool:
    """Loss, accuracy and the like by the name of a branch or a term; a diverged loss may be NaN."""
    return isinstance(value, dict) and all(
        isinstance(measures, dict) and all(isinstance(v, (int, float)) for v in measures.values())
        for measures in value.values()
    )


def optional(field: Field) -> Field:
    """The same field, or null."""
    return Field(f"{field.what} or null", lambda value: value is None or field.holds(value), field.needed)


def needed(field: Field) -> Field:
    """The same field, in every row."""
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
        isinstance(item, dict) and all(name in item and field.holds(item[name]) for name, field in fields.items())
        for item in value
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
    answer = Field("", lambda answers: _are([answers], {"class": TEXT, "confidence": NUMBER}))
    images = {"label": TEXT, "original": answer, "easy": answer, "adversarial": answer}
    return (
        isinstance(value, dict)
        and isinstance(value.get("how"), str)
        and isinstance(value.get("size"), list)
        and len(value["size"]) == 2
        and all(is_count(length, 1) for length in value["size"])
        and _are(value.get("images"), images)
    )


def _is_curve(value: Any) -> bool:
    """Bounds of robust accuracy: numbers of n points on an ascending grid of radii, the attacked ones among them."""
    if not isinstance(value, dict) or not is_count(value.get("n"), 1):
        return False
    lists = [value.get(name) for name in ("eps", "most", "least", "attacked")]
    if not all(isinstance(each, list) and each and all(map(is_number, each)) for each in lists):
        return False
    eps, most, least, attacked = (value[name] for name in ("eps", "most", "least", "attacked"))
    return (
        len(eps) == len(most) == len(least)
        and all(is_count(count) and count <= value["n"] for count in [*most, *least])
        and eps == sorted(eps)
        and set(attacked) <= set(eps)
    )


def _is_picture_sheet(value: Any) -> bool:
    """Height and width of the tiles of a sheet, and what each tile shows."""
    tile = {"eps": NUMBER, "point": COUNT, "class": TEXT, "only": TEXT, "broken_by": TEXT}
    size = value.get("size") if isinstance(value, dict) else None
    return isinstance(size, list) and len(size) == 2 and all(is_count(length, 1) for length in size) and _are(
        value.get("tiles"), tile
    )  # fmt: skip


FINDINGS = Field(
    "a list of findings",
    lambda value: _are(value, {"name": TEXT, "severity": TEXT, "what": TEXT}),
)

SUMMARY: Mapping[str, Field] = {
    "findings": FINDINGS,
    "confidence": Field("counts of right and wrong images", _is_confidence),
    "gallery": Field("a gallery", _is_gallery),
}
"""Of summary.json: what only the model can tell about a run."""

_AUDIT = ("survivors", "suspicious", "drawn", "broke_suspicious", "broke_drawn")
AUDIT = Field(
    "counts of an audit",
    lambda value: isinstance(value, dict) and {*value} == {*_AUDIT, "broke"} and COUNTS.holds(value["broke"])
    and all(is_count(value[name]) for name in _AUDIT),
)  # fmt: skip

ENVIRONMENT: Mapping[str, Field] = {
    "packages": NAMED, "command": Field("a list", lambda value: isinstance(value, list)), "commit": optional(TEXT),
    "processor": optional(TEXT), "cuda": optional(TEXT), "cpus": optional(COUNT), "time": TEXT,
    "winograd_channels": COUNT, "processes": COUNT,
}  # fmt: skip
"""Of environment.json: one object per start of a run."""

EVALUATED: Mapping[str, Field] = {"digest": TEXT, "seconds": NUMBER, "findings": needed(FINDINGS)}
"""Of evaluated.json: one object per evaluation that a study has done."""

METRICS: Mapping[str, Field] = {
    "epoch": needed(POSITIVE), "step": COUNT, "lr": NUMBER, "train": MEASURES, "val": MEASURES,
    "images_per_second": NUMBER, "seconds": NUMBER,
}  # fmt: skip
"""Of metrics.jsonl: one row per epoch."""

SCORES: Mapping[str, Field] = {
    "attack": needed(TEXT), "n": needed(POSITIVE), "correct": needed(COUNT), "accuracy": NUMBER, "data": TEXT,
    "branch": TEXT, "protocol": optional(TEXT), "norm": optional(TEXT), "eps": optional(RADIUS), "steps": COUNT,
    "step_size": optional(NUMBER), "batch_size": optional(POSITIVE), "test_images": POSITIVE,
    "max_perturbation": NUMBER, "non_finite": COUNT, "broke": COUNTS, "notes": TEXTS, "seconds": NUMBER,
    "right": TEXT, "points": TEXT, "findings": FINDINGS, "low": NUMBER, "high": NUMBER, "clean_correct": COUNT,
    "audit": optional(AUDIT),
}  # fmt: skip
"""Of scores.jsonl: one row per attack and radius (:class:`easybn.evaluation.Score`); the first row of those that were
measured together has the findings about all of them. Of the attack "corruptions" a row has the answers under all kinds
and severities together, n of them about ``test_images`` points, and the ends of the interval of its accuracy, mCA."""

CORRUPTED: Mapping[str, Field] = {
    "corruption": needed(TEXT), "severity": needed(POSITIVE), "source": needed(TEXT), "n": needed(POSITIVE),
    "correct": needed(COUNT), "right": needed(TEXT), "points": needed(TEXT), "points_seed": needed(COUNT),
    "branch": TEXT, "data": TEXT,
}  # fmt: skip
"""Of corruptions.jsonl: one row per kind, severity and source of corruptions, with one bit per point."""

HIDDEN: Mapping[str, Field] = {
    "perturbation": needed(TEXT), "layer": needed(TEXT), "depth": needed(COUNT), "relative_distance": needed(NUMBER),
    "eps": optional(NUMBER), "n": POSITIVE, "low": NUMBER, "high": NUMBER, "branch": TEXT,
}  # fmt: skip
"""Of hidden.jsonl: one row per layer and perturbation."""

BRANCHES: Mapping[str, Field] = {
    "layer": needed(TEXT), "depth": needed(COUNT), "branch_a": needed(TEXT), "branch_b": needed(TEXT),
    "measure": needed(TEXT), "value": needed(NUMBER),
}  # fmt: skip
"""Of branches.jsonl: one row per layer and pair of branches."""

ANALYSIS: Mapping[str, Field] = {
    "instrument": needed(TEXT), "settings": needed(NAMED), "measure": needed(TEXT), "series": needed(TEXT),
    "place": needed(TEXT), "depth": needed(NUMBER), "n": needed(COUNT), "value": needed(NUMBER),
    "low": optional(NUMBER), "high": optional(NUMBER), "detail": NAMED, "branch": needed(TEXT), "branches": TEXTS,
    "images": needed(COUNT), "seed": COUNT, "data": TEXT, "epoch": POSITIVE,
}  # fmt: skip
"""Of analysis.jsonl: one row per value that an instrument measured (:class:`easybn.metrics.instrument.Measured`)."""

VERDICTS: Mapping[str, Field] = {
    "attack": needed(TEXT), "n": needed(POSITIVE), "points": needed(TEXT), "right": needed(TEXT),
    "eps": optional(RADIUS), "norm": optional(TEXT), "protocol": optional(TEXT),
    "curve": Field("a curve over eps", _is_curve),
}  # fmt: skip
"""Of verdicts.jsonl: one row per attack and radius, with one bit per point."""

_PAIR: Mapping[str, Field] = {
    "eps": NUMBER, "n": POSITIVE, "both": COUNT, "only_first": COUNT, "only_second": COUNT, "neither": COUNT,
    "difference": NUMBER, "low": NUMBER, "high": NUMBER, "p": NUMBER,
}  # fmt: skip

COMPARISON: Mapping[str, Field] = {
    "names": needed(Field("two texts", lambda value: isinstance(value, list) and list(map(type, value)) == [str] * 2)),
    "about": needed(Field("two texts", lambda value: isinstance(value, list) and list(map(type, value)) == [str] * 2)),
    "norm": needed(TEXT),
    "pairs": needed(Field("a list of paired counts", lambda value: bool(value) and _are(value, _PAIR))),
    "notes": TEXTS,
    "pictures": Field("pictures of points", _is_picture_sheet),
}
"""Of comparison.json: two evaluations of the same points, see :mod:`easybn.runs.compare`."""

_NUMBERS = Field("a list of whole numbers", lambda value: isinstance(value, list) and all(map(is_count, value)))
_DIGITS = Field("a text of digits", lambda value: _is_text(value) and value.isascii() and value.isdecimal())

DECILES: Mapping[str, Field] = {
    "data": needed(TEXT), "n": needed(POSITIVE), "model": needed(TEXT), "recipe": needed(TEXT),
    "epoch": needed(POSITIVE), "seeds": needed(_NUMBERS),
    "deciles": needed(_DIGITS),
}  # fmt: skip
"""Of deciles.jsonl: how easy each test image is, in ten groups (:func:`easybn.paper.census.decile_row`)."""

STACKED: Mapping[str, Field] = {
    "data": needed(TEXT), "classes": needed(TEXTS), "seed": needed(COUNT), "copy": needed(TEXT),
    "eps": optional(needed(NUMBER)), "steps": optional(needed(COUNT)), "half": optional(needed(TEXT)),
    "how": optional(needed(TEXT)), "n": needed(POSITIVE), "accuracy": needed(NUMBER),
}  # fmt: skip
"""Of rows.jsonl of ``easybn stacked``."""
