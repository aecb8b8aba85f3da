"""A user's own model: ``module:function``, from the working folder or whatever is installed.

Its code runs: only what the command line of this very call names comes here, never what a file names.
"""

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

# Models of timm and torchvision, by name, and which of their options a file may set.

LIBRARIES = ("timm", "torchvision")
FROM_ELSEWHERE = ("pretrained", "weights", "checkpoint_path", "cache_dir")
"""Options that say where the first weights come from; a file of trained weights has no need of them."""

SHAPE = {
    word
    for line in (
        # timm
        "img_size patch_size output_stride global_pool class_token reg_tokens pos_embed no_embed_class embed_dim",
        "dynamic_img_size dynamic_img_pad strict_img_size depth depths dims num_heads head_dim num_blocks num_features",
        "layers channels cardinality base_width width stem_width stem_type stem_size stem_kernel_size stem_norm",
        "fix_stem avg_down down_kernel_size kernel_sizes replace_stem_pool block_reduce_first mlp_ratio window_size",
        "always_partition qkv_bias qk_norm scale_attn_norm scale_mlp_norm proj_bias pre_norm final_norm fc_norm",
        "pool_include_prefix init_values ls_init_value zero_init_last weight_init fix_init head_init_scale",
        "head_norm_first head_hidden_size conv_mlp conv_bias use_grn norm_eps act_layer norm_layer pad_type",
        "growth_rate bn_size memory_efficient drop_rate drop_path_rate drop_block_rate pos_drop_rate patch_drop_rate",
        "proj_drop_rate attn_drop_rate",
        # torchvision
        "aux_logits init_weights transform_input dropout attention_dropout stochastic_depth_prob width_mult",
        "zero_init_residual groups width_per_group replace_stride_with_dilation image_size",
    )
    for word in line.split()
}
"""Options that shape a network and do nothing else: all that a file may set."""


def timm_model(name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """timm's model ``name``; ``options`` go to ``timm.create_model`` (``pretrained=True``, ``img_size=32``).

    Raises:
        ValueError: timm has no model of that name, or cannot load the ``checkpoint_path`` among the options.
    """
    import timm

    if name.split(".")[0] not in timm.list_models() or not re.fullmatch(r"[\w.]+", name):
        raise ValueError(_unknown("timm", name, timm.list_models()))
    try:
        return timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)
    except Exception as error:
        if not options.get("checkpoint_path"):
            raise
        reason = str(error).split("\n")[0] or type(error).__name__  # no weights, weights of another model, a pickle
        raise ValueError(f"timm:{name}: checkpoint_path {options['checkpoint_path']}: {reason}") from error


def torchvision_model(name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """torchvision's classifier ``name``; ``options`` go to ``torchvision.models.get_model`` (``weights="DEFAULT"``).

    Raises:
        ValueError: torchvision has no classifier of that name, or images that are not RGB.
    """
    import torchvision.models as library

    known = library.list_models(module=library)  # those for detection and the like download a part by default
    if name not in known:
        raise ValueError(_unknown("torchvision", name, known))
    if in_channels != 3:
        raise ValueError(f"torchvision:{name} takes 3 channels, the images have {in_channels}; timm: models adapt")
    return library.get_model(name, num_classes=num_classes, **options)


def check_stored_options(options: Mapping[str, Any], where: str) -> None:
    """ValueError, with ``where``, for an option that a file must not set: one that could load, download or run.

    Allowed are the names in ``SHAPE``, with numbers, truth values, plain words, or lists of these.
    """
    for name, value in options.items():
        if name not in SHAPE:
            raise ValueError(f"{where}: the option {name!r} of a model is not taken from a file")
        for item in value if isinstance(value, list | tuple) else [value]:
            if not (item is None or isinstance(item, int | float) or _is_word(item)):
                raise ValueError(f"{where}: {item!r} for the option {name!r} of a model is not taken from a file")


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w{0,40}", value) is not None


def _unknown(library: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"{library} has no model {name!r}" + (f"; near it: {', '.join(near)}" if near else "")


def is_code(name: str | None) -> bool:
    """Whether a model's name is that of a function: ``module:function``."""
    library, _, rest = (name or "").partition(":")
    return bool(rest) and library not in LIBRARIES


def own_model(where: str, options: dict[str, Any] | None = None) -> nn.Module:
    """What ``function`` of ``module`` returns; a class serves as well.

    Args:
        where: "module:function"; the module is looked for in the working folder first, what it imports there last.
        options: keyword arguments.

    Raises:
        ValueError: no such module or function, one that fails, or that returns no model.
    """
    name, _, function = where.partition(":")
    name = name.removesuffix(".py").removeprefix("./").replace("/", ".")
    with _found_here(name):
        module = _imported(name, where)
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


def _imported(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever a user's file does when it is imported
        raise ValueError(f"--model {where}: {name} cannot be imported: {type(error).__name__}: {error}") from error


@contextmanager
def _found_here(name: str) -> Iterator[None]:
    """The module ``name`` is found in the working folder first; what files of that folder import is found there last.

    So a torch.py or timm.py in a folder of somebody else's does not take the place of the installed one, nor a wandb.py
    that of a module that is not installed and that timm would use if it was.
    """
    first, last = _Here(lambda wanted: wanted == name.partition(".")[0]), _Here(lambda _: _importer_is_here())
    sys.meta_path.insert(0, first)
    sys.meta_path.append(last)
    try:
        yield
    finally:
        sys.meta_path.remove(first)
        sys.meta_path.remove(last)


class _Here:
    """Finds modules in the working folder."""

    def __init__(self, serves: Callable[[str], bool]):
        self._serves = serves

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        found = path is None and self._serves(name)
        return PathFinder.find_spec(name, [str(Path.cwd())]) if found else None


def _importer_is_here() -> bool:
    """Whether a file of the working folder is what imports."""
    frame = sys._getframe(1)
    while frame.f_back and (frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith("<frozen")):
        frame = frame.f_back
    return Path(frame.f_code.co_filename).is_relative_to(Path.cwd())
