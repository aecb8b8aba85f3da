"""Stage ``study``: ResNet-18 trained and attacked."""

from pathlib import Path


def main(out: Path, seconds: float, small: bool, device: str) -> None:
    raise NotImplementedError
