"""Stage ``speed``: images and points per second."""

from pathlib import Path


def main(out: Path, seconds: float, small: bool, device: str) -> None:
    raise NotImplementedError
