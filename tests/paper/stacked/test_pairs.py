import pytest
import torch

from easybn.data import Source
from easybn.paper.stacked_images import rows_of, stack, two_classes


def source(classes, labels=None):
    labels = torch.arange(len(classes)) if labels is None else torch.tensor(labels)
    pixels = torch.arange(len(labels) * 4).view(-1, 1, 2, 2).byte()
    return Source.from_tensors(pixels, labels, pixels, labels, classes=classes, name="mine")


def test_where_the_copy_stands():
    a, b = torch.randint(0, 256, (2, 5, 3, 4, 6)).byte()
    above, beside, channels = (stack(a, b, layout) for layout in ("above", "beside", "channels"))
    for n in range(5):
        for c in range(3):
            assert torch.equal(above[n, c, :4], a[n, c])
            assert torch.equal(above[n, c, 4:], b[n, c])
            assert torch.equal(beside[n, c, :, :6], a[n, c])
            assert torch.equal(beside[n, c, :, 6:], b[n, c])
            assert torch.equal(channels[n, c], a[n, c])
            assert torch.equal(channels[n, 3 + c], b[n, c])
    assert (above.shape, beside.shape, channels.shape) == ((5, 3, 8, 6), (5, 3, 4, 12), (5, 6, 4, 6))


def test_the_papers_classes_unless_others_are_asked_for():
    assert two_classes(source(["cat", "truck", "automobile"]), None) == (2, 1)
    assert two_classes(source(["Shirt", "Bag", "T-shirt/top"]), None) == (2, 0)
    assert two_classes(source(["Shirt", "Bag", "T-shirt/top"]), ["bag", "0"]) == (1, 0)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (None, "--classes: name two classes of mine; there are cat, dog, mouse"),
        (["cat", "dgo"], r"--classes: no class 'dgo' \(did you mean dog\?\); there are cat, dog, mouse"),
        (["cat", "0"], "--classes: cat is named twice, give two different ones of cat, dog, mouse"),
        (["cat", "mouse"], "there are no training images of mouse in mine"),
    ],
)
def test_classes_that_will_not_do(asked, told):
    with pytest.raises(ValueError, match=told):
        two_classes(source(["cat", "dog", "mouse"], [0, 1, 0, 1]), asked)


def test_the_images_of_two_classes():
    split = source(["a", "b", "c"], [2, 0, 1, 2, 1, 0, 0]).train
    assert rows_of(split, (2, 0)).tolist() == [0, 1, 3, 5, 6]
