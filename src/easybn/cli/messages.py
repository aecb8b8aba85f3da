"""What the parser says of a value that does not fit, in plain words: jsonargparse speaks of Python's types."""

import ast
import re

KINDS = {
    "<class 'int'>": "a whole number", "<class 'float'>": "a number", "<class 'bool'>": "true or false",
    "<class 'str'>": "text", "<class 'NoneType'>": "null", "<class 'dict'>": "names and values such as {name: value}",
    "<class 'tuple'>": "a list such as [a, b]", "<class 'list'>": "a list such as [a, b]",
    "<class 'fractions.Fraction'>": "a fraction such as 8/255",
}  # fmt: skip
CLASSES = {"ball": "Linf or L2", "schedule": "Cosine, Piecewise or Constant, or my.py:MySchedule"}
"""Where a class is expected: those that there are. Recipes are listed by ``easybn train --help``."""

_PLACE = r'Parser key "(?P<key>[^"]+)"(?: element (?P<element>\d+))?: (?P<rest>.*)'
_UNKNOWN = r"(?:Option '([^']+)' is not accepted|unrecognized arguments: --([^ =]+)\S*)(.*)"


def in_plain_words(message: str, dashes: str = "") -> str:
    """``--epochs: expected a whole number, got many``; what is not about a value's type stays as it is.

    Args:
        message: of jsonargparse, on one or several lines.
        dashes: before the name of the option, where the user wrote it with them.
    """
    text = " ".join(message.split())
    found = re.fullmatch(rf"(?P<before>.*?){_PLACE}", text)
    if not found:
        return text
    key, element, rest = found["key"], found["element"], found["rest"]
    while inside := re.fullmatch(r"Problem with given class_path '(?:[^']*\.)?([^'.]+)': (.*)", rest):
        kind, rest = inside.groups()
        if deeper := re.fullmatch(_PLACE, rest):
            key, element, rest = f"{key}.{deeper['key']}", deeper["element"], deeper["rest"]
        elif unknown := re.fullmatch(_UNKNOWN, rest):
            key, rest = f"{key}.{unknown[1] or unknown[2]}", f"{kind} has no such field{unknown[3]}"
    place = f"{key}, value {element}" if element else key
    return f"{found['before']}{dashes}{place}: {_expected(rest, key)}"


def _expected(text: str, key: str) -> str:
    """What was expected and what was given; ``text`` itself where that cannot be told."""
    if one := re.fullmatch(r"Expected an? (.+?)\. Got value: (.*)", text):
        kinds, given = [one[1]], one[2]
    elif several := re.fullmatch(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors: (.*) "
        r"Given value type: \S+ \S+ Given value: (.*)", text,
    ):  # fmt: skip
        if own := re.search(r"Not of type [^:]+: (.*?)(?= - Expected |$)", several[2]):
            return own[1]
        kinds, given = re.split(r", (?![^\[]*\])", several[1]), several[3]
    elif own := re.fullmatch(r"Not of type [^:]+: (.*)", text):
        return own[1]
    elif none := re.fullmatch(r"Expected a dot import path string: (\S+)(.*)", text):
        known = CLASSES.get(key.rpartition(".")[2])
        return f"there is no {none[1]}{none[2]}" + (f": give {known}" if known else "")
    else:
        return text
    words = [_kind(kind) for kind in kinds]
    return f"expected {' or '.join(map(str, words))}, got {given}" if all(words) else text


def _kind(name: str) -> str | None:
    """A type's name in words; None if there are none for it."""
    if literal := re.fullmatch(r"typing\.Literal\[(.*)\]", name):
        return " or ".join(map(str, ast.literal_eval(f"[{literal[1]}]")))
    return KINDS.get(name)
