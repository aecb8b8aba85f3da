"""Which file belongs to which split and class."""

import pytest

from easybn.data import DataError
from easybn.data.listing import list_images


def test_classes_alone_are_training_data() -> None:
    listing = list_images(["dog/1.png", "cat/2.JPG", "cat/1.png", "cat/more/3.png", "readme.txt"], "here")
    assert listing.classes == ("cat", "dog")
    assert listing.train == [("cat/1.png", 0), ("cat/2.JPG", 0), ("cat/more/3.png", 0), ("dog/1.png", 1)]
    assert listing.test is None


@pytest.mark.parametrize("test", ["test", "val", "Validation"])
@pytest.mark.parametrize("wrapper", ["", "set/", "a/b/"])
def test_splits_are_found_by_name_below_any_wrapper(wrapper: str, test: str) -> None:
    names = [f"{wrapper}{name}" for name in ("train/a/1.png", "train/b/1.png", "train/c/1.png", f"{test}/c/9.png")]
    listing = list_images(names, "here")
    assert listing.classes == ("a", "b", "c")
    assert listing.train == [(f"{wrapper}train/{name}/1.png", label) for label, name in enumerate("abc")]
    assert listing.test == [(f"{wrapper}{test}/c/9.png", 2)]


def test_test_goes_before_val() -> None:
    listing = list_images(["train/a/1.png", "val/a/2.png", "test/a/3.png", "extra/b/4.png"], "here")
    assert listing.classes == ("a",)
    assert listing.test == [("test/a/3.png", 0)]


def test_a_single_class_is_no_wrapper_and_a_class_may_be_called_train() -> None:
    assert list_images(["cat/1.png", "cat/2.png"], "here").classes == ("cat",)
    assert list_images(["car/1.png", "train/2.png"], "here").classes == ("car", "train")


def test_hidden_files_do_not_count() -> None:
    listing = list_images(["a/1.png", "a/._1.png", "__MACOSX/a/1.png", ".trash/b/1.png"], "here")
    assert listing.train == [("a/1.png", 0)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no images"),
        (["a/1.txt"], "has no images"),
        (["a/1.png", "2.png"], "2.png is in no class folder"),
        (["train/a/1.png", "train/2.png"], "train/2.png is in no class folder"),
        (["test/a/1.png", "a/1.png"], r"has test/ and, beside it, class folders such as a/: .* into train/"),
        (["test/a/1.png", "Testing/a/1.png"], "has Testing/, test/: expected one train/ and one test/"),
        (["train/a/1.png", "Train/a/1.png"], "expected one train/"),
        (["a\\1.png", "b\\1.png"], "its name has backslashes in the place of folders: give the zip itself"),
        (["a\nb/1.png"], r"the class 'a\\nb' has control characters"),
        (["train/a/1.png", "test/z/1.png"], "test/ has the class 'z', train/ has not"),
        (["train/Cat/1.png", "test/cat/1.png"], r"'cat', train/ has not \(did you mean 'Cat'\?\)"),
        (["train/a/1.png", "test/1.png"], "the images in test/ are in no class folder: move them to test/CLASS/"),
        (["a/1.heic", "a/2.HEIC", "b/3"], "has no images that can be read among 2 .heic, 1 without suffix"),
    ],
)
def test_anything_else_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list_images(names, "here")
    assert str(caught.value).startswith("here: ")


def test_classes_with_a_test_split_alone() -> None:
    for split in ("test", "val"):
        listing = list_images([f"{split}/b/1.png", f"{split}/a/2.png"], "here")
        assert (listing.classes, listing.train) == (("a", "b"), [])
        assert listing.test == [(f"{split}/a/2.png", 0), (f"{split}/b/1.png", 1)]


@pytest.mark.parametrize(
    ("names", "folders", "message"),
    [
        (["a/1.png"], ["a", "b"], r"the class folder b/ has no images, it is empty"),
        (["a/1.png", "b/1.heic", "b/2.txt"], ["a", "b"], r"b/ has no images, none .* \(1 .heic, 1 .txt\)"),
        (["train/a/1.png", "train/b/1"], [], r"train/b/ has no images, none .* \(1 without suffix\)"),
        (["train/a/1.png", "test/a/1.png"], ["train/a", "test/a", "test/b"], "test/b/ has no images, it is"),
        (["w/train/a/1.png", "w/test/a/1.png"], ["w/train/b"], "folder w/train/b/ has no images"),
        (["train/a/1.png"], ["train/a", "test", "test/a"], "folder test/a/ has no images"),
        (["train/a/1.png"], ["train/a", "test"], "test/ has no images"),
        (["train/a/1.png", "test/a/b/1.xcf"], ["test", "test/a"], r"test/a/ has no images, none .* \(1 .xcf\)"),
    ],
)  # fmt: skip
def test_a_class_without_images_is_named(names: list[str], folders: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list_images(names, "here", folders)


def test_what_a_system_leaves_is_neither_class_nor_file() -> None:
    names = ["a/1.png", "a/Thumbs.db", "a/.DS_Store", "b/1.png", "b/desktop.ini", ".ipynb_checkpoints/1.png"]
    listing = list_images(names, "here", ["a", "b", ".git", "__MACOSX", "@eaDir", ".ipynb_checkpoints"])
    assert listing.classes == ("a", "b")
    assert listing.notes == ()


def test_notes_of_what_is_not_read() -> None:
    names = ["train/a/1.PNG", "train/a/notes.txt", "train/A/1.JPE", "train/A/2.heic", "train/A/3.HEIC"]
    names += ["train/A/deep/4.gif", "test/a/1.jfif", "val/a/1.png", "readme.txt"]
    listing = list_images(names, "here")
    assert listing.classes == ("A", "a")
    assert listing.notes == (
        "left out: the folder val/ with 1 images",
        "classes without test images: A",
        "files in class folders that are not read: 2 .heic, 1 .txt",
        "images in folders inside class folders, taken for that class: 1",
        "classes whose names differ only in upper and lower case: A, a",
    )


def test_an_accent_written_in_two_ways_is_one_class() -> None:
    listing = list_images(["train/cafe\u0301/1.png", "train/b/1.png", "test/caf\u00e9/2.png"], "here")
    assert listing.classes == ("b", "caf\u00e9")
    assert listing.test == [("test/caf\u00e9/2.png", 1)]
    with pytest.raises(DataError, match=r"the class 'caf\u00e9' has two folders, .*'cafe\\u0301' and 'caf\\xe9'"):
        list_images(["train/cafe\u0301/1.png", "train/caf\u00e9/2.png"], "here")


def test_a_name_of_other_bytes_is_read_and_told() -> None:
    listing = list_images(["train/caf\udce9/1.png", "test/caf\u00e9/1.png", "train/\udc81/1.png"], "here")
    assert listing.classes == ("\\x81", "caf\u00e9")
    assert listing.test == [("test/caf\u00e9/1.png", 1)]
    assert any(r"train/caf\xe9/ is read as 'café'" in note for note in listing.notes)
    for note in listing.notes:
        note.encode()


def test_an_archives_entry_without_a_name_is_no_file() -> None:
    listing = list_images(["", ".", "a/1.png", "b/1.png"], "x", ["", "."])
    assert (listing.classes, [name for name, _ in listing.train]) == (("a", "b"), ["a/1.png", "b/1.png"])
