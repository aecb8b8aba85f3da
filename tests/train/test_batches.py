"""Batches made on the device: those that a plain loop over the images makes, and no step that waits for the device."""

import re
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import easybn.train.fit as loop
import easybn.train.prepare as batches
from easybn import recipes
from easybn.data.augment import crop_flip
from easybn.data.split import Split
from easybn.keyed_random import Noise, permutation
from easybn.train.fit import fit
from easybn.train.observers import Observer
from easybn.train.prepare import Batches, keep_on_device
from easybn.train.schedule import Training

PUBLIC = [getattr(recipes, name) for name in recipes.__all__]
KINDS = [kind for kind in PUBLIC if isinstance(kind, type) and recipes.Recipe in kind.__mro__[1:]]
WAITS = re.compile("local_scalar_dense|nonzero|masked_select|unique|equal$|is_nonzero")
CPU = torch.device("cpu")


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
@pytest.mark.parametrize("view", [False, True])
def test_a_batch_is_what_a_plain_loop_makes(augment, view, images):
    x, y = images
    rows = permutation(96, 7, "part")[:70] if view else torch.arange(96)
    split = Split(x, y).subset(rows) if view else Split(x, y)
    made = Batches(split, Training(augment=augment, seed=3), 20, CPU, torch.channels_last)
    assert made.per_epoch == len(rows) // 20
    for step in (0, 1, made.per_epoch, 2 * made.per_epoch + 1, 2):  # another epoch's order, and back
        epoch, i = divmod(step, made.per_epoch)
        ids = permutation(len(rows), 3, "order", epoch)[20 * i : 20 * i + 20]
        expected = x[rows[ids]]
        if augment == "crop_flip":
            expected = crop_flip(expected, Noise.of(3, "augment", ids, step))
        got, labels, numbers = made.at(step)
        assert torch.equal(got, expected.float() / 255)
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(labels, y[rows[ids]])
        assert torch.equal(numbers, ids)


def test_what_is_on_the_device_is_not_copied(images):
    split = Split(*images)  # a file that is mapped, perhaps
    assert split.to("cpu") is split
    part = split.subset(permutation(96, 0, "part")[:50])
    assert part.to("cpu") is part


def test_a_copy_elsewhere_has_the_same_samples(monkeypatch):
    x = torch.arange(5000 * 4, dtype=torch.int64).to(torch.uint8).view(5000, 1, 2, 2)
    split = Split(x, torch.arange(5000)).subset(torch.arange(4999, -1, -1))
    # another device in name alone, so that the copy is made here
    monkeypatch.setattr(type(split), "device", property(lambda self: torch.device("cpu", 7)))
    copied = split.to("cpu")
    assert copied is not split
    assert torch.equal(copied.images, x.flip(0))
    assert torch.equal(copied.labels, torch.arange(4999, -1, -1))


@pytest.mark.parametrize(("free", "expected"), [(4 * 96 * 64, True), (4 * 96 * 64 - 1, False)])
def test_images_are_kept_where_there_is_room_for_four_times_as_many(free, expected, images, monkeypatch):
    split, moved = Split(*images), []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    monkeypatch.setattr(Split, "to", lambda self, device: moved.append(device) or self)
    assert keep_on_device(split, torch.device("cuda:0")) is split
    assert moved == [torch.device("cuda:0")] * expected
    assert keep_on_device(split, torch.device("cuda:0"), on_device=not expected) is split
    assert len(moved) == 1
    assert keep_on_device(split, CPU) is split


def test_images_that_do_not_fit_are_one_line(images, monkeypatch):
    def full(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory\nand so on")

    monkeypatch.setattr(Split, "to", full)
    with pytest.raises(ValueError, match=r"^the 96 images do not fit on cpu: leave them in memory$"):
        keep_on_device(Split(*images), CPU, on_device=True)


class Waiting(TorchDispatchMode):
    """Counts the operations for which a device's queue would have to be emptied."""

    def __init__(self):
        super().__init__()
        self.seen, self.operations = Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.operations += 1
        self.seen.update([name] if WAITS.search(name) else [])
        return function(*args, **(kwargs or {}))


class AfterEach(Observer):
    """What was waited for in each step."""

    def __init__(self, mode):
        self.mode, self.steps, self.operations = mode, [], []

    def step(self, state):
        self.steps.append(dict(self.mode.seen))
        self.operations.append(self.mode.operations)
        self.mode.seen.clear()
        self.mode.operations = 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_step_waits_for_nothing(kind, images, net, monkeypatch):
    # folding looks at the model, and is done on CPUs alone
    monkeypatch.setattr("easybn.norm.fold._worthwhile", lambda *_: False)
    monkeypatch.setattr(loop, "CHECK_EVERY", 3)
    training = Training(epochs=2, batch_size=20, lr=0.01, augment="crop_flip", clip_norm=10.0, ema=0.9)
    with Waiting() as mode:
        watch = AfterEach(mode)
        fit(net, kind(), images, training, observers=[watch])
    assert len(watch.steps) == 8
    assert min(watch.operations) > 100
    # what is waited for between two steps is counted with the second; steps 0, 3 and 6 look, as does an epoch's end
    assert [watch.steps[i] for i in (1, 2, 5, 7)] == [{}] * 4


def test_the_watch_sees_what_waits(images, net):
    class Looks(recipes.Vanilla):
        def __call__(self, model, x, y, ctx):
            assert float(x.sum()) > 0
            yield from super().__call__(model, x, y, ctx)

    with Waiting() as mode:
        watch = AfterEach(mode)
        fit(net, Looks(), images, Training(epochs=1, batch_size=20), observers=[watch])
    assert [step.get("_local_scalar_dense", 0) for step in watch.steps[1:]] == [1, 1, 1]


def test_values_are_looked_at_now_and_then(images, net, monkeypatch):
    class Wild(recipes.EBN):
        def __call__(self, model, x, y, ctx):
            yield from super().__call__(model, x + 2 * (ctx.step == 5), y, ctx)

    training = Training(epochs=2, batch_size=20, lr=0.01)
    fit(net, Wild(), images, training)
    monkeypatch.setattr(loop, "CHECK_EVERY", 5)
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\], got 2"):
        fit(net, Wild(), images, training)


def test_where_the_images_are_is_no_setting_of_the_training():
    assert "data_on_device" not in Training.__dataclass_fields__
    assert batches.MEMORY_FRACTION == 4
