"""Models of timm and torchvision, by name, and which of their options a file may set."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

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
