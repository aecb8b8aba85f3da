"""What each recipe does, against its own description written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import convert_splitbn_model  # type: ignore[attr-defined]

from easybn import L2, PGD, Linf, branch_parameters, convert, evaluating, route
from easybn.models import resnet_tiny
from easybn.recipes import EBN, AdversarialTraining, AdvProp, AdvPropEBN, EBNShared, Vanilla

from .conftest import batch, ready


def gradients(recipe, model, x, y) -> dict[str, torch.Tensor]:
    for term in recipe(model, x, y):
        (term.weight * term.loss).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def sign_step(model, x, y, size: float) -> torch.Tensor:
    """x + size * sign(grad of the loss), clipped; by autograd alone."""
    point = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(point), y), point)
    return (x + size * grad.sign()).clamp(0, 1)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_vanilla_is_the_plain_loss(label_smoothing):
    x, y = batch()
    recipe = Vanilla(label_smoothing=label_smoothing)
    ours, plain = ready(recipe), ready(recipe)
    F.cross_entropy(plain(x), y, label_smoothing=label_smoothing).backward()
    found = gradients(recipe, ours, x, y)
    assert all(torch.equal(found[name], p.grad) for name, p in plain.named_parameters())


@pytest.mark.parametrize(
    ("recipe", "branch", "size"),
    [
        (EBN(PGD(Linf(0.05)), clean_weight=0.7, easy_weight=0.2), "easy", -0.05),
        (AdvProp(PGD(Linf(0.05)), target="untargeted", clean_weight=0.7, adv_weight=0.2), "adv", 0.05),
        (EBN(PGD(Linf(0.05)), through="main", clean_weight=0.7, easy_weight=0.2), "easy", -0.05),
    ],
)
def test_ebn_and_advprop_by_hand(recipe, branch, size):
    """One step from the clean image in eval mode, two forwards in train mode, a weighted sum of losses."""
    x, y = batch()
    ours, by_hand = ready(recipe), ready(recipe)
    with route(by_hand, recipe.through), evaluating(by_hand):
        perturbed = sign_step(by_hand, x, y, size)
    clean_loss = F.cross_entropy(by_hand(x), y)
    with route(by_hand, branch):
        other_loss = F.cross_entropy(by_hand(perturbed), y)
    (0.7 * clean_loss + 0.2 * other_loss).backward()
    found = gradients(recipe, ours, x, y)
    for name, p in by_hand.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6)
    for (name, ours_buffer), other in zip(ours.named_buffers(), by_hand.buffers(), strict=True):
        assert torch.equal(ours_buffer, other), name


def test_train_mode_perturbation_uses_batch_statistics():
    x, y = batch()
    recipe = EBN(PGD(Linf(0.05)), through="main", mode="train")
    ours, by_hand = ready(recipe), ready(recipe)
    statistics = {n: b.clone() for n, b in by_hand.named_buffers()}
    perturbed = sign_step(by_hand, x, y, -0.05)
    by_hand.load_state_dict(statistics, strict=False)
    with route(by_hand, "easy"):
        expected = F.cross_entropy(by_hand(perturbed), y)
    found = []
    for term in recipe(ours, x, y):
        term.loss.backward()
        found.append(term.loss.detach())
    torch.testing.assert_close(found[1], expected.detach())


def test_advprop_descends_to_a_random_class_that_is_not_the_true_one():
    """A model that only knows the mean of each channel: the step shows which class it went for."""
    seen = []

    def record(f, x, goal, noise=None):
        seen.append(goal.target(4))
        assert goal.sign == -1
        return x

    recipe = AdvProp(record)
    model = ready(recipe)
    x, y = batch(200)
    for _ in recipe(model, x, y):
        pass
    assert not (seen[0] == y).any()
    assert len(seen[0].unique()) == 4


def test_advprop_ebn_is_the_sum_of_both():
    x, y = batch()
    attack = PGD(Linf(0.05))
    three = AdvPropEBN(attack, attack, clean_weight=0.5, adv_weight=0.25, easy_weight=0.25)
    torch.manual_seed(4)
    found = gradients(three, ready(three), x, y)
    torch.manual_seed(4)
    adv = gradients(AdvProp(attack, clean_weight=0.25, adv_weight=0.25), ready(AdvProp()), x, y)
    easy = gradients(EBN(attack, clean_weight=0.25, easy_weight=0.25), ready(EBN()), x, y)
    shared = [name for name in found if "norms" not in name]
    assert shared
    for name in shared:
        torch.testing.assert_close(found[name], adv[name] + easy[name], rtol=1e-4, atol=1e-6)
    own = [name for name in found if "norms.adv" in name]
    assert own
    for name in own:
        torch.testing.assert_close(found[name], adv[name], rtol=1e-4, atol=1e-6)


def test_adversarial_training_learns_from_the_perturbed_images_alone():
    x, y = batch()
    recipe = AdversarialTraining(PGD(Linf(0.05)))
    ours, by_hand = ready(recipe), ready(recipe)
    with evaluating(by_hand):
        perturbed = sign_step(by_hand, x, y, 0.05)
    F.cross_entropy(by_hand(perturbed), y).backward()
    found = gradients(recipe, ours, x, y)
    assert all(torch.equal(found[name], p.grad) for name, p in by_hand.named_parameters())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_shared_gradient_is_bit_identical_to_vanillas(label_smoothing):
    x, y = batch()
    recipe = EBNShared(clean_weight=1.0, easy_weight=0.0, label_smoothing=label_smoothing)
    ours, vanilla = ready(recipe), ready(Vanilla())
    next(iter(recipe(ours, x, y))).loss.backward()
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    expected = gradients(Vanilla(label_smoothing=label_smoothing), vanilla, x, y)
    assert len(found) == len(expected)
    for name, grad in expected.items():
        ours_name = name if name in found else name.rpartition(".")[0] + ".norms.main." + name.rpartition(".")[2]
        assert torch.equal(found[ours_name], grad), name


@pytest.mark.parametrize(("ball", "step"), [(Linf(0.05), None), (Linf(0.05), 0.02), (L2(0.5), None)])
def test_shared_perturbation_equals_a_separately_computed_one(ball, step):
    x, y = batch()
    recipe = EBNShared(ball, step, label_smoothing=0.1)
    model, other = ready(recipe), ready(recipe)
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    gradients(recipe, model, x, y)
    point = x.clone().requires_grad_()
    loss = 0.5 * F.cross_entropy(other(point), y, label_smoothing=0.1)
    (grad,) = torch.autograd.grad(loss, point)  # a pass of its own, through main in train mode
    assert torch.equal(seen[0], x)
    assert torch.equal(seen[1], ball.project(x - (step or ball.eps) * ball.steepest(grad), x))
    assert not torch.equal(seen[1], x)


def test_shared_equals_ebn_through_main_in_train_mode():
    x, y = batch()
    shared = gradients(EBNShared(Linf(0.05)), ready(EBNShared()), x, y)
    separate = gradients(EBN(PGD(Linf(0.05)), through="main", mode="train"), ready(EBN()), x, y)
    # the losses differ by a factor of the batch size, so a sign may differ where the gradient is next to nothing
    for name, grad in separate.items():
        torch.testing.assert_close(shared[name], grad, rtol=1e-2, atol=1e-4)


def test_shared_wants_each_term_backpropagated_as_it_comes():
    x, y = batch()
    terms = EBNShared()(ready(EBNShared()), x, y)
    next(terms)
    with pytest.raises(RuntimeError, match="backward"):
        next(terms)
    with pytest.raises(ValueError, match="clean_weight 0"):
        EBNShared(clean_weight=0)


def test_two_branch_step_equals_timms_split_batch_norm():
    """timm splits the batch in equal parts, each with its own plain BatchNorm2d: the same arithmetic."""
    torch.manual_seed(0)
    plain = resnet_tiny()
    ours, theirs = convert(plain, ("main", "easy")), convert_splitbn_model(resnet_tiny(), num_splits=2)
    theirs.load_state_dict({**theirs.state_dict(), **plain.state_dict()})
    for name, buffer in [*theirs.named_parameters(), *theirs.named_buffers()]:
        if ".aux_bn.0." in name:  # timm's auxiliary norms start afresh; ours from the norm they copy
            with torch.no_grad():
                buffer.copy_(plain.state_dict()[name.replace(".aux_bn.0.", ".")])
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (ours, theirs)]
    for step in range(3):
        torch.manual_seed(10 + step)
        clean, easy, y = torch.rand(8, 3, 16, 16), torch.rand(8, 3, 16, 16), torch.randint(0, 10, (8,))
        for optimizer in optimizers:
            optimizer.zero_grad()
        for branch, images in (("main", clean), ("easy", easy)):
            with route(ours, branch):
                (0.5 * F.cross_entropy(ours(images), y)).backward()
        F.cross_entropy(theirs(torch.cat((clean, easy))), torch.cat((y, y))).backward()
        for optimizer in optimizers:
            optimizer.step()
    found = ours.state_dict()
    for name, value in theirs.state_dict().items():
        head, _, tail = name.rpartition(".")
        branch = "easy" if head.endswith(".aux_bn.0") else "main"
        head = head.removesuffix(".aux_bn.0")
        key = f"{head}.norms.{branch}.{tail}"
        torch.testing.assert_close(found[key if key in found else name], value, rtol=1e-4, atol=1e-5)
    assert any("aux_bn" in name for name in theirs.state_dict())
    assert len(list(branch_parameters(ours, "easy"))) == 2 * sum("aux_bn.0.weight" in n for n in theirs.state_dict())
