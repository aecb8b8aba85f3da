"""A user's own model: ``module:function``, from the working folder or whatever is installed."""

import importlib
import sys
from pathlib import Path
from typing import Any

from torch import nn


def own_model(where: str, options: dict[str, Any] | None = None) -> nn.Module:
    """What ``function`` of ``module`` returns; a class serves as well.

    Args:
        where: "module:function"; the module is looked for in the working folder first.
        options: keyword arguments.

    Raises:
        ValueError: no such module or function, one that fails, or that returns no model.
    """
    name, _, function = where.partition(":")
    name = name.removesuffix(".py").removeprefix("./").replace("/", ".")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever a user's file does when it is imported
        raise ValueError(f"--model {where}: {name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    make = getattr(module, function, None)
    if not callable(make):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        known = f"; it has {', '.join(names[:8])}" if names else ""
        raise ValueError(f"--model {where}: there is no function {function!r} in {name}{known}")
    try:
        model = make(**(options or {}))
    except Exception as error:
        raise ValueError(f"--model {where}: {function} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"--model {where}: {function} returned a {type(model).__name__}, not a torch.nn.Module")
    return model
