"""The package's instruments by name, found in this folder."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from typing import Any

from ..perturb.eps import parse_eps
from ..user_code import is_user_code, load_object
from .instrument import Instrument

for _module in iter_modules(import_module(__package__).__path__):
    if _module.name != "registry":
        import_module(f"{__package__}.{_module.name}")

INSTRUMENTS: dict[str, type[Instrument]] = {
    kind.name: kind
    for kind in sorted(Instrument.__subclasses__(), key=lambda kind: (kind.order, kind.name))
    if kind.__module__.startswith(f"{__package__}.")
}
"""The instruments by name, in the order of lists."""


def instruments(
    names: Sequence[str] | None = None, options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Instrument]:
    """Instruments with their fields, in the order of lists.

    Args:
        names: which; None for all of the package. ``my.py:Mine`` or ``module:Mine`` is a class of a user, whose code
            runs.
        options: fields by the name of an instrument, such as ``{"latent": {"eps": "4/255"}}``.

    Raises:
        ValueError: no such instrument, no such field, a field of another type or out of range, options of an
            instrument that is not among ``names``, or a user's class with the name of another instrument.
    """
    names, options = list(INSTRUMENTS) if names is None else list(names), options or {}
    known = dict(INSTRUMENTS)
    for i, name in enumerate(names):
        if is_user_code(name):
            kind = load_object(name, "--instruments", _is_instrument, "instrument")
            if known.setdefault(kind.name, kind) is not kind:
                raise ValueError(
                    f"--instruments {name}: another instrument is called {kind.name!r}: give it its own name"
                )
            names[i] = kind.name
    if not names:
        raise ValueError(f"name an instrument; there are {', '.join(known)}")
    for name in [*names, *options]:
        if name not in known:
            raise ValueError(f"no instrument {name!r}; there are {', '.join(known)}, and my.py:Mine is one of yours")
    if unused := [name for name in options if name not in names]:
        raise ValueError(f"options of {unused[0]}, which is not among the instruments: {', '.join(names)}")
    return [_made(kind, options.get(name, {})) for name, kind in known.items() if name in names]


def _is_instrument(value: Any) -> bool:
    """Whether a user's file has a finished instrument under a name: with what the class variables must say."""
    finished = isinstance(value, type) and issubclass(value, Instrument) and not isabstract(value)
    return finished and all(isinstance(getattr(value, name, None), str) for name in ("name", "title", "reads"))


def _made(kind: type[Instrument], given: Mapping[str, Any]) -> Instrument:
    if not isinstance(given, Mapping):
        raise ValueError(f"options of {kind.name} must be fields with their values, got {given!r}")
    defaults = {field.name: field.default for field in fields(kind)}
    if unknown := [name for name in given if name not in defaults]:
        raise ValueError(f"{kind.name} has no option {unknown[0]!r}; there are {', '.join(defaults) or 'none'}")
    return kind(**{name: _of_kind(value, defaults[name], f"{kind.name}: {name}") for name, value in given.items()})


def _of_kind(value: Any, default: Any, name: str) -> Any:
    """``value`` if it is of the type of ``default``; numbers may be fractions as text, tuples lists."""
    if isinstance(default, float) and not isinstance(value, bool):
        return parse_eps(value, name) if isinstance(value, str) else float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(_of_kind(item, default[0], name) for item in value)
    if type(value) is not type(default):
        raise ValueError(f"{name} must be of the kind of {default!r}, got {value!r}")
    return value
