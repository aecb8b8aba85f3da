"""Stage ``smoke``: the tests marked ``gpu``, a row each."""

from pathlib import Path


def main(out: Path, seconds: float, small: bool, device: str) -> None:
    raise NotImplementedError
