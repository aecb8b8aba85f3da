import copy
import io

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from easybn import BranchedNorm, branch_parameters, convert, route, strip
from easybn.models import resnet18, resnet50, resnet_tiny


def states_equal(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(torch.equal(first[k], second[k]) for k in first)


def outputs_equal(a: nn.Module, b: nn.Module, x: torch.Tensor) -> bool:
    """In eval mode, then in train mode with the same dropout, then the statistics that this left."""
    for mode in (False, True):
        a.train(mode), b.train(mode)
        torch.manual_seed(5)
        first = a(x)
        torch.manual_seed(5)
        if not torch.equal(first, b(x)):
            return False
    return states_equal(a, b)


class Awkward(nn.Module):
    """A norm shared by two parents, a frozen one, one in a dict, one deep in lists, two that share a weight."""

    def __init__(self):
        super().__init__()
        shared = nn.BatchNorm2d(4)
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), shared)
        self.b = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), shared)
        self.frozen = nn.BatchNorm2d(4).eval().requires_grad_(False)
        self.deep = nn.ModuleDict({"x": nn.ModuleList([nn.Sequential(nn.BatchNorm2d(4, affine=False))])})
        self.tied = nn.BatchNorm2d(4, track_running_stats=False)
        self.tied_too = nn.BatchNorm2d(4)
        self.tied_too.weight = self.tied.weight
        self.none = None
        self.register_module("absent", None)
        self.volume = nn.BatchNorm3d(4)
        self.flat = nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.frozen(self.b(self.a(x)))
        x = self.tied_too(self.tied(self.deep["x"][0](x)))
        return self.flat(self.volume(x[:, :, None]).mean((2, 3, 4)))


MODELS = {
    "awkward": (Awkward, (4, 3, 8, 8)),
    "resnet_tiny": (resnet_tiny, (4, 3, 16, 16)),
    "resnet18": (resnet18, (2, 3, 16, 16)),
    "torchvision densenet": (lambda: torchvision.models.densenet121(num_classes=5), (2, 3, 32, 32)),
    "timm efficientnet_b0 (BatchNormAct2d)": (lambda: timm.create_model("efficientnet_b0"), (2, 3, 32, 32)),
    "root": (lambda: nn.BatchNorm2d(3), (2, 3, 4, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_strip_of_convert_is_the_model_bit_for_bit(name):
    make, shape = MODELS[name]
    model = make()
    for module in model.modules():  # as if trained: statistics that say something
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    kept = copy.deepcopy(model)
    converted = convert(model, ("main", "adv", "easy"))
    assert states_equal(model, kept)  # the model given is as it was
    back = strip(converted)
    assert states_equal(back, kept)
    assert [type(m) for m in back.modules()] == [type(m) for m in kept.modules()]
    assert [m.training for m in back.modules()] == [m.training for m in kept.modules()]
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in kept.parameters()]
    assert outputs_equal(back, copy.deepcopy(kept), torch.rand(shape))
    assert outputs_equal(strip(converted, "easy"), copy.deepcopy(kept), torch.rand(shape))


@pytest.mark.parametrize("name", MODELS)
def test_every_branch_of_a_fresh_conversion_gives_the_models_outputs(name):
    make, shape = MODELS[name]
    model = make().eval()
    converted = convert(model, ("main", "easy"))
    x = torch.rand(shape)
    for branch in ("main", "easy"):
        with route(converted, branch):
            assert torch.equal(converted(x), model(x))


def test_every_batch_norm_is_found_once_and_shared_ones_stay_shared():
    model = Awkward()
    converted = convert(model, ("main", "easy"))
    assert converted.a[1] is converted.b[1]
    assert sum(isinstance(m, BranchedNorm) for m in converted.modules()) == 7
    easy = {name: m.norms["easy"] for name, m in converted.named_modules() if isinstance(m, BranchedNorm)}
    assert easy["tied"].weight is easy["tied_too"].weight
    assert easy["tied"].weight is not converted.tied.norms["main"].weight
    assert not easy["frozen"].training
    assert not easy["frozen"].weight.requires_grad


def test_hooks_of_a_norm_are_kept():
    model = nn.Sequential(nn.BatchNorm1d(2))
    model[0].register_forward_hook(lambda module, args, out: out + 100)
    x = torch.rand(3, 2)
    converted = convert(model)
    for branch in ("main", "easy"):
        with route(converted, branch):
            assert (converted(x) > 50).all()
    assert (strip(converted)(x) > 50).all()


def test_synchronised_batch_norm_stays_synchronised():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3)))
    converted = convert(model)
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in converted[0].norms.values())
    assert isinstance(strip(converted)[0], nn.SyncBatchNorm)


@pytest.mark.parametrize(
    ("make", "kinds", "count"),
    [
        (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2), "layer", 5),
        (lambda: timm.create_model("convnext_atto", depths=(1, 1, 1, 1)), ("layer",), None),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.BatchNorm2d(4)), ("group", "batch"), 2),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4)), nn.InstanceNorm2d, 1),
    ],
)
def test_other_kinds_of_norm_on_request(make, kinds, count):
    model = make().eval()
    converted = convert(model, kinds=kinds)
    found = [m for m in converted.modules() if isinstance(m, BranchedNorm)]
    assert len(found) == count if count else len(found) >= 5
    x = torch.rand(2, 3, 32, 32)
    with route(converted, "easy"):
        assert torch.equal(converted(x), model(x))
    assert states_equal(strip(converted), model)


def test_an_encoder_with_a_fast_path_that_reads_its_norms_attributes():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    converted = convert(layer, kinds="layer")
    with torch.no_grad():  # what opens torch's fast path
        x = torch.rand(2, 3, 8)
        with route(converted, "easy"):
            torch.testing.assert_close(converted(x), layer(x))
            converted.norm1.norms["easy"].weight.fill_(2.0)
            assert not torch.allclose(converted(x), layer(x))
        torch.testing.assert_close(converted(x), layer(x))


@given(st.data())
def test_any_nesting_is_converted_and_stripped(data):
    norms = st.sampled_from([lambda: nn.BatchNorm2d(2), lambda: nn.BatchNorm2d(2, affine=False), nn.Identity])
    trees = st.recursive(norms.map(lambda make: make()), lambda inner: st.lists(inner, max_size=3), max_leaves=8)

    def build(tree):
        return nn.Sequential(*map(build, tree)) if isinstance(tree, list) else tree

    model = nn.Sequential(nn.BatchNorm2d(2), build(data.draw(trees)))
    count = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    converted = convert(model, ("main", "easy"))
    assert sum(isinstance(m, BranchedNorm) for m in converted.modules()) == count
    assert outputs_equal(strip(converted, "easy"), copy.deepcopy(model), torch.rand(2, 2, 3, 3))


@pytest.mark.parametrize(("make", "extra"), [(resnet18, 9_600), (resnet50, 53_120)])
def test_branch_parameters_counts_of_the_papers_networks(make, extra):
    model = make()
    converted = convert(model)
    assert sum(p.numel() for p in branch_parameters(converted, "easy")) == extra
    total = sum(p.numel() for p in converted.parameters())
    assert total == sum(p.numel() for p in model.parameters()) + extra


def test_branch_parameters_are_those_that_only_the_branch_uses():
    converted = convert(Awkward())
    x = torch.rand(4, 3, 8, 8)
    with route(converted, "easy"):
        converted(x).square().sum().backward()
    easy = set(branch_parameters(converted, "easy"))
    main = set(branch_parameters(converted, "main"))
    assert easy
    assert not easy & main
    assert all(p.grad is not None for p in easy if p.requires_grad)
    assert all(p.grad is None for p in main)


def test_branches_that_share_their_affine_parameters_differ_in_their_statistics_alone():
    plain = resnet_tiny()
    shared = convert(plain, ("main", "easy", "adv"), share="affine")
    assert sum(p.numel() for p in shared.parameters()) == sum(p.numel() for p in plain.parameters())
    assert all(not list(branch_parameters(shared, branch)) for branch in ("main", "easy", "adv"))
    x = torch.rand(4, 3, 16, 16)
    with route(shared, "easy"):
        shared(x).sum().backward()
    apart = convert(plain, ("main", "easy", "adv"))
    with route(apart, "easy"):
        apart(x).sum().backward()
    theirs = dict(apart.named_parameters())
    for name, parameter in shared.named_parameters():  # the gradient of the branch in use reaches what all have
        assert torch.equal(parameter.grad, theirs[name.replace(".norms.main.", ".norms.easy.")].grad)
    assert states_equal(shared, apart)
    assert states_equal(strip(shared), plain)

    copied = copy.deepcopy(shared).to(torch.float64)
    with torch.no_grad():
        copied.bn1.norms["main"].weight.fill_(3.0)
    assert torch.equal(copied.bn1.norms["adv"].weight, torch.full_like(copied.bn1.norms["adv"].weight, 3.0))
    apart.load_state_dict(copied.state_dict())
    with route(copied, "adv"), route(apart, "adv"):
        assert torch.equal(copied.float()(x), apart(x))


def test_norm_layers_that_are_one_stay_one_where_branches_share():
    norm = nn.BatchNorm1d(2)
    shared = convert(nn.ModuleList([norm, nn.Linear(2, 2), norm]), share="affine")
    assert shared[0] is shared[2]
    assert shared[0].norms["easy"].weight is shared[0].norms["main"].weight
    assert shared[0].norms["easy"].running_mean is not shared[0].norms["main"].running_mean


def test_copies_and_state_dicts_go_round():
    converted = convert(resnet_tiny())
    with route(converted, "easy"):
        converted(torch.rand(2, 3, 16, 16))  # the branches differ now
    twin = copy.deepcopy(converted)
    assert states_equal(twin, converted)
    buffer = io.BytesIO()
    torch.save(converted.state_dict(), buffer)
    buffer.seek(0)
    other = convert(resnet_tiny())
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert states_equal(other, converted)
    assert not torch.equal(converted.bn1.norms["main"].running_mean, converted.bn1.norms["easy"].running_mean)
    with route(twin, "easy"):
        assert converted.bn1.active == "main"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: convert(nn.Linear(2, 2)), "no norm layer of the given kinds"),
        (lambda: convert(convert(nn.BatchNorm1d(2))), "has branches already"),
        (lambda: convert(nn.BatchNorm1d(2), ("a", "a")), "must differ"),
        (lambda: convert(nn.BatchNorm1d(2), ()), "one or more names"),
        (lambda: convert(nn.BatchNorm1d(2), "main"), "one or more names"),
        (lambda: convert(nn.BatchNorm1d(2), ("a.b",)), "identifier"),
        (lambda: convert(nn.BatchNorm1d(2), ("keys",)), "identifier"),
        (lambda: convert(nn.BatchNorm1d(2), kinds="batchnorm"), "unknown kind of norm layer 'batchnorm'"),
        (lambda: convert(nn.Sequential(nn.LazyBatchNorm1d())), "run one batch"),
        (lambda: convert(nn.BatchNorm1d(2), share="statistics"), "share must be"),
        (lambda: convert(nn.LayerNorm(2), kinds="layer", share="affine"), "a LayerNorm here has no running statistics"),
        (lambda: convert(nn.BatchNorm1d(2, track_running_stats=False), share="affine"), "no running statistics"),
        (lambda: strip(nn.BatchNorm1d(2)), "has no branches"),
        (lambda: strip(convert(nn.BatchNorm1d(2)), "hard"), "no branch 'hard'.*'main', 'easy'"),
        (lambda: list(branch_parameters(convert(nn.BatchNorm1d(2)), "hard")), "no branch 'hard'"),
        (lambda: list(branch_parameters(nn.BatchNorm1d(2), "easy")), "has no branches"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_clear_errors(call, says):
    with pytest.raises(ValueError, match=says):
        call()
