"""Confidence and correctness, against one image at a time."""

import torch
import torch.nn.functional as F

from easybn.data import Split
from easybn.metrics.easy_examples import Answers, answers
from easybn.perturb.ball import Linf
from easybn.perturb.goal import easy
from easybn.perturb.pgd import PGD

from ..small import small_net

GENERATOR = torch.Generator().manual_seed(5)
SPLIT = Split(
    torch.randint(0, 256, (23, 3, 8, 8), generator=GENERATOR, dtype=torch.uint8),
    torch.randint(0, 4, (23,), generator=GENERATOR),
)
STEP = PGD(Linf(4 / 255))


def test_the_answers_are_those_on_each_image_alone():
    """In batches of 7: float32 logits, sums of 96 products, may differ by 96 units of rounding."""
    net = small_net().eval()
    own, copies = answers(net, SPLIT, STEP, batch_size=7)
    assert copies is not None
    for i, label in enumerate(SPLIT.labels):
        x = SPLIT.images[i : i + 1].float() / 255
        x_easy = STEP(net, x, easy(label[None]))
        for found, image in ((own, x), (copies, x_easy)):
            probabilities = F.softmax(net(image), 1)[0].tolist()
            assert abs(float(found.confidence[i]) - max(probabilities)) < 1e-5
            assert abs(float(found.of_label[i]) - probabilities[label]) < 1e-5
            assert bool(found.correct[i]) == (probabilities.index(max(probabilities)) == label)


def test_no_mode_statistic_or_gradient_changes():
    net = small_net().train()
    net[2].eval()  # one that its owner froze
    before = {name: value.clone() for name, value in net.state_dict().items()}
    answers(net, SPLIT, STEP)
    assert [module.training for module in net] == [True, True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_in_eval_mode_whatever_the_mode_was():
    net = small_net()
    expected, _ = answers(net.eval(), SPLIT)
    found, copies = answers(net.train(), SPLIT)
    assert torch.equal(found.confidence, expected.confidence)
    assert copies is None


def test_easy_is_right_and_above_the_threshold():
    confidence = torch.tensor([0.95, 0.9, 0.95, 0.3])
    found = Answers(confidence, confidence, torch.tensor([True, True, False, True]))
    assert found.easy(0.9).tolist() == [True, False, False, False]  # above: 0.9 itself is not
    assert found.easy(0.0).tolist() == [True, True, False, True]


def test_the_step_makes_images_easier():
    own, copies = answers(small_net().eval(), SPLIT, PGD(Linf(1e-3)))
    assert copies is not None
    assert (copies.of_label > own.of_label).all()
