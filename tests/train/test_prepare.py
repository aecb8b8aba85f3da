"""Models as people have them, trained: nothing is lost at the end, and what cannot work is told at the beginning."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easybn import Training, fit
from easybn.recipes import EBN, AdvProp, EBNShared, FastAdvProp, FastEBN, Vanilla

from ..small import small_net

IMAGES = (torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0)).mul(255).byte(), torch.arange(48) % 4)
TRAINING = Training(epochs=2, batch_size=16, lr=0.02, ema=0.5)


class Model(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.inner, self.run = small_net(), run

    def forward(self, x):
        return self.run(self, x)


def viewing(model, x):
    return model.inner[4](model.inner[:3](x).view(len(x), -1))


def viewing_in_training(model, x):
    return viewing(model, x) if model.training else model.inner(x)


def keeping(model, x):
    model.features, model.lock = model.inner[:3](x), threading.Lock()
    return model.inner[3:](model.features)


def normalising(model, x):
    return model.inner(x.sub_(0.5).div_(0.25))


def plain(model, x):
    return model.inner(x)


def same(found, expected):
    torch.testing.assert_close(found.model.state_dict(), expected.model.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", [Vanilla(), EBN(), EBNShared()], ids=lambda recipe: type(recipe).__name__)
@pytest.mark.parametrize("run", [viewing, viewing_in_training, keeping])
def test_the_training_is_that_of_the_model_written_otherwise(run, recipe):
    found, expected = (fit(Model(each), recipe, IMAGES, TRAINING, val=IMAGES) for each in (run, plain))
    same(found, expected)
    assert ("view size" in "".join(found.notes)) == (run is not keeping)
    assert not expected.notes
    assert found.model(IMAGES[0][:2] / 255).shape == (2, 4)


@pytest.mark.parametrize(
    "recipe", [EBN(), AdvProp(), EBNShared(), FastAdvProp(), FastEBN()], ids=lambda recipe: type(recipe).__name__
)
def test_a_model_that_normalises_in_place_trains_as_one_that_does_not(recipe):
    pure = Model(lambda model, x: model.inner((x - 0.5) / 0.25))
    found, expected = (fit(model, recipe, IMAGES, TRAINING) for model in (Model(normalising), pure))
    same(found, expected)


def test_a_model_that_refuses_to_be_copied_is_trained_in_place():
    class Alone(Model):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is but one")

    model = Alone(plain)
    before = model.inner[0].weight.clone()
    with pytest.warns(UserWarning, match="there is but one"):
        found = fit(model, EBN(), IMAGES, Training(epochs=1, batch_size=16))
    assert found.model is model
    assert not torch.equal(model.inner[0].weight, before)
    assert isinstance(model.inner[1], nn.BatchNorm2d)


@pytest.mark.parametrize("recipe", [Vanilla(), EBN()], ids=lambda recipe: type(recipe).__name__)
def test_lazy_layers_want_a_batch_first(recipe):
    model = nn.Sequential(nn.LazyConv2d(6, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(ValueError, match="run one batch through the model first"):
        fit(model, recipe, IMAGES, TRAINING)
    model(IMAGES[0][:2] / 255)
    assert fit(model, recipe, IMAGES, TRAINING).model(IMAGES[0][:2] / 255).shape == (2, 4)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda model, x: (model.inner(x), x), r"must return a tensor of logits: the model returns tuple with 0"),
        (lambda model, x: model.inner(x[:, :1]), r"fails in training on images of shape \(16, 3, 8, 8\): RuntimeError"),
        (lambda model, x: model.inner(x).detach(), "fails in training on images"),
        (lambda model, x: model.inner(x)[:, :3], "labels must be in 0 .. 2 for 3 logits, got 0 .. 3"),
        (lambda model, x: F.one_hot(model.inner(x).argmax(1), 4), "floating point"),
    ],
    ids=["tuple", "channels", "detached", "classes", "one-hot"],
)
def test_what_cannot_be_trained_is_told_before_the_first_step(run, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        fit(Model(run), EBN(), IMAGES, TRAINING, checkpoint=tmp_path / "checkpoint.pt")
    assert not list(tmp_path.iterdir())


def test_a_model_that_wants_its_own_batch_size():
    found = fit(Model(lambda model, x: model.inner(x.view(16, 3, 8, 8))), Vanilla(), IMAGES, TRAINING)
    same(found, fit(Model(plain), Vanilla(), IMAGES, TRAINING))


def test_a_validation_that_fails_says_on_which_images():
    def run(model, x):
        return model.inner(x if model.training else x[:, :1])

    with pytest.raises(ValueError, match=r"images of shape \(16, 3, 8, 8\)"):
        fit(Model(run), Vanilla(), IMAGES, TRAINING, val=IMAGES)
