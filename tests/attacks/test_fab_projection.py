"""The projections against bisection, against the reference in float64, and on rows with nothing to project."""

import pytest
import torch
from pyautoattack.fab_projections import projection_l2, projection_linf
from torch import Tensor

from easybn.attacks.fab import l2_to_plane, linf_to_plane

BOTH = pytest.mark.parametrize("project", [linf_to_plane, l2_to_plane], ids=["linf", "l2"])


def rows(n: int = 60, d: int = 50, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Points with many coordinates on the faces of the box, planes near and far, of weights that are often zero."""
    draw = torch.Generator().manual_seed(seed)
    point = (torch.rand(n, d, generator=draw, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
    normal = torch.randn(n, d, generator=draw, dtype=torch.float64)
    normal[torch.rand(n, d, generator=draw) < 0.1] = 0
    normal *= 10 ** torch.linspace(-3, 3, n, dtype=torch.float64)[:, None]
    share = torch.linspace(-1.2, 1.2, n, dtype=torch.float64)
    return point, normal, share * farthest(point, normal, share)


def rounding(point: Tensor) -> float:
    """What a sum over a row may be off by, in whatever order it is taken: a unit a term of the sum of their sizes."""
    return point.shape[1] * torch.finfo(point.dtype).eps


def farthest(point: Tensor, normal: Tensor, excess: Tensor) -> Tensor:
    """(N,) the largest |w.z - w.point| for z in the box on the side that reduces the excess."""
    falling = torch.where(normal * excess[:, None] > 0, point, 1 - point)
    return (normal.abs() * falling).sum(1)


def by_bisection(point: Tensor, normal: Tensor, excess: Tensor, euclidean: bool) -> Tensor:
    """The nearest point of the box is the one moved by t along the steepest direction and cut off, for some t."""
    direction = -excess.sign()[:, None] * (normal if euclidean else normal.sign())
    low = torch.zeros_like(excess)
    high = low + 2 / normal.abs().where(normal != 0, torch.inf).amin(1) if euclidean else low + 2
    for _ in range(200):
        t = (low + high) / 2
        moved = (point + t[:, None] * direction).clamp(0, 1) - point
        short = (normal * moved).sum(1).abs() < excess.abs()
        low, high = t.where(short, low), high.where(short, t)
    return (point + high[:, None] * direction).clamp(0, 1) - point


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_displacement_is_that_of_bisection(project, dtype):
    point, normal, excess = (each.to(dtype) for each in rows())
    exact = by_bisection(point.double(), normal.double(), excess.double(), project is l2_to_plane)
    got = project(point, normal, excess)
    assert got.dtype == dtype
    # near a corner the last coordinates to stop have small weights, and the rounding of the others moves them far
    assert float((got.double() - exact).abs().max()) < (1e-12 if dtype == torch.float64 else 1e-5)
    aside = (normal.double() * (got.double() - exact)).sum(1).abs()
    assert float((aside / normal.abs().sum(1)).max()) < rounding(point)


@BOTH
def test_the_displacement_is_that_of_the_reference(project):
    point, normal, excess = rows(d=200)
    reference = projection_linf if project is linf_to_plane else projection_l2
    torch.set_default_dtype(torch.float64)  # its masks are of the default type
    try:
        expected = reference(point, normal, (normal * point).sum(1) - excess)
    finally:
        torch.set_default_dtype(torch.float32)
    assert float((project(point, normal, excess) - expected).abs().max()) < 1e-8


@BOTH
def test_the_image_stays_in_the_box_and_reaches_the_plane_or_else_the_corner_nearest_to_it(project):
    point, normal, excess = rows()
    moved = point + project(point, normal, excess)
    assert float(moved.min()) >= -1e-15
    assert float(moved.max()) <= 1 + 1e-15
    left = excess + (normal * (moved - point)).sum(1)
    reachable = excess.abs() <= farthest(point, normal, excess)
    assert 0 < int(reachable.sum()) < len(point)
    assert float((left.abs() / normal.abs().sum(1))[reachable].max()) < rounding(point)
    corner = (normal * excess[:, None] < 0).double().where(normal != 0, point)
    torch.testing.assert_close(moved[~reachable], corner[~reachable])


def test_nothing_nearer_does_as_well():
    """KKT: the coordinates inside the box move along the normal alike, and those on its faces want to go on."""
    point, normal, excess = rows()
    moved = l2_to_plane(point, normal, excess)
    moves = (normal != 0) & (excess.abs() <= farthest(point, normal, excess))[:, None]
    inside = moves & (point + moved > 1e-12) & (point + moved < 1 - 1e-12)
    multiplier = -excess.sign()[:, None] * moved / normal
    high = multiplier.where(inside, -torch.inf).amax(1, keepdim=True)
    low = multiplier.where(inside, torch.inf).amin(1, keepdim=True)
    tight = inside.any(1, keepdim=True)
    assert bool(((high - low) <= 1e-9 * high)[tight].all())
    assert bool((multiplier <= high * (1 + 1e-9))[moves & ~inside & tight].all())
    moved = linf_to_plane(point, normal, excess)
    step = moved.abs().amax(1, keepdim=True)
    free = moves & (point + moved > 1e-12) & (point + moved < 1 - 1e-12)
    assert bool((step - moved.abs() < 1e-12)[free].all())


@BOTH
@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
def test_the_length_of_the_normal_means_nothing(project, scale):
    """Not even where its squares would be 0 or infinite."""
    point, normal, excess = (each.float() for each in rows())
    assert torch.equal(project(point, normal * scale, excess * scale), project(point, normal, excess))


@BOTH
def test_weights_of_very_different_sizes(project):
    """Each pass of Newton's method could stop at one coordinate alone; the passes stay few, and the result exact."""
    draw = torch.Generator().manual_seed(0)
    point = torch.rand(20, 300, generator=draw, dtype=torch.float64)
    normal = 10 ** torch.linspace(0, -12, 300, dtype=torch.float64).expand(20, -1)
    excess = farthest(point, normal, torch.ones(20)) * (1 - 10 ** torch.linspace(-1, -11, 20, dtype=torch.float64))
    got = project(point, normal, excess)
    left = excess + (normal * got).sum(1)
    assert float((left.abs() / normal.sum(1)).max()) < rounding(point)
    assert float(got.max()) <= 0


@BOTH
def test_rows_without_a_plane_stay(project):
    point = torch.rand(3, 8)
    normal = torch.randn(3, 8)
    normal[0] = 0
    normal[2] = 1e-44  # not normal
    got = project(point, normal, torch.tensor([1.0, 0.0, 3.0]))
    assert not got[:2].any()
    assert torch.equal(point[2] + got[2], torch.zeros(8))


@BOTH
def test_a_row_depends_on_the_others_by_rounding_alone(project):
    point, normal, excess = (each.float() for each in rows())
    together = project(point, normal, excess)
    alone = torch.cat([project(*each) for each in zip(point.split(1), normal.split(1), excess.split(1), strict=True)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)  # as in the comparison with bisection
    assert project(point[:0], normal[:0], excess[:0]).shape == (0, 50)
