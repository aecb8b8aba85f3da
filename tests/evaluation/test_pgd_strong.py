import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easybn.attacks.attack import misclassified
from easybn.attacks.attack_mode import attack_mode
from easybn.evaluation import evaluate
from easybn.evaluation.config import EvaluateConfig

from ..small import small_images, small_net


def _linear(classes: int, seed: int = 0) -> nn.Sequential:
    """Rows of equal length and at right angles: the class of smallest margin is the nearest in l2."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    rows = torch.linalg.qr(torch.randn(64, classes, generator=torch.Generator().manual_seed(seed)))[0].T
    net[1].weight = nn.Parameter(rows)
    net[1].bias = nn.Parameter(-0.5 * rows.sum(1))
    return net.double()


def _inner_images(n: int, seed: int = 1) -> Tensor:
    """Far from the ends of [0, 1], so that the box never binds."""
    return 0.5 + 0.2 * (
        torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    )


def _distances(net: nn.Sequential, x: Tensor, y: Tensor, dual: float) -> Tensor:
    """(N,) distance to the nearest other class: min over j of (z_y - z_j) / |w_y - w_j| in the dual norm."""
    logits, weight = net(x), net[1].weight
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = (weight[y][:, None] - weight[None]).norm(p=dual, dim=2)
    return (gaps / slopes).scatter(1, y[:, None], torch.inf).amin(1).detach()


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_linear_models_have_a_closed_form(classes, norm, dual):
    net, x = _linear(classes), _inner_images(200)
    y = net(x).argmax(1)
    distance = _distances(net, x, y, dual)
    radii = distance.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    found = evaluate(net, x, y, norm=norm, eps=radii, steps=60)
    for radius in radii:
        robust, expected = found.robust_at[radius], distance > radius
        assert robust[expected].all(), "a point fell within its distance"
        if norm == "l2" or classes == 2:
            assert torch.equal(robust, expected)
        else:  # in l-infinity the nearest class need not be the one of smallest margin
            assert (robust != expected).float().mean() < 0.03


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_scale_of_the_logits_changes_nothing(scale):
    """Saturated or tiny losses, in float32: the direction is all that counts."""
    x = _inner_images(200).float()

    def robust(scale: float) -> Tensor:
        net = _linear(5).float()
        y = net(x).argmax(1)
        net[1].weight.data *= scale
        net[1].bias.data *= scale
        return evaluate(net, x, y, eps=0.06).robust

    distance = _distances(_linear(5), x.double(), _linear(5)(x.double()).argmax(1), 2)
    clear = (distance - 0.06).abs() > 1e-5
    assert torch.equal(robust(scale)[clear], (distance > 0.06)[clear])


@pytest.fixture(scope="module")
def problem() -> tuple[nn.Module, Tensor, Tensor]:
    model, x = small_net().double(), small_images(40, dtype=torch.float64)
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % 4
    return model, x, y


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_verdicts_do_not_depend_on_the_batch(problem, norm, random_start):
    """In float64: what another order of sums changes, 1e-14 a pass, lies far below the margin of any point here."""
    model, x, y = problem
    options = {
        "norm": norm,
        "eps": 0.2 if norm == "l2" else 0.015,
        "steps": 10,
        "random_start": random_start,
        "keep_images": True,
    }
    whole = evaluate(model, x, y, batch_size=40, **options)
    assert 0 < int(whole.robust.sum()) < int(whole.clean.sum())
    for batch_size in (1, 7, 25):
        parts = evaluate(model, x, y, batch_size=batch_size, **options)
        assert torch.equal(parts.robust, whole.robust)
        torch.testing.assert_close(parts.images, whole.images, atol=1e-9, rtol=0)
    if not random_start:  # which is keyed by the index of the point
        order = torch.randperm(40, generator=torch.Generator().manual_seed(3))[:27]
        assert torch.equal(evaluate(model, x[order], y[order], **options).robust, whole.robust[order])


def test_random_start_is_keyed_by_the_seed(problem):
    model, x, y = problem
    options = {"eps": 0.4, "steps": 1, "step_size": 0.01, "random_start": True, "keep_images": True}
    first, again, other = (evaluate(model, x, y, seed=seed, **options) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert first.scores[1].seed == 1


def test_random_start_belongs_to_the_point_whoever_else_is_attacked(problem):
    model, x, y = problem
    options = {"eps": 0.4, "steps": 1, "step_size": 1e-9, "random_start": True, "keep_images": True}
    some, others = (evaluate(model, x, labels, **options) for labels in (y, model(x).argmax(1)))
    both = some.clean & others.clean & ~some.robust
    assert both.any()
    assert some.clean.sum() < others.clean.sum()
    # in batches of other sizes a step of 1e-9 may round otherwise; starts of other keys lie 0.1 apart
    torch.testing.assert_close(some.images[both], others.images[both], rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_several_radii_at_once(problem, norm):
    model, x, y = problem
    radii = [0.4, 0.1, 0.2] if norm == "l2" else ["8/255", "1/255", "4/255"]
    shared = evaluate(model, x, y, norm=norm, eps=radii, steps=15)
    alone = evaluate(model, x, y, norm=norm, eps=radii, steps=15, share=False)
    fallen = torch.zeros(40, dtype=torch.bool)
    assert list(shared.robust_at) == sorted(shared.robust_at)
    for eps, radius in zip(shared.robust_at, sorted(radii, key=lambda r: float(eval(str(r)))), strict=True):
        separate = evaluate(model, x, y, norm=norm, eps=radius, steps=15).robust
        assert torch.equal(alone.robust_at[eps], separate)
        fallen |= ~separate
        assert torch.equal(shared.robust_at[eps], ~fallen)
    counts = [score.correct for score in shared.scores]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kept_images_verify(problem, dtype):
    model, x, y = small_net().to(dtype), problem[1].to(dtype), problem[2]
    found = evaluate(model, x, y, eps=[0.1, 0.3], steps=20, batch_size=16, keep_images=True)
    for eps, images in found.images_at.items():
        robust = found.robust_at[eps]
        assert torch.equal(model(images).argmax(1) == y, robust)
        distance = (images - x).flatten(1).norm(dim=1)
        assert float(distance.max()) <= eps + 1e-6
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        assert torch.equal(distance > 0, found.clean & ~robust), "a fallen image moves and no other is changed"


def test_max_perturbation_is_eps_where_a_point_stood(problem):
    model, x, y = problem
    for norm, eps in (("l2", 0.2), ("linf", 0.01)):
        found = evaluate(model, x, y, norm=norm, eps=eps, steps=15)
        assert found.robust.any()
        assert found.scores[1].max_perturbation == pytest.approx(eps, rel=1e-4)


TRIED = 4 * 16 + 1
"""Images on which a model is tried beforehand: in two layouts, with a gradient, once more, and alone."""


def test_a_point_that_is_wrong_is_not_attacked_and_not_robust():
    class Counting(nn.Module):
        images = 0

        def forward(self, x: Tensor) -> Tensor:
            self.images += len(x)
            return x.flatten(1)[:, :3]

    model, x = Counting().eval(), small_images(30)
    y = (model(x).argmax(1) + 1) % 3
    model.images = 0
    found = evaluate(model, x, y, eps=0.3, fold=False, diagnosis=False)
    assert model.images == TRIED + 30  # the clean pass alone
    assert not found.robust.any()
    assert found.scores[1].max_perturbation == 0


def test_fallen_points_cost_nothing():
    class Counting(nn.Module):
        images, passes, largest = 0, 0, 0

        def forward(self, x: Tensor) -> Tensor:
            self.images += len(x)
            self.passes += x.requires_grad
            self.largest = max(self.largest, len(x))
            return x.flatten(1)[:, :2] - torch.tensor([0.0, 0.3])

    model = Counting().eval()
    x = torch.full((400, 1, 2, 2), 0.5)
    y = torch.zeros(400, dtype=torch.int64)
    x[::4, 0, 0, 0] = 1.0  # these 100 stand
    found = evaluate(model, x, y, eps=0.4, steps=40, batch_size=64, fold=False, diagnosis=False)
    assert torch.equal(found.robust, torch.arange(400) % 4 == 0)
    # the others fall when 9 steps of 0.025 have brought them 0.3 / sqrt(2) = 0.212: 10 passes and 1 that verifies
    assert model.images == TRIED + 400 + 300 * 11 + 2 * 100 * 41
    assert model.largest == 64
    # whoever falls is replaced: 7 batches of their own would take 41 passes each for the first loss alone
    assert model.passes < 1.4 * (300 * 10 + 2 * 100 * 41) / 64 < 7 * 41


class Slab(nn.Module):
    """Misclassified only where the sum of the pixels has grown by 0.25 to 0.35; the loss is largest beyond."""

    def forward(self, x: Tensor) -> Tensor:
        u = x.flatten(1).sum(1) - 0.5 * x[0].numel()
        inside = (u - 0.3).abs() < 0.05
        second = torch.where(inside, 1.1 + 0.01 * u, 0.9 + 0.01 * u)
        third = torch.where(inside, -10.0 + u, 0.9 + 0.01 * u)
        return torch.stack((torch.ones_like(u), second, third), 1)


GREY, ZEROS = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)


def test_an_iterate_in_between_counts():
    found = evaluate(Slab(), GREY, ZEROS, eps=0.5, steps=50, keep_images=True)
    assert not found.robust.any()
    assert (((found.images - 0.5).flatten(1).sum(1) - 0.3).abs() < 0.05).all()
    assert evaluate(Slab(), GREY, ZEROS, eps=0.5, steps=50, protocol="robustness").robust.all()


def test_what_fell_at_a_smaller_radius_stays_fallen_unless_sharing_is_off():
    for share in (True, False):  # the steps of the larger radius jump over the slab
        found = evaluate(Slab(), GREY, ZEROS, eps=[1.0, 0.2], steps=10, share=share, keep_images=True)
        assert not found.robust_at[0.2].any()
        assert found.robust_at[1.0].all() != share
        assert torch.equal(found.images_at[1.0], found.images_at[0.2] if share else GREY)


def test_the_margin_loss_runs_on_the_survivors_only(problem):
    model, x, y = problem
    totals = {}

    def progress(done: int, total: int, what: str) -> None:
        totals[what.partition(",")[0]] = total

    found = evaluate(model, x, y, eps=0.25, steps=5, progress=progress)
    first, second = totals["pgd-ce 0.25"], totals["pgd-margin 0.25"]
    assert first == int(found.clean.sum()) * 6
    assert int(found.robust.sum()) * 6 <= second < first


def test_progress_goes_up_to_its_total_after_every_iteration(problem):
    model, x, y = problem
    for protocol in ("strong", "robustness"):
        calls: dict[str, list[tuple[int, int]]] = {}

        def progress(done: int, total: int, what: str, calls: dict = calls) -> None:
            calls.setdefault(what.partition(",")[0], []).append((done, total))

        evaluate(model, x, y, eps=0.25, steps=8, batch_size=15, protocol=protocol, progress=progress, diagnosis=False)
        assert len(calls) == (3 if protocol == "strong" else 2)
        for seen in calls.values():
            done = [d for d, _ in seen]
            assert done == sorted(set(done))
            assert {t for _, t in seen} == {done[-1]}
            assert len(done) >= 3
            # the images of a batch before the next call, at most
            assert max(b - a for a, b in zip([0, *done], done, strict=False)) <= 15 * (9 if protocol == "strong" else 1)


@pytest.mark.parametrize("beyond", [False, True])
def test_thin_successes_are_continued_and_count_in_the_end(beyond):
    """Misclassified at first by less than rounding could explain, and by more only where there is more to find."""

    class Hair(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            u = (x.flatten(1).sum(1) - 2.0).clamp(max=0.95 if beyond else 0.5)
            return torch.stack((torch.full_like(u, 1000.0), 1000.0 + (u - 0.4) * 0.01), 1)

    found = evaluate(Hair(), GREY, ZEROS, eps=0.5, steps=20, keep_images=True)
    assert not found.robust.any()
    wrong, sure = misclassified(Hair()(found.images), ZEROS)
    assert wrong.all()
    assert sure.all() == beyond


def test_a_choice_that_makes_no_sense_is_refused(problem):
    with pytest.raises(ValueError, match="no random start"):
        EvaluateConfig(("pgd",), "l2", protocols=("robustness",), random_start=True)
    with pytest.raises(ValueError, match="one radius or more"):
        evaluate(*problem, eps=[])


def test_verdicts_of_a_confident_net_do_not_depend_on_its_temperature(problem):
    """100 times the logits saturate cross-entropy in float32; the verdicts stay, as the boundary does."""
    _, x, _ = problem
    model, hot = small_net(), small_net()
    hot[4].weight.data *= 100
    hot[4].bias.data *= 100
    y = model(x.float()).argmax(1)
    cool, warm = (evaluate(m, x.float(), y, eps=0.3, steps=25) for m in (model, hot))
    assert F.cross_entropy(hot(x.float()), y, reduction="none").median() == 0
    assert 0 < int(cool.robust.sum()) < 40
    assert int((cool.robust != warm.robust).sum()) <= 2
    with attack_mode(hot) as ready:
        assert ready.dtype == torch.float32
