"""Models by name: the built-in ResNets, any of timm's and torchvision's, and a user's function.

A stored file may name all but the last, with options that only shape the network: what loads, downloads or runs
something is taken from the command line of this very call (:func:`check_stored_options`, :func:`is_code`).
"""

import difflib
import inspect
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from ..user_code import call, is_permitted, load_object
from .checkpoint_files import tensors_only
from .resnet import resnet18, resnet50, resnet_small, resnet_tiny

# Normalisation as the model's first layer, so that every image outside the model is in [0, 1].


class Normalise(nn.Module):
    """(x - mean) / std for each channel.

    Perturbations, balls and eps are in pixels of [0, 1], which needs a model that normalises its own input.

    Args:
        mean, std: one number per channel, of images in [0, 1]; std must be positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise ValueError(f"mean and std need one number per channel each, std positive; got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={[round(v, 4) for v in self.mean.flatten().tolist()]}"


BUILT_IN = {"resnet18": resnet18, "resnet50": resnet50, "resnet_small": resnet_small, "resnet_tiny": resnet_tiny}
LIBRARIES = ("timm", "torchvision", "robustbench", "hub")
FROM_ELSEWHERE = ("pretrained", "weights", "checkpoint_path", "cache_dir")
"""Options that say where the first weights come from; a file of trained weights does not need them."""

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


def build(
    name: str,
    num_classes: int = 10,
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> nn.Module:
    """A model from images in [0, 1], (N, in_channels, H, W), to logits (N, num_classes).

    Args:
        name: one of ``BUILT_IN``, ``timm:NAME``, ``torchvision:NAME``, or a function, ``my.py:make``, if the command
            line of this call names it: it is given num_classes and in_channels if it takes them, and its model is used
            as it is, without a first layer that normalises.
        num_classes, in_channels: numbers of outputs, and of the images' channels.
        mean, std: of the training images in [0, 1], one number per channel, for the first layer; by default 0.5 and
            0.25.
        options: passed on to the model.

    Raises:
        ValueError: an unknown name, code that may not run, or numbers of classes or channels that are not whole and
            positive.
    """
    for option, number in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{option} must be a whole number from 1 on, got {number!r}")
    library, _, rest = name.partition(":")
    if is_code(name):
        if not is_permitted(name):
            raise ValueError(
                f"unknown model {name!r}: a stored name of a function runs no code: repeat it on the command line, "
                f"--model {name}"
            )
        return user_model(name, options, {"num_classes": num_classes, "in_channels": in_channels})
    if library == "timm" and rest:
        network = timm_model(rest, num_classes, in_channels, **options)
    elif library == "torchvision" and rest:
        network = torchvision_model(rest, num_classes, in_channels, **options)
    elif name in BUILT_IN:
        network = BUILT_IN[name](num_classes, in_channels, **options)
    else:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"unknown model {name!r}{hint}; known: {', '.join(BUILT_IN)}, timm:NAME, torchvision:NAME")
    first = Normalise(mean or [0.5] * in_channels, std or [0.25] * in_channels)
    return nn.Sequential(OrderedDict(normalise=first, network=network))


def timm_model(name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """timm's model ``name``; ``options`` go to ``timm.create_model`` (``pretrained=True``, ``img_size=32``).

    Raises:
        ValueError: timm has no model of that name, or cannot load the ``checkpoint_path`` among the options.
    """
    import timm

    if name.split(".")[0] not in timm.list_models() or not re.fullmatch(r"[\w.]+", name):
        raise ValueError(_unknown("timm", name, timm.list_models()))
    try:
        with tensors_only():  # before 1.0.26 timm unpickles
            return timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)
    except Exception as error:
        if not options.get("checkpoint_path"):
            raise
        reason = str(error).split("\n")[0] or type(error).__name__  # no weights, weights of another model, a pickle
        raise ValueError(f"timm:{name}: checkpoint_path {options['checkpoint_path']}: {reason}") from error


def torchvision_model(name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """torchvision's classifier ``name``; ``options`` go to ``torchvision.models.get_model`` (``weights="DEFAULT"``).

    Raises:
        ValueError: torchvision has no classifier of that name, images that are not RGB, or weights that torch's cache
            holds with more than tensors in their file.
    """
    import torchvision.models as library

    known = library.list_models(module=library)  # those for detection and the like download a part by default
    if name not in known:
        raise ValueError(_unknown("torchvision", name, known))
    if in_channels != 3:
        raise ValueError(f"torchvision:{name} takes 3 channels, the images have {in_channels}; timm: models adapt")
    try:
        with tensors_only():  # torch.hub unpickles what lies in its cache, whose checksum it does not test again
            return library.get_model(name, num_classes=num_classes, **options)
    except UnpicklingError as error:
        raise ValueError(
            f"torchvision:{name}: the file of these weights in {torch.hub.get_dir()}/checkpoints holds more than "
            "tensors: do not trust it, remove it"
        ) from error


def check_stored_options(options: Mapping[str, Any], where: str, of_code: bool = False) -> None:
    """ValueError, with ``where``, for an option that a file must not set: one that could load, download or run.

    Allowed are the names in ``SHAPE``, with numbers, truth values, plain words, or lists of these.

    Args:
        of_code: the model is made by a user's function, whose options may have any name.
    """
    for name, value in options.items():
        if not (name in SHAPE or of_code):
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
    """Whether a model's name is that of a user's function: ``module:name`` or ``file.py:Name``."""
    library, _, rest = (name or "").partition(":")
    return bool(rest) and library not in LIBRARIES


def user_model(name: str, options: dict[str, Any] | None = None, offers: Mapping[str, Any] | None = None) -> nn.Module:
    """The model that a user's function returns; a class is called too. Its code runs: see :mod:`easybn.user_code`.

    Args:
        name: ``module:name`` or ``file.py:Name``.
        options: keyword arguments of the function.
        offers: further ones, given only if the function takes them.

    Raises:
        ValueError: no such module or function, one that fails, or that returns no model.
    """
    make = load_object(name, "--model")
    taken = {key: value for key, value in (offers or {}).items() if key in _parameters(make)}
    model = call(make, name, "--model", **{**taken, **(options or {})})
    if not isinstance(model, nn.Module):
        function = name.rpartition(":")[2]
        raise ValueError(f"--model {name}: {function} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _parameters(make: Any) -> list[str]:
    try:
        return list(inspect.signature(make).parameters)
    except (TypeError, ValueError):  # some built-in callables do not say
        return []
