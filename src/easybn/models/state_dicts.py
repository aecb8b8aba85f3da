"""Loads weights from any checkpoint into a model: every tensor finds its place, or an error says which does not.

Checkpoints (:mod:`.checkpoint_files` reads them) differ in where the weights lie among optimisers and arguments
(``state_dict``, ``model``, ``net``, ``ema`` ..., also nested), and in the prefixes that wrappers leave on the names
(``module.``, ``_orig_mod.``, ``model.`` ...). Names and shapes decide: apart from wrappers, what is loaded has exactly
the names of the model's tensors.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint_files import read_checkpoint

WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of a name that data parallel, torch.compile and the like put in, at any depth (``features.module.0``)."""
HOLDERS = {"model", "net", "network", "backbone"}
"""First parts of a name, after the attribute in which a training program keeps its network."""
DEPTH = 4  # of mappings in a checkpoint that are searched for weights
COUNTER = "num_batches_tracked"  # of batch norms since torch 0.4.1
_AVERAGED = re.compile(r"(^|[_.])(ema|swa|averaged?|avg|shadow)([_.]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class _Fit:
    """How the names of a file and of a model go together.

    Args:
        source: for each tensor of the model, its name in the file.
        missing: of the model, not in the file; unexpected: the other way round.
    """

    source: dict[str, str]
    missing: list[str]
    unexpected: list[str]

    @property
    def exact(self) -> bool:
        return not self.missing and not self.unexpected


def load_weights(model: nn.Module, path: Path | str, key: str | None = None) -> None:
    """Put the weights of a checkpoint into ``model``; nothing in the file is run, and no class of it is imported.

    Without ``key`` the weights are found by the names of their tensors. Beside plain weights, averaged ones (EMA) are
    left aside, with a warning that says how to get them. ``num_batches_tracked``, which torch before 0.4.1 did not
    write, is 0 where no tensor of that name is there.

    Args:
        model: filled in place, and only if everything fits.
        path: .safetensors, or what ``torch.save`` wrote, under any name.
        key: where in the file the weights are, nested keys with dots: "state_dict_ema", "ema.model"; the last part
            may be a prefix of the tensors' names: "model.module.model".

    Raises:
        FileNotFoundError: no such file.
        ValueError: no checkpoint, no weights in it, several and no ``key``, or tensors missing, unexpected, of
            another shape or kind; the message names them.
    """
    content = read_checkpoint(Path(path))
    sets = dict(_weight_sets(_under(content, key, path), model, key or ""))
    if not sets:
        where = f" under the weights_key {key}" if key else ""
        raise ValueError(
            f"{path} holds no weights{where}{_keys(content)}: save model.state_dict(), not the model; or .safetensors"
        )
    place, averaged = _choice(sets, model, path)
    _fill(sets[place], model, path, place, averaged)
    if averaged:
        warnings.warn(
            f"{path}: the weights under {place} are used; there are averaged ones, too: {_choose(averaged)}",
            stacklevel=3,
        )


def _weight_sets(content: Any, model: nn.Module, place: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The mappings of names to tensors, some of which are called as the model's are, by their place in the file."""
    if not isinstance(content, Mapping) or depth > DEPTH:
        return
    last = {name.rpartition(".")[2] for name in model.state_dict()}
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if any(name.rpartition(".")[2] in last for name in tensors):
        yield place, tensors
    for name, value in content.items():
        if isinstance(name, str):
            yield from _weight_sets(value, model, f"{place}.{name}" if place else name, depth + 1)


def _under(content: Any, key: str | None, path: Path | str) -> Any:
    """What is under ``key``: a nested mapping, or the entries whose names begin with the last part of it."""
    rest = key or ""
    while rest and isinstance(content, Mapping):
        inner = [name for name, value in content.items() if isinstance(name, str) and isinstance(value, Mapping)]
        into = max((name for name in inner if f"{rest}.".startswith(f"{name}.")), key=len, default=None)
        if into is None:
            names = [name for name in content if isinstance(name, str) and name.startswith(f"{rest}.")]
            if not names:
                raise ValueError(f"{path} has nothing under the weights_key {key}{_keys(content)}")
            return {name.removeprefix(f"{rest}."): content[name] for name in names}
        content, rest = content[into], rest[len(into) + 1 :]
    return content


def _choice(sets: Mapping[str, Any], model: nn.Module, path: Path | str) -> tuple[str, list[str]]:
    """The place of the weights to take, and the places of averaged ones that fit, too.

    Raises:
        ValueError: there are several; the message names them.
    """
    fitting = [place for place in sets if _best_fit(list(sets[place]), model).exact]
    plain = [place for place in sets if not _AVERAGED.search(place)]
    averaged = [place for place in fitting if place not in plain]
    candidates = [place for place in plain if place in fitting] or ([] if plain else averaged)
    if any(not _equal(sets[candidates[0]], sets[place]) for place in candidates[1:]):
        raise ValueError(f"{path} holds several sets of weights: {_choose(fitting)}")
    # where none fits, the message is about the one that comes nearest
    nearest = max(plain or list(sets), key=lambda place: len(_best_fit(list(sets[place]), model).source))
    first = candidates[0] if candidates else nearest
    return first, [place for place in averaged if plain]


def _best_fit(names: list[str], model: nn.Module) -> _Fit:
    """The first way to bring the names together that leaves none over, or the one that brings the most together."""
    names = [name for name in names if name != "n_averaged"]  # a counter of torch.optim.swa_utils.AveragedModel
    all_names = [name for name, value in model.state_dict().items() if isinstance(value, Tensor)]
    fits = [
        _fit(renaming(names), renaming(model_names))
        for model_names in [all_names, *_inner(all_names, model)]
        for renaming in (_as_they_are, _without_wrappers, _without_holders, _without_common)
    ]
    return next((fit for fit in fits if fit.exact), max(fits, key=lambda fit: len(fit.source)))


def _fit(names: dict[str, str], model_names: dict[str, str]) -> _Fit:
    source = {model_names[name]: names[name] for name in model_names if name in names}
    missing = [model_names[name] for name in model_names if name not in names]
    if not any(name.endswith(COUNTER) for name in names):
        missing = [name for name in missing if not name.endswith(COUNTER)]
    return _Fit(source, missing, [names[name] for name in names if name not in model_names])


def _inner(every: list[str], model: nn.Module) -> Iterator[list[str]]:
    """The names below each child that has all parameters: the others, such as a normalisation, keep what they have."""
    parameters = [name for name, _ in model.named_parameters()]
    for child, _ in model.named_children():
        below = [name for name in every if name.startswith(f"{child}.")]
        others = {name.rpartition(".")[2] for name in every if name not in below}
        has_all = len(below) < len(every) and all(name.startswith(f"{child}.") for name in parameters)
        if has_all and not others & {"running_mean", "running_var", COUNTER}:
            yield below


def _as_they_are(names: list[str]) -> dict[str, str]:
    return {name: name for name in names}


def _without_wrappers(names: list[str]) -> dict[str, str]:
    return _renamed(names, lambda parts: [part for part in parts[:-1] if part not in WRAPPERS] + parts[-1:])


def _without_holders(names: list[str]) -> dict[str, str]:
    def bare(parts: list[str]) -> list[str]:
        while len(parts) > 1 and parts[0] in HOLDERS:
            parts = parts[1:]
        return parts

    return _renamed(list(_without_wrappers(names)), bare, _without_wrappers(names))


def _without_common(names: list[str]) -> dict[str, str]:
    before = _without_holders(names)
    split = [name.split(".")[:-1] for name in before]
    common = 0
    while split and all(len(parts) > common and parts[common] == split[0][common] for parts in split):
        common += 1
    return {".".join(name.split(".")[common:]): before[name] for name in before}


def _renamed(
    names: list[str], change: Callable[[list[str]], list[str]], before: dict[str, str] | None = None
) -> dict[str, str]:
    """{new name: original one}; as they are if two would have the same."""
    before = before or _as_they_are(names)
    after = {".".join(change(name.split("."))): original for name, original in before.items()}
    return after if len(after) == len(before) else before


def _fill(state: Mapping[str, Tensor], model: nn.Module, path: Path | str, place: str, others: list[str]) -> None:
    """ValueError with the names of the tensors that do not fit, and with what would."""
    fit, ours = _best_fit(list(state), model), model.state_dict()
    pairs = [(name, ours[name], state[source]) for name, source in fit.source.items()]
    wrong = {
        "missing": fit.missing,
        "unexpected": fit.unexpected,
        "of another shape": [f"{n} {tuple(b.shape)} for {tuple(a.shape)}" for n, a, b in pairs if a.shape != b.shape],
        "of another kind": [f"{n} {b.dtype} for {a.dtype}" for n, a, b in pairs if _kind(a) != _kind(b)],
        "without values": [name for name, _, given in pairs if given.is_meta],
    }
    if any(wrong.values()):
        problems = [f"{len(names)} {what}, such as {names[0]}" for what, names in wrong.items() if names]
        parts = [f"{place}.{prefix}" if place else prefix for prefix in _parts_that_fit(state, model)]
        hint = f"; what fits: {_choose([*parts, *others])}" if parts or others else ""
        of = f"{path} under {place}" if place else path
        raise ValueError(f"the weights in {of} do not fit the model: {'; '.join(problems)}{hint}")
    filled = {name.rpartition(".")[0] for name in fit.source}
    zeros = {
        name: torch.zeros_like(value)
        for name, value in ours.items()
        if name.endswith(COUNTER) and name not in fit.source and name.rpartition(".")[0] in filled
    }
    model.load_state_dict(ours | {name: state[source] for name, source in fit.source.items()} | zeros)


def _parts_that_fit(state: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """The prefixes of names under which there is what the model needs, such as ``module.model`` beside an attacker."""
    prefixes = dict.fromkeys(name[: dot.start()] for name in state for dot in re.finditer(r"\.", name))
    below = {prefix: [n.removeprefix(f"{prefix}.") for n in state if n.startswith(f"{prefix}.")] for prefix in prefixes}
    needed = len(list(model.parameters()))
    fitting = [p for p, names in below.items() if len(names) >= needed and _best_fit(names, model).exact]
    return [p for p in fitting if not any(other.startswith(f"{p}.") for other in fitting)]


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.is_quantized


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _choose(places: list[str]) -> str:
    named = [f"--weights_key {place}" for place in places]
    return f"choose {' or '.join(named)} (in Python weights_key=...)"


def _keys(content: Any) -> str:
    names = [str(name) for name in content] if isinstance(content, Mapping) else []
    return f" (its keys: {', '.join(names[:8])}{' ...' * (len(names) > 8)})" if names else ""
