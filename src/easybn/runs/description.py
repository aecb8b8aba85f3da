"""What a run was asked to do, as plain JSON: written, read back, and compared; nothing here needs torch."""

from dataclasses import fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..json_files import Field, check, read_any_json, read_json
from ..rows import TEXT, TEXTS, needed, optional


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class"), str)


_FIELDS = {
    "data": needed(TEXT),
    "model": needed(TEXT),
    "recipe": Field("an object with its class", _is_named, needed=True),
    "training": Field("an object", lambda value: isinstance(value, dict) and isinstance(value.get("seed", 0), int)),
    "norms": TEXTS,
    "data_folder": optional(TEXT),
}
NOT_IN_DIGEST = {"data_folder", "leave_out"}  # places of files do not change results


def describe(value: Any) -> Any:
    """``value`` as plain JSON: a dataclass becomes its fields and a ``class``."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        path = kind.__name__ if kind.__module__.startswith("easybn.") else f"{kind.__module__}.{kind.__qualname__}"
        return {"class": path, **{f.name: describe(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, Fraction):
        return float(value)
    return value


def is_of_another_program(path: Path) -> bool:
    """Whether a config.json is whole and has nothing of a run in it, such as that of a network of transformers."""
    try:
        found = read_any_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and not {"experiment", "digest"} & found.keys()


def read_description(path: Path, verify: bool = True) -> dict[str, Any]:
    """The experiment in a run's config.json, as :func:`describe` wrote it.

    Args:
        verify: whether the checksum is tested.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or describes no experiment.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} is no run: it has no {path.name}")
    found = read_json(path, {}, verify=verify).get("experiment")
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it does not describe an experiment")
    check(found, _FIELDS, str(path))
    return found


def check_description(folder: Path, description: dict[str, Any], verify: bool = True) -> None:
    """Raise ValueError, naming the fields that differ, if another experiment than ``description`` has trained here."""
    if different := differences(description, read_description(folder / "config.json", verify)):
        raise ValueError(f"{folder} holds another run ({'; '.join(different)}): give another --out")


def numbers_alike(value: Any) -> Any:
    """Equal numbers as equal text: 1, 1.0 and True are one setting."""
    if isinstance(value, dict):
        return {key: numbers_alike(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers_alike(item) for item in value]
    return float(value) if isinstance(value, (bool, int)) else value


def differences(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """Fields in which two descriptions differ, as ``name: theirs -> ours``."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if (now := ours.get("class")) != (then := theirs.get("class")):  # their fields cannot be compared
            return [f"{name}: {then} -> {now}"]
        keys = [key for key in {**theirs, **ours} if key not in NOT_IN_DIGEST]
        below = f"{name}." if name else ""
        return [d for key in keys for d in differences(ours.get(key), theirs.get(key), f"{below}{key}")]
    return [] if ours == theirs else [f"{name}: {theirs!r} -> {ours!r}"]
