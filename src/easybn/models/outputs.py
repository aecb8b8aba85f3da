"""One output of a model that returns several: a dict, a tuple, or an object with fields such as ``logits``.

Which of them the logits are is never guessed: it is named, and where it is not, the message says what there is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

SHOWN = 8
"""Outputs that a message names, at most."""


class BadLogits(TypeError, ValueError):
    """A model's answer that is no batch of logits; the message says what to do."""


class SelectOutput(nn.Module):
    """A model reduced to one of its outputs, for whatever needs a model from images to logits.

    ``SelectOutput(model, "logits")`` for the image classifiers of Hugging Face. The model itself is used, not a copy:
    its layers are found, converted and routed inside of it, and the names of its weights begin with ``model.``.

    Args:
        model: images (N, ...) to a dict, a tuple or list, or an object with attributes.
        output: the key, the name of the attribute, or the index; text that is a whole number is an index too.

    Raises:
        BadLogits: when it is called: there is no such output (TypeError and ValueError); the message names those
            that are there.
    """

    def __init__(self, model: nn.Module, output: str | int):
        super().__init__()
        self.model = model
        self.output: str | int = _index_or_name(output)
        self.training: bool = model.training

    def forward(self, x: Tensor) -> Any:
        outputs = self.model(x)
        if isinstance(outputs, Tensor):
            raise BadLogits(f"the model returns a tensor, not several outputs: leave out output={self.output!r}")
        try:
            return _selected(outputs, self.output)
        except (KeyError, IndexError, AttributeError, TypeError):
            found = f"there is no output {self.output!r}: {described(outputs, len(x))}"
            raise BadLogits(found) from None

    def extra_repr(self) -> str:
        return f"output={self.output!r}"


def _index_or_name(output: Any) -> str | int:
    if isinstance(output, str):
        return int(output) if output.removeprefix("-").isdecimal() else output
    if not isinstance(output, int) or isinstance(output, bool):
        raise TypeError(f"output must be the name or the index of an output, got {output!r}")
    return output


def _selected(outputs: Any, output: str | int) -> Any:
    if isinstance(outputs, Mapping):
        return outputs[output] if output in outputs else outputs[str(output)]
    return outputs[output] if isinstance(output, int) else dict(named_outputs(outputs))[output]


def named_outputs(outputs: Any) -> Iterator[tuple[str | int, Any]]:
    """Each output of a model with the name or index that selects it; yields none for a tensor or None."""
    if isinstance(outputs, Mapping):
        yield from outputs.items()
    elif isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        yield from zip(outputs._fields, outputs, strict=True)
    elif isinstance(outputs, tuple | list):
        yield from enumerate(outputs)
    elif is_dataclass(outputs):
        yield from ((each.name, getattr(outputs, each.name)) for each in fields(outputs))
    elif not isinstance(outputs, Tensor):
        attributes = getattr(outputs, "__dict__", {})  # not every object keeps them there
        yield from ((name, value) for name, value in attributes.items() if not name.startswith("_"))


def described(outputs: Any, n: int) -> str:
    """What a model returned for ``n`` images that is no tensor, and how to get at its logits, in one line."""
    kind, found = type(outputs).__name__, list(named_outputs(outputs))
    if not found:
        return f"the model returns {kind}: wrap it in a module that returns its logits"
    told = [f"{name!r} {_shape(value)}" for name, value in found[:SHOWN]]
    more = [f"{len(found) - SHOWN} more"] if len(found) > SHOWN else []
    # hidden states and attentions have other shapes
    candidates = [name for name, value in found if _may_be_logits(value, n)]
    if not candidates:
        advice = f"none of them is ({n}, classes): wrap the model in a module that returns its logits"
    else:
        example = "logits" if "logits" in candidates else candidates[0]
        what = "it" if len(candidates) == 1 else "the one that is the logits"
        advice = f"name {what}: output={example!r}, --output {example} or easybn.SelectOutput(model, {example!r})"
    return f"the model returns {kind} with {', '.join([*told, *more])}: {advice}"


def _may_be_logits(value: Any, n: int) -> bool:
    right = isinstance(value, Tensor) and value.dim() == 2 and value.is_floating_point()
    return right and len(value) == n and value.shape[1] >= 2


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
