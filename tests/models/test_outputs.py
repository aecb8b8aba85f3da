"""A model that returns several outputs, reduced to one of them, is the model that returns that one alone."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import easybn
from easybn import SelectOutput
from easybn.attacks.square import Square
from easybn.models.outputs import BadLogits, described
from easybn.recipes.recipe import Term

from ..small import small_images, small_net

QUICK = {"norm": "linf", "eps": 0.03, "diagnosis": False}


@dataclass
class ModelOutput(OrderedDict):
    """As that of transformers: a dict and an object, and without the fields that are None a tuple."""

    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...]

    def __post_init__(self):
        self.update(logits=self.logits, hidden_states=self.hidden_states)


Named = namedtuple("Named", "aux out")
FORMS = {
    "ModelOutput": (lambda z, h: ModelOutput(None, z, (h,)), "logits"),
    "dict": (lambda z, h: {"features": h, "out": z}, "out"),
    "dict of numbers": (lambda z, h: {7: z}, "7"),
    "dict of digits": (lambda z, h: {"7": z}, "7"),
    "tuple": (lambda z, h: (h, z), 1),
    "from the end": (lambda z, h: [z, h], "-2"),
    "namedtuple": (lambda z, h: Named(h, z), "out"),
    "object": (lambda z, h: SimpleNamespace(scores=z, other=h), "scores"),
}


class Several(nn.Module):
    """A small network whose logits come in a form, beside its hidden values."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form = small_net(), form
        self.eval()

    def forward(self, x):
        hidden = self.net[:4](x)
        return self.form(self.net[4](hidden), hidden)


def same(found, expected):
    assert torch.equal(found.robust, expected.robust)
    assert found.notes == expected.notes
    for name in ("point", "distance", "forwards", "backwards"):
        assert (getattr(found.record, name) == getattr(expected.record, name)).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_evaluation_is_that_of_the_plain_model(form):
    make, output = FORMS[form]
    x, net = small_images(12), small_net()
    y = net(x).argmax(1)
    attacks = [Square(easybn.Linf(0.03), 20), "apgd-ce"]
    expected = easybn.evaluate(net, x, y, attacks=attacks, **QUICK)
    assert 0 < expected.robust.sum() < 12
    same(easybn.evaluate(Several(make), x, y, attacks=attacks, output=output, **QUICK), expected)


def test_the_reference_protocol_and_the_diagnosis_take_it_too():
    x, net, model = small_images(24), small_net(), Several(FORMS["ModelOutput"][0])
    y, how = net(x).argmax(1), {"norm": "linf", "eps": 0.03, "steps": 5}
    for protocol in ("strong", "robustness"):
        found = easybn.evaluate(model, x, y, protocol=protocol, output="logits", **how)
        expected = easybn.evaluate(net, x, y, protocol=protocol, **how)
        assert torch.equal(found.robust, expected.robust)
        assert [str(each) for each in found.findings] == [str(each) for each in expected.findings]


def test_a_store_is_of_one_output(tmp_path):
    x, model = small_images(8), Several(lambda z, h: {"a": z, "b": z})
    y = model(x)["a"].argmax(1)
    how = {"attacks": Square(easybn.Linf(0.03), 20), "store": tmp_path / "store", **QUICK}
    first = easybn.evaluate(model, x, y, output="a", **how)
    same(easybn.evaluate(model, x, y, output="a", **how), first)
    with pytest.raises(ValueError, match=r"another evaluation.*\s.*settings.output: 'a' here, 'b' asked"):
        easybn.evaluate(model, x, y, output="b", **how)


def test_branches_are_made_routed_and_removed_inside_of_it():
    net, x = small_net(), small_images(6)
    plain, several = easybn.convert(net, ("main", "easy")), easybn.convert(Several(FORMS["dict"][0]), ("main", "easy"))
    wrapped = SelectOutput(several, "out")
    for branch in ("main", "easy"):
        with easybn.route(plain, branch), easybn.route(wrapped, branch):
            assert torch.equal(plain(x), wrapped(x))
    assert torch.equal(easybn.strip(wrapped)(x), net(x))
    goal = easybn.easy(net(x).argmax(1))
    pgd = easybn.PGD(easybn.Linf(0.05), 3, random_start=False)
    assert torch.equal(pgd(wrapped, x, goal), pgd(net, x, goal))


def test_recipes_train_through_it():
    x, losses = small_images(6), []
    y = torch.arange(6) % 4
    for model in (small_net(), SelectOutput(Several(FORMS["tuple"][0]), 1)):
        term = Term.cross_entropy("main", model.train()(x), y, 1.0)
        term.loss.backward()
        losses.append([term.loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


@pytest.mark.parametrize(
    ("form", "output", "said"),
    [
        (
            "dict",
            "logits",
            r"no output 'logits': the model returns dict with 'features' \(5, 96\), 'out' \(5, 4\): name",
        ),
        ("dict", "clear", "no output 'clear'"),
        ("tuple", 2, r"no output 2: the model returns tuple with 0 \(5, 96\), 1 \(5, 4\)"),
        ("tuple", "logits", "no output 'logits': the model returns tuple"),
        ("object", 0, "no output 0: the model returns SimpleNamespace with 'scores'"),
        ("ModelOutput", "hidden_states", "tuple with 0"),
        ("ModelOutput", "loss", "no output 'loss'"),
    ],
)
def test_an_output_that_is_not_there_is_told_before_any_work(form, output, said):
    with pytest.raises(BadLogits, match=said):
        easybn.evaluate(Several(FORMS[form][0]), small_images(5), torch.zeros(5).long(), output=output, **QUICK)


def test_a_tensor_has_no_outputs():
    with pytest.raises(BadLogits, match="returns a tensor, not several outputs: leave out output='logits'"):
        easybn.evaluate(small_net(), small_images(5), torch.zeros(5).long(), output="logits", **QUICK)
    for wrong in (1.5, True, None):
        with pytest.raises(TypeError, match="must be the name or the index"):
            SelectOutput(small_net(), wrong)


def test_nothing_is_guessed_but_the_line_says_what_to_name():
    z, h = torch.rand(5, 4), torch.rand(5, 3, 2)
    assert described(ModelOutput(None, z, (h,)), 5).endswith(
        "with 'logits' (5, 4), 'hidden_states' tuple: name it: output='logits', --output logits or "
        "easybn.SelectOutput(model, 'logits')"
    )
    assert "name the one that is the logits: output='logits'" in described({"a": z, "logits": z}, 5)
    assert described((h, z.long()), 5).endswith(
        "none of them is (5, classes): wrap the model in a module that returns its logits"
    )
    assert "2 more: none" in described([h] * 10, 5)
    assert described(None, 5) == "the model returns NoneType: wrap it in a module that returns its logits"


def test_its_mode_is_no_news():
    model = Several(FORMS["dict"][0])
    wrapped = SelectOutput(model.train(), "out")
    assert wrapped.training
    model.eval()
    x = small_images(4)
    assert not easybn.evaluate(wrapped, x, torch.zeros(4).long(), attacks="clean").notes
