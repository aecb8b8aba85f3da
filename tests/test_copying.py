import threading
from collections import OrderedDict, deque
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easybn import convert, strip
from easybn.modes import CannotCopy, copied
from easybn.norm.fold import folded

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Keeps(nn.Module):
    """Keeps what ``keep`` makes of its activation."""

    def __init__(self, keep):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.keep = keep

    def forward(self, x):
        z = F.relu(self.norm(self.conv(x)))
        self.kept = self.keep(z)
        return self.head(z.mean((2, 3)))


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    "keep",
    [
        lambda z: z,
        lambda z: [z, {"a": (z, 2 * z)}],
        lambda z: deque([OrderedDict(a=z)]),
        lambda z: partial(print, z),
        Slots,
        lambda z: z[:, :2],
        lambda z: (threading.Lock(), threading.Condition()),
        lambda z: {"generator": (i for i in range(3)), "features": z},
        lambda z: torch.Generator(),
        lambda z: lambda: z,
        lambda z: torch,
    ],
    ids=["tensor", "nested", "deque", "partial", "slots", "view", "locks", "generator", "random", "closure", "module"],
)
def test_a_model_that_keeps_something_is_copied_converted_stripped_and_folded(keep):
    model = convert(Keeps(keep).train())
    F.cross_entropy(model(X), torch.arange(4)).backward()
    model.eval()
    plain = strip(model)
    expected = model(X)
    torch.testing.assert_close(plain(X), expected, rtol=0, atol=0)
    torch.testing.assert_close(folded(plain, X).model(X), expected)
    new = copied(model)
    new.head.weight.data.add_(1)
    torch.testing.assert_close(model(X), expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")  # torch's own, of the older functions
@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
    ],
    ids=["old-weight", "old-spectral", "weight", "spectral", "orthogonal"],
)
def test_weights_that_are_computed_from_others(norm):
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Conv2d(1, 8, 3)), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 4))
    branched = convert(model)
    F.cross_entropy(branched(X), torch.arange(4)).backward()
    plain = strip(branched).eval()
    torch.testing.assert_close(plain(X), branched.eval()(X), rtol=0, atol=0)
    # the copy learns on its own
    F.cross_entropy(plain(X), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in plain[0].parameters())


def test_a_method_of_the_model_among_its_attributes_is_the_copys():
    model = Keeps(lambda z: threading.Lock())
    model.method = model.forward
    model(X)
    new = copied(model)
    assert new.method.__self__ is new
    assert new.kept is model.kept


class Alone(nn.Module):
    def __deepcopy__(self, memo):
        raise RuntimeError("there is but one")


def test_a_model_that_refuses():
    model = nn.Sequential(Alone(), nn.BatchNorm2d(1))
    for call in (copied, convert):
        with pytest.raises(CannotCopy, match="a Alone cannot be copied: RuntimeError: there is but one"):
            call(model)
    assert convert(model, inplace=True) is model
    assert strip(model, inplace=True) is model
    assert isinstance(model[1], nn.BatchNorm2d)
