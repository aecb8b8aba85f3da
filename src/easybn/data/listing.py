"""Which files of an image folder belong to which split and class."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from .pictures import SUFFIXES
from .split import DataError, printable

_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VALIDATION = ("val", "valid", "validation")
# what systems and file managers leave in any folder; whatever starts with a dot is hidden too
_OF_THE_SYSTEM = (
    *("$recycle.bin", "@eadir", "__macosx", "desktop.ini", "lost+found", "system volume information", "thumbs.db"),
)

_BYTES = "its name is not UTF-8, and taken for Windows' Western code page"

Files = list[tuple[str, int]]  # (name, label), by class and then by name
Name = tuple[str, ...]  # its parts


@dataclass(frozen=True)
class Listing:
    """The classes in alphabetical order, the training files, and the test files if there are any.

    Args:
        notes: what a reader should know: files that are not read, folders that are left out.
        flat: there are only class folders, and nothing says whether they are for training or for test.
    """

    classes: tuple[str, ...]
    train: Files
    test: Files | None
    notes: tuple[str, ...] = ()
    flat: bool = False


def list_images(names: Sequence[str], where: str, folders: Sequence[str] = ()) -> Listing:
    """Sort the files called ``names`` into splits and classes.

    A class is the folder below the split's: ``train/cat/1.png`` and ``train/cat/more/2.png`` are cats. Names of
    classes are compared as Unicode's NFC, so that an accent may be written either way; one that is not UTF-8 is taken
    for Windows' Western code page. The test split is ``test/``, or
    ``val/`` where there is no ``test/``; other folders beside ``train/`` are left out. ``train`` is empty where there
    is only a test split.

    Args:
        names: of all files, their parts separated by '/'.
        where: what an error calls the folder.
        folders: the names of all folders, so that one without images is seen.

    Raises:
        DataError: no image, an image outside any class, a class without images, two folders of one class, or a test
            class that training does not have.
    """
    files, kept_folders = _visible(names), _visible(folders)
    images = [name for name in files if _is_image(name)]
    if not images:
        found = f" that can be read among {_suffixes(files)}" if files else ""
        raise DataError(
            f"{where}: has no images{found} (read are {' '.join(SUFFIXES)}): expected CLASS/IMAGE or train/CLASS/IMAGE"
        )
    depth = _depth(images)
    above = images[0][:depth]
    every = {name[depth] for name in kept_folders if len(name) > depth and name[:depth] == above}
    # a split's folder holds class folders: one that holds only images is a class, say of trains
    nested = {name[depth] for name in images if len(name) > depth + 2}
    direct = {name[depth] for name in images if len(name) == depth + 2} - nested
    tops = sorted(nested | every - direct)

    def called(known: tuple[str, ...]) -> list[str]:
        return [top for top in tops if top.lower() in known]

    train = called(_TRAIN)
    test = called(_TEST) or called(_VALIDATION)
    if len(train) > 1 or len(test) > 1:
        several = ", ".join(f"{top}/" for top in (*train, *test))
        raise DataError(f"{where}: has {several}: expected one train/ and one test/ (or val/)")
    read = _Reader(where, files, kept_folders, above)
    if not train and not test:
        classes, everything = read.split(None)
        return Listing(classes, everything, None, read.notes(classes), flat=True)
    if not test and (loose := [top for top in sorted(direct) if top.lower() in (*_TEST, *_VALIDATION)]):
        raise DataError(f"{where}: the images in {loose[0]}/ are in no class folder: move them to {loose[0]}/CLASS/")
    if not train and direct:
        beside = f"{test[0]}/ and, beside it, class folders such as {min(direct)}/"
        raise DataError(f"{where}: has {beside}: move the class folders into train/")
    read.leave_out({*tops, *direct}, {*train, *test})
    if not train:
        classes, everything = read.split(test[0])
        return Listing(classes, [], everything, read.notes(classes))
    classes, train_files = read.split(train[0])
    if not test:
        return Listing(classes, train_files, None, read.notes(classes))
    test_classes, test_files = read.split(test[0])
    if unknown := sorted(set(test_classes) - set(classes)):
        near = difflib.get_close_matches(unknown[0].lower(), [name.lower() for name in classes], 1, 0.8)
        hint = f" (did you mean {next(name for name in classes if name.lower() == near[0])!r}?)" if near else ""
        raise DataError(
            f"{where}: {test[0]}/ has the class {unknown[0]!r}, {train[0]}/ has not{hint}: add, rename or remove it"
        )
    label = {test_classes.index(name): classes.index(name) for name in test_classes}
    if missing := [name for name in classes if name not in test_classes]:
        read.remarks.append(f"classes without test images: {_few(missing)}")
    return Listing(classes, train_files, [(file, label[old]) for file, old in test_files], read.notes(classes))


class _Reader:
    """Sorts the files of splits into classes, and collects notes about them.

    Args:
        where: what an error calls the folder.
        files, folders: all that count.
        top: the folders around everything.
    """

    def __init__(self, where: str, files: list[Name], folders: list[Name], top: Name) -> None:
        self.where, self.files, self.folders, self.top = where, files, folders, top
        self.remarks: list[str] = []
        self.unread: list[Name] = []
        self.deeper: list[Name] = []

    def split(self, folder: str | None) -> tuple[tuple[str, ...], Files]:
        """The classes and files of the split in ``folder``; None where there are only class folders."""
        above = self.top if folder is None else (*self.top, folder)
        depth = len(above)
        by_folder: dict[str, list[Name]] = {
            name[depth]: [] for name in self.folders if len(name) > depth and name[:depth] == above
        }
        for name in self.files:
            if name[:depth] == above and len(name) > depth + 1:
                by_folder.setdefault(name[depth], []).append(name)
            elif name[:depth] == above and _is_image(name):
                advice = f"move it to CLASS/{name[-1]}"
                if "\\" in name[-1]:  # a zip made on Windows, unpacked by a program that takes its names as they are
                    advice = "its name has backslashes in the place of folders: give the zip itself, or unpack it anew"
                raise DataError(f"{self.where}: {'/'.join(name)} is in no class folder: {advice}")
        if not by_folder:
            raise DataError(f"{self.where}: {'/'.join(above)}/ has no images: add some, or remove the folder")
        classes = self._classes(sorted(by_folder), above)
        classified: Files = []
        for number, raw in enumerate(classes.values()):
            images = [file for file in by_folder[raw] if _is_image(file)]
            if not images:
                others = f"none that can be read ({_suffixes(by_folder[raw])})" if by_folder[raw] else "it is empty"
                place = "/".join((*above, raw))
                raise DataError(
                    f"{self.where}: the class folder {place}/ has no images, {others}: add some, or remove the folder"
                )
            self.unread += [file for file in by_folder[raw] if not _is_image(file)]
            self.deeper += [file for file in images if len(file) > depth + 2]
            classified += sorted(("/".join(file), number) for file in images)
        return tuple(classes), classified

    def _classes(self, folders: list[str], above: Name) -> dict[str, str]:
        """The folder of each class, by its name."""
        folder_of_class: dict[str, str] = {}
        for folder in folders:
            name = unicodedata.normalize("NFC", _text(folder))
            if _text(folder) != folder:
                self.remarks.append(
                    f"the class folder {printable('/'.join((*above, folder)))}/ is read as {name!r}: {_BYTES}"
                )
            if any(unicodedata.category(letter) == "Cc" for letter in name):
                raise DataError(f"{self.where}: the class {name!r} has control characters in its name: rename it")
            if name in folder_of_class:
                raise DataError(
                    f"{self.where}: the class {name!r} has two folders, their names written in two ways "
                    f"({folder_of_class[name]!a} and {folder!a}): move all its images into one"
                )
            folder_of_class[name] = folder
        return dict(sorted(folder_of_class.items()))

    def leave_out(self, tops: set[str], used: set[str]) -> None:
        """Note which of ``tops``, the folders beside each other, are not in ``used``."""
        at = len(self.top)
        for top in sorted(tops - used):
            if count := sum(_is_image(name) and name[: at + 1] == (*self.top, top) for name in self.files):
                self.remarks.append(f"left out: the folder {top}/ with {count:,} images")

    def notes(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """About all splits that were read."""
        notes = list(self.remarks)
        if self.unread:
            notes.append(f"files in class folders that are not read: {_suffixes(self.unread)}")
        if self.deeper:
            notes.append(f"images in folders inside class folders, taken for that class: {len(self.deeper):,}")
        lower = Counter(name.lower() for name in classes)
        if alike := [name for name in classes if lower[name.lower()] > 1]:
            notes.append(f"classes whose names differ only in upper and lower case: {_few(alike)}")
        return tuple(notes)


def _visible(names: Sequence[str]) -> list[Name]:
    """The names in parts, but for what a file manager, an archiver or a system hides."""
    parts = [PurePosixPath(name).parts for name in names]
    named = (name for name in parts if name)  # an archive may hold an entry called "" or "."
    return [name for name in named if not any(part.startswith(".") or part.lower() in _OF_THE_SYSTEM for part in name)]


def _is_image(name: Name) -> bool:
    return name[-1].lower().endswith(SUFFIXES)


def _text(name: str) -> str:
    """``name``, or what its bytes say in Windows' Western code page where they are not UTF-8."""
    content = name.encode(errors="surrogateescape")
    for encoding in ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            return content.decode(encoding)
    return printable(name)


def _suffixes(files: Sequence[Name]) -> str:
    """How many files there are of which suffix: "3 .heic, 1 without suffix"."""
    count = Counter(PurePosixPath(name[-1]).suffix.lower() or "without suffix" for name in files)
    return _few([f"{n:,} {suffix}" for suffix, n in count.most_common()])


def _few(words: Sequence[str]) -> str:
    return ", ".join(words[:10]) + (f" and {len(words) - 10:,} more" if len(words) > 10 else "")


def _depth(images: list[Name]) -> int:
    """How many folders wrap everything: an archive often holds one folder that holds the splits or classes."""
    depth = 0
    while all(len(name) >= depth + 3 for name in images) and len({name[depth] for name in images}) == 1:
        if images[0][depth].lower() in (*_TRAIN, *_TEST, *_VALIDATION):
            break
        depth += 1
    return depth
