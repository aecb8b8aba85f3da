"""YAML files of any origin, read with limits: a small file must not fill the memory, nor a key hide another one."""

import json
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from ..files import MOST_TEXT, read_text

DEEPEST = 50  # levels of lists and mappings
MOST_NODES = 100_000  # values, with those that aliases repeat

_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):  # type: ignore[misc]
    """PyYAML's YAML 1.1, except that 1e-3 is a number, a date is text, and a repeated key is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - replaces the class attribute of the base
        letter: [(tag, pattern) for tag, pattern in known if not tag.endswith((":timestamp", ":float"))]
        for letter, known in _Safe.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag.endswith(":merge"):
                continue
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.YAMLError(f"the key {key.value!r} is there twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.[\d_]+(?:[eE][-+]?\d+)?"
        r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> Any:
    """Read a file: None, or mappings, lists, text, numbers and truth values.

    Raises:
        ValueError: it is no YAML, too large, too deep, or has other values; the message lacks the file's name.
        OSError: it cannot be read.
    """
    return parse_yaml(read_text(path))


def parse_yaml(text: str) -> Any:
    """See :func:`read_yaml`."""
    if len(text) > MOST_TEXT:
        raise ValueError(f"has more than {MOST_TEXT:,} characters: no file of settings")
    try:
        _check_size(text)
        found = yaml.load(text, Loader=_Loader)
        json.dumps(found)  # raises unless all values are plain
    except yaml.YAMLError as error:
        raise ValueError(f"Problems parsing config: {' '.join(str(error).split())}") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:  # dates, bytes, numbers of 5000 digits
        raise ValueError(f"Problems parsing config: {error}") from error
    return found


def _check_size(text: str) -> None:
    """YAMLError if there are too many levels or values, before any value is built."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []  # anchors of the enclosing collections, values before each
    count = 0
    for event in yaml.parse(text, Loader=_Safe):
        if isinstance(event, yaml.AliasEvent):
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            count += 1
            open_.append((event.anchor, count))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = count - before + 1
        if len(open_) > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels")
        if count > MOST_NODES:
            raise yaml.YAMLError(f"more than {MOST_NODES:,} values")
