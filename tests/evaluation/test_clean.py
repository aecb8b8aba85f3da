import pytest
import torch
from torch import nn

from easybn.attacks.prepare import prepared
from easybn.evaluation.clean import correct, predict

from ..small import small_images, small_net


def test_predictions_are_those_of_one_forward_pass_in_any_batches():
    model, x = small_net().double(), small_images(23, dtype=torch.float64)
    seen = []
    with prepared(model) as ready:
        found = predict(ready, x, batch_size=5, progress=lambda *args: seen.append(args))
    assert torch.equal(found, model(x).argmax(1))
    assert len(found.unique()) > 1
    assert seen == [(n, 23, "clean") for n in (5, 10, 15, 20, 23)]


def test_correct_counts_each_point_in_order():
    model, x = small_net(), small_images(20)
    y = model(x).argmax(1)
    y[::3] = (y[::3] + 1) % 4
    with prepared(model) as ready:
        assert torch.equal(correct(ready, x, y, batch_size=7), torch.arange(20) % 3 != 0)


@pytest.mark.parametrize("bad", [-1, 4])
def test_labels_that_do_not_fit(bad):
    y = torch.zeros(20, dtype=torch.int64)
    y[19] = bad
    with prepared(small_net()) as ready, pytest.raises(ValueError, match=r"labels must be in 0 \.\. 3 for 4 logits"):
        correct(ready, small_images(20), y, batch_size=7)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_counted_over_all_batches(poison):
    class Broken(nn.Module):
        def forward(self, x):
            z = x.flatten(1)[:, :3].clone()
            z[z[:, 0] > 2 / 3, 1] = poison
            return z

    x = small_images(40)
    count = int((x[:, 0, 0, 0] > 2 / 3).sum())
    assert count > 2
    with prepared(Broken()) as ready, pytest.raises(ValueError, match=f"for {count} of 40 images"):
        predict(ready, x, batch_size=6)
