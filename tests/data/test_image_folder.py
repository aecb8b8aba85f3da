"""Image folders and zips of them."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from easybn.data import DataError, load
from easybn.data.file_tree import open_tree
from easybn.data.image_folder import _name, image_folder
from easybn.data.listing import list_images
from easybn.data.pictures import decode_picture

RNG = np.random.default_rng(0)


def silent(done: int, total: int, what: str) -> None:
    pass


def picture(path: Path, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = RNG.integers(0, 256, (size[1], size[0], len(Image.new(mode, (1, 1)).getbands())), dtype=np.uint8)
    Image.fromarray(values[..., 0] if mode == "L" else values, mode=None).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train/ and test/ of three classes, 8 x 6 pixels."""
    root = tmp_path / "pets"
    for kind, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog", "owl"):
            for number in range(count):
                picture(root / kind / name / f"{number}.png")
    return root


def zipped(folder: Path, wrapper: str = "") -> Path:
    path = folder.parent / "pets.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*"), reverse=True):
            archive.write(file, f"{wrapper}{file.relative_to(folder).as_posix()}")
    return path


def test_torchvision_reads_the_same(folder: Path) -> None:
    source = load(folder, progress=silent)
    assert source.name == "pets"
    for split, kind in ((source.train, "train"), (source.test, "test")):
        theirs = torchvision.datasets.ImageFolder(folder / kind)
        assert tuple(theirs.classes) == source.classes
        assert split.labels.tolist() == theirs.targets
        for ours, (image, _) in zip(split.images, theirs, strict=True):
            assert np.array_equal(ours.numpy(), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("wrapper", ["", "pets/"])
def test_a_zip_gives_what_its_folder_gives(folder: Path, wrapper: str) -> None:
    packed, plain = load(zipped(folder, wrapper), progress=silent), load(str(folder), progress=silent)
    assert torch.equal(packed.train.images, plain.train.images)
    assert torch.equal(packed.test.images, plain.test.images)
    assert torch.equal(packed.train.labels, plain.train.labels)
    assert packed.mean == plain.mean


def test_a_changed_image_is_decoded_again(folder: Path) -> None:
    before = load(folder, progress=silent).train.images.clone()
    told: list[str] = []
    assert torch.equal(load(folder, progress=lambda *call: told.append(call[2])).train.images, before)
    assert told == []
    picture(folder / "train" / "cat" / "0.png")
    after = load(folder, progress=lambda *call: told.append(call[2])).train.images
    assert told == ["pets: sizes", "pets: train", "pets: test"]
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1:], before[1:])


def test_grey_and_colour_are_brought_to_one_kind(folder: Path) -> None:
    picture(folder / "train" / "cat" / "0.png", mode="L")
    picture(folder / "train" / "cat" / "1.png", mode="RGBA")
    with Image.open(folder / "train" / "cat" / "2.png") as image:
        image.quantize(4).save(folder / "train" / "cat" / "2.png", transparency=b"\x00\x80")
    colour, grey = load(folder, progress=silent), load(folder, channels=1, progress=silent)
    assert colour.train.shape == (3, 6, 8)
    assert grey.train.shape == (1, 6, 8)
    with Image.open(folder / "train" / "cat" / "0.png") as image:
        assert np.array_equal(colour.train.images[0].numpy(), np.stack([np.asarray(image)] * 3))
        assert np.array_equal(grey.train.images[0, 0].numpy(), np.asarray(image))
    with Image.open(folder / "train" / "cat" / "1.png") as image:
        pixels = np.asarray(image).astype(float)
        on_white = (pixels[..., :3] * pixels[..., 3:] + 255 * (255 - pixels[..., 3:])) / 255
        assert np.abs(colour.train.images[1].numpy() - on_white.transpose(2, 0, 1)).max() <= 1
    told = "transparent pictures put on white: 2"
    assert told in colour.notes
    assert load(folder, progress=silent).notes == colour.notes  # from the cache, too
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    exact = (colour.train.images[3].float() * weights).sum(0)
    assert (grey.train.images[3, 0].float() - exact).abs().max() <= 1


def test_images_of_unequal_size_are_brought_to_one(folder: Path) -> None:
    odd = folder / "train" / "dog" / "1.png"
    picture(odd, size=(20, 12))
    unasked = load(folder, progress=silent)
    assert "pictures of 2 sizes, 8 x 6 to 20 x 12 (width x height)" in unasked.notes
    assert any(note.startswith("all are brought to 6 x 6") for note in unasked.notes)
    source = load(folder, resize=6, progress=silent)
    assert torch.equal(source.train.images, unasked.train.images)
    assert source.train.shape == (3, 6, 6)
    with Image.open(odd) as image:
        expected = image.resize((10, 6), Image.Resampling.BILINEAR).crop((2, 0, 8, 6))
        assert np.array_equal(source.train.images[5].numpy(), np.asarray(expected).transpose(2, 0, 1))


def test_large_pictures_of_several_sizes_become_no_larger_than_usual(tmp_path: Path) -> None:
    for kind in ("train", "test"):
        for number, size in enumerate(((300, 400), (500, 260))):
            picture(tmp_path / kind / "a" / f"{number}.png", size)
    assert load(tmp_path, progress=silent).test.shape == (3, 224, 224)
    assert load(tmp_path, resize=250, progress=silent).test.shape == (3, 250, 250)


def test_resizing_is_torchvisions_resize_and_centre_crop(tmp_path: Path) -> None:
    for size in ((23, 11), (9, 30), (12, 12), (5, 4)):
        picture(tmp_path / "one.png", size)
        with Image.open(tmp_path / "one.png") as image:
            theirs = torchvision.transforms.functional.center_crop(
                torchvision.transforms.functional.resize(image, [7]), [7]
            )
            ours = decode_picture((tmp_path / "one.png").read_bytes(), "one", 3, 7)
            assert np.array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "other", "cut"])
def test_a_damaged_image_is_named(folder: Path, content: bytes | None, as_zip: bool) -> None:
    bad = folder / "test" / "owl" / "1.png"
    bad.write_bytes(bad.read_bytes()[:60] if content is None else content)
    with pytest.raises(DataError, match=r"test/owl/1.png: is no readable image \(.*\): replace or remove it") as caught:
        load(zipped(folder) if as_zip else folder, progress=silent)
    assert "\n" not in str(caught.value)


def test_an_image_that_announces_too_many_pixels_is_never_decoded(folder: Path) -> None:
    Image.new("1", (5800, 5800)).save(folder / "train" / "cat" / "1.png")
    with pytest.raises(DataError, match=r"train/cat/1.png: has 5800 x 5800 pixels, more than 33554432"):
        load(folder, progress=silent)


def test_a_test_split_is_drawn_on_request_alone(folder: Path) -> None:
    with pytest.raises(DataError, match="has a test split of its own"):
        load(folder, test_fraction=0.5)
    shutil.rmtree(folder / "test")
    with pytest.raises(DataError, match=r"has no test/ or val/ folder: .*--test_fraction 0.2"):
        load(folder)
    everything = sorted(np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.png"))
    source = load(folder, test_fraction=0.25, progress=silent)
    assert source.train.labels.bincount().tolist() == [3, 3, 3]
    assert source.test.labels.bincount().tolist() == [1, 1, 1]
    images = torch.cat((source.train.images, source.test.images))
    assert sorted(image.permute(1, 2, 0).numpy().tobytes() for image in images) == everything
    again = load(zipped(folder), test_fraction=0.25, progress=silent)
    assert torch.equal(again.test.images, source.test.images)


@pytest.mark.parametrize("entry", [
    "../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png", "a\\..\\..\\evil.png", "a/..\\../evil.png",
    "C:/evil.png", "C:\\evil.png", "c:evil.png", "\\\\server\\evil.png", "\\evil.png",
])  # fmt: skip
def test_a_zip_whose_names_lead_out_of_it_is_refused(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, b"")
    with pytest.raises(DataError, match=r"entry .*evil.png' leads out of the archive"):
        load(path)
    assert [file.name for file in tmp_path.iterdir()] == ["evil.zip"]


def test_a_zip_entry_of_absurd_size_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easybn.data.file_tree.LARGEST", 1000)
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/1.png", bytes(1001))
    with open_tree(path) as tree, pytest.raises(DataError, match=r"train/a/1.png has more than 1000 bytes"):
        tree.read("train/a/1.png")


def test_what_is_no_folder_and_no_zip_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: there is no such folder or zip file"):
        image_folder(tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"a/1.png: is a broken link"):
        image_folder(tmp_path)
    (tmp_path / "note.zip").write_text("no zip")
    with pytest.raises(DataError, match=r"note\.zip: is neither a folder nor a readable zip file"):
        image_folder(tmp_path / "note.zip")
    with pytest.raises(DataError, match="channels must be 3"):
        image_folder(tmp_path, channels=4)
    with pytest.raises(DataError, match="test_fraction must be between 0 and 1"):
        image_folder(tmp_path, test_fraction=1.0)
    with pytest.raises(DataError, match="resize must be at least 1"):
        image_folder(tmp_path, resize=0)


def test_cifar10_as_jpeg_has_its_own_name(cifar_zip: Path, tmp_path: Path) -> None:
    with open_tree(cifar_zip) as tree:
        listing = list_images(tree.names(), "zip")
    assert listing.test is not None
    assert np.bincount([label for _, label in listing.train]).tolist() == [5000] * 10
    assert np.bincount([label for _, label in listing.test]).tolist() == [1000] * 10
    assert _name(cifar_zip, listing, (3, 32, 32)) == "cifar10-jpeg"
    assert _name(cifar_zip, listing, (3, 64, 64)) == "cifar10-images"


def test_a_part_of_the_cifar_zip_is_what_pillow_reads(cifar_zip: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.zip"
    with zipfile.ZipFile(cifar_zip) as whole, zipfile.ZipFile(path, "w") as part:
        for name in whole.namelist():
            if name.endswith(("0007.jpg", "0123.jpg")):
                part.writestr(name, whole.read(name))
    source = load(path, progress=silent)
    assert source.name == "part"
    assert source.classes[6] == "frog"
    assert source.train.labels.tolist() == [label for label in range(10) for _ in range(2)]
    with zipfile.ZipFile(path) as part, Image.open(part.open("train/frog/0123.jpg")) as image:
        assert np.array_equal(source.train.images[13].numpy(), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", ["gif", "jfif", "jpe", "JPE", "avif", "dib", "apng", "pnm"])
def test_the_less_usual_suffixes_are_read(folder: Path, suffix: str) -> None:
    kind = {"gif": "GIF", "avif": "AVIF", "dib": "DIB", "apng": "PNG", "pnm": "PPM"}.get(suffix, "JPEG")
    for file in folder.glob("*/dog/*.png"):
        with Image.open(file) as image:
            image.save(file.with_suffix(f".{suffix}"), kind)
        file.unlink()
    source = load(folder, progress=silent)
    assert source.classes == ("cat", "dog", "owl")
    assert source.train.labels.bincount().tolist() == [4, 4, 4]


def test_a_class_folder_that_is_emptied_later_is_seen_in_spite_of_the_cache(folder: Path) -> None:
    load(folder, progress=silent)
    (folder / "train" / "wolf").mkdir()
    with pytest.raises(DataError, match=r"class folder train/wolf/ has no images, it is empty"):
        load(folder, progress=silent)
    with zipfile.ZipFile(path := zipped(folder), "a") as archive:
        archive.mkdir("train/wolf")
    with pytest.raises(DataError, match=r"class folder train/wolf/ has no images, it is empty"):
        load(path, progress=silent)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("place", ["test", "val", ""])
def test_test_images_alone_can_be_evaluated_but_not_trained_on(folder: Path, place: str, cache: bool) -> None:
    every = load(folder, progress=silent).test
    root = folder.parent / "mine"
    (root / place).parent.mkdir(exist_ok=True)
    shutil.copytree(folder / "test", root / place)
    source = load(root, progress=silent, cache=cache)
    assert (len(source.train), source.mean, source.std) == (0, (), ())
    assert torch.equal(source.test.images, every.images)
    assert torch.equal(source.test.labels, every.labels)
    for attempt in (source.check_trainable, lambda: source.part(1), lambda: source.holdout(1, 0)):
        with pytest.raises(DataError, match=r"mine: has only test images, .*--test_fraction 0.2"):
            attempt()
    if place:
        with pytest.raises(DataError, match=r"test split of its own: rename it to train/"):
            load(root, test_fraction=0.5)


@pytest.mark.parametrize("wrapper", ["", "pets\\"])
def test_a_zip_made_on_windows(folder: Path, wrapper: str) -> None:
    path = folder.parent / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            entry = zipfile.ZipInfo("x")
            entry.filename = wrapper + str(file.relative_to(folder)).replace("/", "\\")
            archive.writestr(entry, file.read_bytes())
    packed, plain = load(path, progress=silent), load(folder, progress=silent)
    assert packed.classes == plain.classes
    assert torch.equal(packed.train.images, plain.train.images)
    assert torch.equal(packed.test.labels, plain.test.labels)


def test_two_zip_entries_that_become_one_name_are_refused(tmp_path: Path) -> None:
    for names in (("a/1.png", "a\\1.png"), ("a/1.png", "./a/1.png"), ("a/1.png", "a//1.png")):
        with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
            for name in names:
                archive.writestr(name, b"")
        with pytest.raises(DataError, match=r"two entries have the same name, 'a/1.png'"):
            load(tmp_path / "twice.zip")


@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_zip_names_without_the_flag_of_utf_8(tmp_path: Path, encoding: str) -> None:
    """Archivers of other systems write UTF-8 without saying so; the format's own default is an old code page."""
    picture(tmp_path / "1.png")
    path = tmp_path / "old.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train/caf?/1.png", "test/caf?/1.png", "train/b/1.png"):
            archive.write(tmp_path / "1.png", name)
    raw = "é".encode(encoding)
    name = b"caf" + raw
    content = path.read_bytes()
    if len(raw) == 1:
        path.write_bytes(content.replace(b"caf?", name))
    else:  # one byte more in each name would move everything: take it from the letters
        path.write_bytes(content.replace(b"caf?", b"ca" + raw))
    source = load(path, progress=silent)
    assert source.classes == ("b", "café" if len(raw) == 1 else "caé")
    assert source.test.labels.tolist() == [1]
    told = "names in the zip that are not UTF-8 are read in the old PC code page, such as 'train/café/1.png'"
    assert (told in source.notes) == (encoding == "cp437")


def test_a_backslash_inside_a_letter_is_no_folder(tmp_path: Path) -> None:
    """Shift JIS has letters whose second byte is that of a backslash: two classes would become one."""
    path = tmp_path / "japanese.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train/??a/1.png", "train/??b/1.png"):
            archive.writestr(name, b"")
    path.write_bytes(path.read_bytes().replace(b"??", "表".encode("shift_jis")))
    with pytest.raises(DataError, match="is in an unknown code page: zip it in UTF-8"):
        load(path)
