"""Which of the files of an image folder belong to which split and class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from .errors import DataError
from .picture import SUFFIXES

_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VALIDATION = ("val", "valid", "validation")

Files = list[tuple[str, int]]  # (name, label), by class and then by name


@dataclass(frozen=True)
class Listing:
    """The classes in alphabetical order, the training files, and the test files if there are any."""

    classes: tuple[str, ...]
    train: Files
    test: Files | None


def _images(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The names of images, in parts; what a file manager or an archiver hides is left out."""
    parts = [PurePosixPath(name).parts for name in names if name.lower().endswith(SUFFIXES)]
    return [name for name in parts if not any(part.startswith((".", "__MACOSX")) for part in name)]


def _depth(images: list[tuple[str, ...]]) -> int:
    """How many folders wrap everything: an archive often holds one folder that holds the splits or classes."""
    depth = 0
    while all(len(name) >= depth + 3 for name in images) and len({name[depth] for name in images}) == 1:
        if images[0][depth].lower() in (*_TRAIN, *_TEST, *_VALIDATION):
            break
        depth += 1
    return depth


def list_images(names: Sequence[str], where: str) -> Listing:
    """Sort the files called ``names`` into splits and classes.

    A class is the folder below the split's: ``train/cat/1.png`` and ``train/cat/more/2.png`` are cats.
    The test split is ``test/``, or ``val/`` where there is no ``test/``; what else is beside ``train/`` is
    left out. Without ``train/`` everything is training data.

    Args:
        names: of all files, their parts separated by '/'.
        where: what an error calls the folder.

    Raises:
        DataError: no image, an image outside any class, or a test class that training does not have.
    """
    images = _images(names)
    if not images:
        raise DataError(f"{where}: has no images ({' '.join(SUFFIXES)}): expected CLASS/IMAGE or train/CLASS/IMAGE")
    depth = _depth(images)
    # a split's folder holds class folders: one that holds images alone is a class, say of trains
    tops = sorted({name[depth] for name in images if len(name) >= depth + 3})

    def called(known: tuple[str, ...]) -> list[str]:
        return [top for top in tops if top.lower() in known]

    train = called(_TRAIN)
    test = called(_TEST) or called(_VALIDATION)
    if not train and not test:
        classes, files = _by_class(images, depth, where)
        return Listing(classes, files, None)
    if len(train) != 1 or len(test) > 1:
        found = ", ".join(f"{top}/" for top in (*train, *test))
        raise DataError(f"{where}: has {found}: expected one train/ and at most one test/ (or val/)")
    classes, files = _by_class([name for name in images if name[depth] == train[0]], depth + 1, where)
    if not test:
        return Listing(classes, files, None)
    test_classes, test_files = _by_class([name for name in images if name[depth] == test[0]], depth + 1, where)
    if unknown := sorted(set(test_classes) - set(classes)):
        raise DataError(f"{where}: {test[0]}/ has the class {unknown[0]!r}, {train[0]}/ has not: add or remove it")
    label = {test_classes.index(name): classes.index(name) for name in test_classes}
    return Listing(classes, files, [(file, label[old]) for file, old in test_files])


def _by_class(images: list[tuple[str, ...]], depth: int, where: str) -> tuple[tuple[str, ...], Files]:
    for name in images:
        if len(name) < depth + 2:
            raise DataError(f"{where}: {'/'.join(name)} is in no class folder: move it to CLASS/{name[-1]}")
    classes = tuple(sorted({name[depth] for name in images}))
    label = {name: number for number, name in enumerate(classes)}
    files = [("/".join(name), label[name[depth]]) for name in images]
    return classes, sorted(files, key=lambda file: (file[1], file[0]))
