"""Models of timm and torchvision, by name."""

import difflib
from typing import Any

from torch import nn


def timm_model(name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """timm's model ``name``; ``options`` go to ``timm.create_model`` (``pretrained=True``, ``img_size=32``).

    Raises:
        ValueError: timm has no model of that name.
    """
    import timm

    if name.split(".")[0] not in timm.list_models():
        raise ValueError(_unknown("timm", name, timm.list_models()))
    return timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)


def torchvision_model(name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """torchvision's model ``name``; ``options`` go to ``torchvision.models.get_model`` (``weights="DEFAULT"``).

    Raises:
        ValueError: torchvision has no model of that name, or images that are not RGB.
    """
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise ValueError(_unknown("torchvision", name, list_models()))
    if in_channels != 3:
        raise ValueError(f"torchvision:{name} takes 3 channels, the images have {in_channels}; timm: models adapt")
    return get_model(name, num_classes=num_classes, **options)


def _unknown(library: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"{library} has no model {name!r}" + (f"; near it: {', '.join(near)}" if near else "")
