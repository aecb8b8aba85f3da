"""The cache of decoded images: opened at once, written whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from easybn.data import DataError, Source
from easybn.data import cache as cache_module
from easybn.data.cache import Part, Undecoded, cached, origin_of

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 3, 5, 4), dtype=np.uint8)
LABELS = np.arange(60) % 3


def undecoded() -> Undecoded:
    return Undecoded(
        "toy",
        ("a", "b", "c"),
        (3, 5, 4),
        Part.of_array(IMAGES[:40], LABELS[:40]),
        Part.of_array(IMAGES[40:], LABELS[40:]),
    )


def never() -> Undecoded:
    raise AssertionError("decoded again")


def silent(done: int, total: int, what: str) -> None:
    pass


def open_toy(prepare: object = undecoded, origin: str = "0" * 64, cache: bool = True) -> Source:
    return cached("toy", origin, prepare, cache=cache, progress=silent)  # type: ignore[arg-type]


def same(source: Source) -> bool:
    exact = IMAGES[:40].astype(np.float64) / 255
    return (
        (source.name, source.classes) == ("toy", ("a", "b", "c"))
        and torch.equal(source.train.images, torch.from_numpy(IMAGES[:40]))
        and torch.equal(source.test.images, torch.from_numpy(IMAGES[40:]))
        and torch.equal(source.train.labels, torch.from_numpy(LABELS[:40]))
        and torch.equal(source.test.labels, torch.from_numpy(LABELS[40:]))
        and source.mean == pytest.approx(exact.mean((0, 2, 3)), abs=1e-12)
        and source.std == pytest.approx(exact.std((0, 2, 3)), abs=1e-12)
    )


def entries(home: Path) -> list[Path]:
    return sorted((home / "easybn" / "decoded").glob("*"))


def test_it_is_decoded_once_and_the_same_ever_after(cache_home: Path) -> None:
    first = open_toy()
    again = open_toy(never)
    assert same(first)
    assert same(again)
    assert (again.mean, again.std) == (first.mean, first.std)
    assert [path.name for path in entries(cache_home)] == ["toy-" + "0" * 32]
    assert sorted(path.name for path in entries(cache_home)[0].iterdir()) == [
        "source.json",
        "test_images.npy",
        "test_labels.npy",
        "train_images.npy",
        "train_labels.npy",
    ]


def test_another_origin_is_decoded_again(cache_home: Path) -> None:
    open_toy()
    with pytest.raises(AssertionError, match="decoded again"):
        open_toy(never, origin="1" * 64)
    assert same(open_toy(origin="1" * 64))
    assert len(entries(cache_home)) == 2


def test_without_the_cache_nothing_is_written(cache_home: Path) -> None:
    assert same(open_toy(cache=False))
    assert list(cache_home.iterdir()) == []


def test_writing_to_an_opened_image_does_not_change_the_cache() -> None:
    open_toy().train.images[0] = 0
    assert same(open_toy(never))


def test_the_origin_tells_files_and_options_apart(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")

    def origin(name: str = "file", **options: object) -> str:
        return origin_of([(name, path.stat())], **options)

    first = origin()
    assert origin() == first
    assert origin("other") != first
    assert origin(resize=3) != first
    os.utime(path, ns=(0, 5))
    touched = origin()
    assert touched != first
    path.write_bytes(b"abcd")
    os.utime(path, ns=(0, 5))
    assert origin() not in (first, touched)


@pytest.mark.parametrize("damage", ["cut", "gone", "json", "origin", "label"])
def test_a_damaged_entry_is_decoded_again(cache_home: Path, damage: str) -> None:
    open_toy()
    (folder,) = entries(cache_home)
    images, about = folder / "train_images.npy", folder / "source.json"
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:-1])
    elif damage == "gone":
        images.unlink()
    elif damage == "json":
        about.write_text(about.read_text()[:-20])
    elif damage == "origin":
        about.write_text(about.read_text().replace("0" * 64, "2" * 64))
    else:
        np.save(folder / "test_labels.npy", np.arange(20))
    assert same(open_toy())
    assert same(open_toy(never))
    assert len(entries(cache_home)) == 1


def test_an_error_while_decoding_leaves_nothing(cache_home: Path) -> None:
    def chunks() -> Iterator[NDArray[np.uint8]]:
        yield IMAGES[:20]
        raise DataError("the 21st image is damaged")

    broken = Undecoded("toy", ("a", "b", "c"), (3, 5, 4), Part(LABELS[:40], chunks), undecoded().test)
    with pytest.raises(DataError, match="21st"):
        open_toy(lambda: broken)
    assert entries(cache_home) == []
    assert same(open_toy())


@pytest.mark.parametrize("count", [39, 41])
def test_every_image_needs_its_label(count: int) -> None:
    wrong = Undecoded("toy", ("a", "b", "c"), (3, 5, 4), Part.of_array(IMAGES[:count], LABELS[:40]), undecoded().test)
    with pytest.raises(DataError, match=f"toy: train: every image needs one label, got {count} images and 40 labels"):
        open_toy(lambda: wrong)


def test_of_two_processes_at_once_either_wins_and_both_are_served(cache_home: Path) -> None:
    def chunks() -> Iterator[NDArray[np.uint8]]:
        yield IMAGES[:20]
        assert same(open_toy())  # the other one starts later and is done first
        yield IMAGES[20:40]

    slow = Undecoded("toy", ("a", "b", "c"), (3, 5, 4), Part(LABELS[:40], chunks), undecoded().test)
    assert same(open_toy(lambda: slow))
    assert len(entries(cache_home)) == 1


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_cache as toy

def chunks():
    yield toy.IMAGES[:39]
    os.kill(os.getpid(), signal.SIGKILL)

whole = toy.undecoded()
test = toy.Part(toy.LABELS[40:], chunks)
toy.open_toy(lambda: toy.Undecoded(whole.name, whole.classes, whole.shape, whole.train, test))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_what_a_killed_process_left_is_never_taken_for_whole(cache_home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(Path(__file__).parent)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = entries(cache_home)
    assert left.name.startswith(".")
    open_toy(origin="1" * 64)
    assert left in entries(cache_home)  # of another data set
    assert same(open_toy())
    assert left not in entries(cache_home)


def test_every_flipped_bit_of_the_cache_is_seen(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    open_toy()
    (folder,) = entries(cache_home)
    draw = np.random.default_rng(1)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in draw.choice(8 * len(whole), 40, replace=False):
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << (place % 8)
            path.write_bytes(flipped)
            assert same(open_toy())
            assert path.read_bytes() == whole, (path.name, place)


def test_a_large_cache_is_tested_when_it_has_changed_or_once_a_week(
    cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_SMALL", 0)
    open_toy()
    (folder,) = entries(cache_home)
    images = folder / "train_images.npy"
    now, whole = images.stat(), images.read_bytes()
    with images.open("r+b") as file:
        file.seek(len(whole) - 1)
        file.write(bytes([whole[-1] ^ 1]))
    os.utime(images, ns=(now.st_atime_ns, now.st_mtime_ns))  # as rot does: nothing tells of it
    assert not same(open_toy(never))
    later = time.time() + 8 * 24 * 3600
    monkeypatch.setattr("time.time", lambda: later)
    assert same(open_toy())
    images.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert same(open_toy())
    assert same(open_toy(never))


def test_nothing_of_a_users_is_removed_with_a_damaged_cache(cache_home: Path) -> None:
    open_toy()
    (folder,) = entries(cache_home)
    (folder / "mine.txt").write_text("x")
    (folder / "source.json").write_text("{")
    with pytest.warns(UserWarning, match="holds files that are not easybn's: move it away"):
        assert same(open_toy())
    assert (folder / "mine.txt").exists()
    (folder / "mine.txt").unlink()
    elsewhere = folder.rename(cache_home / "elsewhere")
    folder.symlink_to(elsewhere)
    with pytest.warns(UserWarning, match="move it away"):
        assert same(open_toy())
    assert len(list(elsewhere.iterdir())) == 5


def test_a_cache_of_an_earlier_version_is_decoded_again(cache_home: Path) -> None:
    open_toy()
    (folder,) = entries(cache_home)
    about = json.loads((folder / "source.json").read_text())
    (folder / "source.json").write_text(json.dumps({k: v for k, v in about.items() if k[:8] != "checksum"}))
    assert same(open_toy())
    assert same(open_toy(never))


def test_a_folder_that_cannot_be_written_costs_the_cache_and_not_the_run(cache_home: Path) -> None:
    (cache_home / "easybn").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be written"):
        source = open_toy()
    assert same(source)
