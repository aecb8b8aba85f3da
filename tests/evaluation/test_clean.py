import pytest
import torch
from torch import nn

from easybn.evaluation import evaluate

from ..small import small_images, small_net


@pytest.mark.parametrize("protocol", ["strong", "robustness"])
def test_predictions_are_those_of_one_forward_pass_in_any_batches(protocol):
    model, x = small_net().double(), small_images(23, dtype=torch.float64)
    predicted = model(x).argmax(1)
    assert len(predicted.unique()) > 1
    y = predicted.clone()
    y[::3] = (y[::3] + 1) % 4
    seen = []
    found = evaluate(
        model, x, y, attacks="clean", protocol=protocol, batch_size=5, progress=lambda *args: seen.append(args)
    )
    assert torch.equal(found.clean, torch.arange(23) % 3 != 0)
    assert seen == [(n, 23, "clean") for n in (5, 10, 15, 20, 23)]


@pytest.mark.parametrize("bad", [-1, 4])
@pytest.mark.parametrize("protocol", ["strong", "robustness"])
def test_labels_that_do_not_fit(bad, protocol):
    y = torch.zeros(20, dtype=torch.int64)
    y[19] = bad
    with pytest.raises(ValueError, match=r"labels must be in 0 \.\. 3 for 4 logits"):
        evaluate(small_net(), small_images(20), y, protocol=protocol, batch_size=7)


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
    with pytest.raises(ValueError, match=f"for {count} of 40 images"):
        evaluate(Broken().eval(), x, torch.zeros(40, dtype=torch.int64), batch_size=6)
