import pytest
import torch

from easybn.attacks.model_call import Bound, answer, disagreement, logit_distance

from ..small import small_images, small_net

LOOSE = Bound(logits=1, cosine=-1, signs=0)


def _linear(weight):
    return lambda x: x.flatten(1) @ weight


def test_the_answer_of_a_linear_model_of_two_classes():
    # log odds of two classes is the difference of their logits
    weight, x = torch.randn(12, 2), torch.rand(5, 3, 2, 2)
    found = answer(_linear(weight), x)
    torch.testing.assert_close(found.logits, (x.flatten(1) @ weight).double())
    wrong, right = weight.T[1 - found.label], weight.T[found.label]
    torch.testing.assert_close(found.gradient.flatten(1), (wrong - right).double())


def test_a_model_agrees_with_itself_and_with_a_multiple_of_its_gradient():
    net, x = small_net(), small_images(6)
    found = answer(net, x)
    assert disagreement(found, answer(net, x), Bound(0, 1 - 1e-12, 1)) is None
    assert disagreement(found, found._replace(gradient=7 * found.gradient), Bound(0, 1 - 1e-12, 1)) is None


@pytest.mark.parametrize("off", [0.01, float("nan"), float("inf")])
def test_logits_that_differ(off):
    found = answer(small_net(), small_images(6))
    other = found._replace(logits=found.logits + off * found.logits.abs().max())
    assert "logits differ" in disagreement(found, other, Bound(0.009, -1, 0))
    if off < 1:
        assert disagreement(found, other, Bound(0.011, -1, 0)) is None


def test_gradients_that_differ_for_a_single_image():
    found = answer(small_net(), small_images(6))
    gradient = found.gradient.clone()
    gradient[3] *= -1
    other = found._replace(gradient=gradient)
    assert "cosine between input gradients is -1.00000" in disagreement(found, other, Bound(1, -0.5, 0))
    assert "0.0% of an image's gradient signs" in disagreement(found, other, Bound(1, -1.1, 0.5))
    assert disagreement(found, found._replace(gradient=gradient * float("nan")), LOOSE) is not None


def test_gradients_that_vanish():
    found = answer(small_net(), small_images(6))
    nothing = found._replace(gradient=torch.zeros_like(found.gradient))
    assert disagreement(nothing, nothing, Bound(0, 1, 1)) is None
    assert "cosine between input gradients is 0.0" in disagreement(nothing, found, Bound(1, 0.1, 0))
    assert "cosine between input gradients is 0.0" in disagreement(found, nothing, Bound(1, 0.1, 0))


def test_tiny_entries_have_no_sign():
    found = answer(small_net(), small_images(1))
    gradient = torch.full_like(found.gradient, 1e-3)
    gradient[:, 0] = 1
    other = gradient.clone()
    other[:, 1:] *= -1
    assert disagreement(found._replace(gradient=gradient), found._replace(gradient=other), Bound(0, 0, 1)) is None


def test_the_distance_is_relative_to_the_largest_logit():
    a = torch.tensor([[0.0, -200.0], [3.0, 1.0]])
    assert logit_distance(a, a + torch.tensor([[0.0, 0.0], [2.0, 0.0]])) == pytest.approx(0.01)
    assert logit_distance(a * 0, a) == 200
