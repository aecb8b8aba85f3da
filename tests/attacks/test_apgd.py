import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

from easybn import L2, Linf
from easybn.attacks.apgd import APGD, checkpoints
from easybn.attacks.attack import AttackState
from easybn.attacks.attack_mode import attack_mode

from ..small import small_images, small_net


def state_of(x: torch.Tensor, y: torch.Tensor, target: torch.Tensor | None = None) -> AttackState:
    rows = torch.arange(len(x))
    return AttackState.create(rows, y, rows.new_full((len(x),), -1) if target is None else target, rows * 0, rows, x)


def test_the_step_size_is_checked_where_the_paper_says():
    assert list(checkpoints(100)) == [21, 40, 56, 69, 79, 86, 92, 98]


@pytest.mark.parametrize("loss", ["ce", "dlr", "t"])
@pytest.mark.parametrize("ball", [Linf(0.03), L2(0.1)], ids=["linf", "l2"])
def test_a_hundred_iterations_are_those_of_the_reference(ball, loss):
    """In float64, from the same start, without leaving at a success: the same losses and the same best images."""
    net, x = small_net(classes=6).double(), small_images(24, dtype=torch.float64)
    y = net(x).argmax(1)
    attack = APGD(ball, loss)
    target = net(x).sort(dim=1)[1][:, -2]
    state = state_of(x, y, target)
    attack.init(state)
    start = state["image"].clone()
    with attack_mode(net) as model:
        for _ in range(101):
            attack.evaluate(model, state)
            attack.step(model, state)
            state["iteration"] = state["iteration"] + 1
    norm = "Linf" if isinstance(ball, Linf) else "L2"
    peer = (APGDAttack_targeted if loss == "t" else APGDAttack)(net, norm=norm, eps=float(ball.eps), n_iter=100)
    if loss == "t":
        peer.y_target = target
    else:
        peer.loss = loss
    peer.init_hyperparam(x)
    torch.set_default_dtype(torch.float64)  # the reference allocates its history in the default type
    try:
        best, _, best_loss, _ = peer.attack_single_run(x, y, x_init=start)
    finally:
        torch.set_default_dtype(torch.float32)
    assert state["best_loss"].tolist() == pytest.approx(best_loss.tolist(), rel=1e-6)
    assert (state["best"] - best).abs().max().item() < 1e-3
