"""Splits, sources, and tensors from elsewhere."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from easybn.data import DataError, Source, Split
from easybn.data.cache import map_array


def pixels(n: int, channels: int = 3, size: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


def labels(n: int, classes: int = 5) -> Tensor:
    return torch.arange(n) % classes


def source(n: int = 50, tests: int = 10) -> Source:
    return Source.from_tensors(pixels(n), labels(n), pixels(tests, seed=1), labels(tests))


def test_a_batch_is_the_asked_rows_in_unit_range() -> None:
    split = Split(pixels(20), labels(20))
    index = torch.tensor([7, 0, 7])
    x, y = split.batch(index)
    assert x.dtype == torch.float32
    assert torch.equal(x, split.images[index].float() / 255)
    assert torch.equal(y, split.labels[index])
    assert (
        Split(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), torch.zeros(1).long()).batch(index[1:2])[0].max() == 1
    )


def test_a_subset_of_a_subset_is_a_view_of_the_same_samples() -> None:
    split = Split(pixels(20), labels(20))
    first, second = torch.tensor([3, 1, 19, 8]), torch.tensor([2, 0])
    view = split.subset(first).subset(second)
    assert len(view) == 2
    assert view.shape == (3, 4, 4)
    assert view.numbers.tolist() == [19, 3]
    assert split.numbers.tolist() == list(range(20))
    assert torch.equal(view.images, split.images[[19, 3]])
    assert torch.equal(view.labels, split.labels[[19, 3]])
    assert torch.equal(view.batch(torch.tensor([1]))[0], split.batch(torch.tensor([3]))[0])
    split.images[3] = 0
    assert view.pixels(torch.tensor([1])).sum() == 0  # nothing was copied


def test_a_subset_refuses_what_is_no_index() -> None:
    split = Split(pixels(4), labels(4))
    with pytest.raises(DataError, match=r"must be in 0 \.\. 3, got 1 \.\. 4"):
        split.subset(torch.tensor([1, 4]))
    with pytest.raises(DataError, match="int64"):
        split.subset(torch.tensor([True, False, True, False]))


def test_a_view_survives_pickling() -> None:
    view = Split(pixels(6), labels(6)).subset(torch.tensor([4, 2]))
    again = pickle.loads(pickle.dumps(view))
    assert torch.equal(again.images, view.images)
    assert torch.equal(again.labels, view.labels)


@pytest.mark.parametrize(
    ("images", "target", "message"),
    [
        (torch.zeros(3, 1, 2, 2), torch.zeros(3).long(), "images must be uint8"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3).long(), r"\(N, C, H, W\)"),
        (pixels(3), torch.zeros(3), "labels must be int64"),
        (pixels(3), torch.zeros(3, 1).long(), r"labels must be int64 of shape \(N,\)"),
        (pixels(3), torch.zeros(2).long(), "3 images and 2 labels"),
        (pixels(2), torch.tensor([0, -1]), "not be negative"),
    ],
)
def test_a_split_refuses_other_shapes_and_types_in_one_line(images: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Split(images, target)
    assert "\n" not in str(caught.value)


def test_a_source_refuses_what_does_not_fit_together() -> None:
    train, test = Split(pixels(10), labels(10)), Split(pixels(5), labels(5))
    names = ("a", "b", "c", "d", "e")
    with pytest.raises(DataError, match="one shape"):
        Source("s", names, train, Split(pixels(5, size=5), labels(5)), (0.5,) * 3, (0.2,) * 3)
    with pytest.raises(DataError, match="a training label is 4, but there are 3 classes"):
        Source("s", names[:3], train, test, (0.5,) * 3, (0.2,) * 3)
    with pytest.raises(DataError, match="each of 3 channels, got 1 and 3"):
        Source("s", names, train, test, (0.5,), (0.2,) * 3)
    with pytest.raises(DataError, match="cannot be normalised"):
        Source("s", names, train, test, (0.5,) * 3, (0.2, 0.0, 0.2))
    with pytest.raises(DataError, match="no test images"):
        Source("s", names, train, Split(pixels(0), labels(0)), (0.5,) * 3, (0.2,) * 3)


def test_statistics_are_those_of_the_training_images_alone() -> None:
    made = source()
    exact = made.train.images.numpy().astype(np.float64) / 255
    assert made.mean == pytest.approx(exact.mean((0, 2, 3)), abs=1e-12)
    assert made.std == pytest.approx(exact.std((0, 2, 3)), abs=1e-12)
    assert made.classes == ("0", "1", "2", "3", "4")


def test_a_part_has_every_class_and_statistics_of_its_own() -> None:
    images, labels = source().train.images[:50], torch.arange(50) // 10  # sorted by class, as folders are
    made = Source.from_splits("sorted", source().classes, Split(images, labels), source().test).part(20)
    assert made.train.labels.bincount().tolist() == [4, 4, 4, 4, 4]
    home = (made.train.images[:, None] == images).flatten(2).all(2).long().argmax(1)
    assert torch.equal(made.train.labels, labels[home])
    assert home.diff().min() > 0  # file order, none twice
    assert made.mean == pytest.approx(made.train.images.double().mean((0, 2, 3)) / 255, abs=1e-12)
    assert len(made.test) == 10
    with pytest.raises(DataError, match=r"1 \.\. 50"):
        source().part(51)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [lambda v: v / 255, lambda v: v * (1 / 255)])
def test_floats_that_are_whole_levels_come_back_exactly(dtype: torch.dtype, scale: object) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    made = Source.from_tensors(scale(every.to(dtype)), torch.zeros(1).int(), every, torch.zeros(1).to(torch.uint8))  # type: ignore[operator]
    assert torch.equal(made.train.images, every)
    assert made.train.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 1, 4, 4), "not whole multiples of 1/255"),
        (pixels(2, 1).float(), r"must be in \[0, 1\]"),
        (pixels(2, 1).float() / 255 - 0.5, "normalise inside the model"),
        (torch.full((2, 1, 4, 4), float("nan")), r"must be in \[0, 1\]"),
        ((pixels(2, 1).float() / 255).half(), "float16"),
        (pixels(2, 1).long(), r"\.to\(torch.uint8\)"),
        (pixels(2, 1)[:, 0], r"images\[:, None\]"),
        (pixels(2, 1).numpy(), "torch.from_numpy"),
    ],
)
def test_other_tensors_are_refused_with_advice(images: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Source.from_tensors(images, labels(2), pixels(2, 1), labels(2))
    assert str(caught.value).startswith("train_images")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.eye(2).long(), "one-hot"),
        (torch.zeros(2), r"use \.long\(\)"),
        (torch.zeros(2).bool(), "whole numbers"),
        ([0, 1], "torch.as_tensor"),
    ],
)
def test_other_labels_are_refused_with_advice(target: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Source.from_tensors(pixels(2), target, pixels(2), labels(2))


def test_holdout_divides_the_training_data_evenly_and_never_touches_the_test_split() -> None:
    numbered = torch.arange(1000).view(-1, 1, 1, 1)
    images = torch.cat((numbered // 256, numbered % 256), 1).to(torch.uint8)  # an image says which it is
    test_images = torch.tensor([[9, 0], [0, 9]], dtype=torch.uint8).view(2, 2, 1, 1)  # numbers above 1000
    made = Source.from_tensors(images, labels(1000, 10), test_images, labels(2, 10))
    train, val = made.holdout(205, seed=3)

    def numbers(split: Split) -> list[int]:
        return [int(high) * 256 + int(low) for high, low in split.images.flatten(1)]

    assert sorted(numbers(train) + numbers(val)) == list(range(1000))
    assert numbers(val) == sorted(numbers(val))
    assert numbers(train) == sorted(numbers(train))
    assert sorted(val.labels.bincount().tolist()) == [20] * 5 + [21] * 5
    assert torch.equal(val.labels, torch.tensor(numbers(val)) % 10)
    assert numbers(made.holdout(205, seed=3)[1]) == numbers(val)
    assert numbers(made.holdout(205, seed=4)[1]) != numbers(val)
    assert set(numbers(made.holdout(100, seed=3)[1])) < set(numbers(val))  # a smaller draw is part of a larger one


@pytest.mark.parametrize("n", [0, 50, -1])
def test_holdout_leaves_something_on_both_sides(n: int) -> None:
    with pytest.raises(DataError, match=re.escape(f"cannot hold out {n} of 50")):
        source().holdout(n, 0)


def test_a_batch_of_an_array_larger_than_memory_reads_its_rows_alone(tmp_path: Path) -> None:
    count, shape = 100_000, (3, 1024, 1024)  # 300 GB of holes
    path = tmp_path / "large.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})
        start = file.tell()
        try:
            file.truncate(start + count * 3 * 2**20)
        except OSError as error:
            pytest.skip(f"no sparse file of this size here: {error}")
        file.seek(start + 99_999 * 3 * 2**20)
        file.write(b"\xff" * 12)
    split = Split(map_array(path), torch.zeros(count, dtype=torch.int64))
    x, _ = split.subset(torch.arange(1, count)).batch(torch.tensor([99_998, 0]))
    assert x[0].sum() == 12
    assert x[1].sum() == 0
    assert path.stat().st_blocks * 512 < 2**20


class Pairs:
    """A data set as torchvision's are: items (image, label)."""

    classes = ("zero", "one", "two", "three", "four")

    def __init__(self, images: Tensor, of: Callable[[Tensor], object]) -> None:
        self.images, self.of = images, of

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[object, object]:
        return self.of(self.images[number]), torch.tensor(number % 5)


OF = {
    "pictures": lambda image: Image.fromarray(image.permute(1, 2, 0).numpy()),
    "tensors": lambda image: image.float() / 255,  # as torchvision's ToTensor gives them
    "8 bits": lambda image: image,
    "arrays": lambda image: image.numpy(),
}


@pytest.mark.parametrize("kind", OF)
def test_data_sets_as_torchvisions_are(kind: str) -> None:
    seen: list[tuple[int, int, str]] = []
    train, test = (Pairs(pixels(n, seed=n), OF[kind]) for n in (20, 7))
    made = Source.from_datasets(train, test, name="mine", progress=lambda *what: seen.append(what))
    assert torch.equal(made.train.images, train.images)
    assert torch.equal(made.test.images, test.images)
    assert made.train.labels.tolist() == [n % 5 for n in range(20)]
    assert (made.name, made.classes) == ("mine", Pairs.classes)
    assert seen == [(20, 20, "mine: train"), (7, 7, "mine: test")]


def test_grey_pictures_and_pairs_of_arrays() -> None:
    grey = Pairs(pixels(6, channels=1), lambda image: Image.fromarray(image[0].numpy()))
    made = Source.from_datasets(grey, (grey.images.numpy(), np.arange(6) % 5), classes="abcde")
    assert torch.equal(made.train.images, made.test.images)
    assert made.classes == tuple("abcde")


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (3, "test must be a data set with a length and items (image, label), or a pair (images, labels)"),
        (Pairs(pixels(2), lambda image: image.float() - 0.5), "test_images must be in [0, 1]"),
        (Pairs(pixels(2), lambda image: "x"), "item 0 is no pair (image, label): its image is a str"),
        (Pairs(pixels(2, channels=4), lambda i: Image.fromarray(i.permute(1, 2, 0).numpy())), "a picture of mode RGBA"),
        ([pixels(2)[0], 1, 2], "test: item 0 is no pair"),
        ([(pixels(1)[0], 0), (pixels(1, size=5)[0], 0)], "item 1 has shape (3, 5, 5), that of item 0 (3, 4, 4)"),
        ([], "test has no items"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(part: object, told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)) as caught:
        Source.from_datasets(Pairs(pixels(5), OF["8 bits"]), part, name="mine")
    assert "\n" not in str(caught.value)
