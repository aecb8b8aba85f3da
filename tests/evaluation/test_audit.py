"""The audit of the preset fast, on a linear model: what falls at which radius is known, and so is what fast misses."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

from easybn.attacks.registry import PRESETS
from easybn.evaluation import Score, evaluate
from easybn.evaluation.audit import Audit, sample_of
from easybn.evaluation.auditing import FastRun, audit_stores, stored_audit
from easybn.evaluation.config import SAMPLE
from easybn.evaluation.record import CLEAN, Record, Stage
from easybn.evaluation.result import audit_line, bounds, contradictions, display_name, headline
from easybn.evaluation.resumable import chunks_within
from easybn.evaluation.store import Store
from easybn.stats import accuracy_interval, count_interval

from .store.fake_job import same
from .store.stops import stop_at_save
from .weak_fast import REACH, patched

HOW = {"norm": "linf", "eps": 0.1, "attacks": "fast", "diagnosis": False}


class Grey(nn.Module):
    """Four classes; of the first two the second where the mean is above 1/2, the others never."""

    def forward(self, x):
        side = 8 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-side, side, torch.full_like(side, -9.0), torch.full_like(side, -11.0)], 1)


@pytest.fixture(autouse=True)
def _presets(monkeypatch):
    patched(monkeypatch)


def problem(n=60):
    """Images on both sides of the boundary, the i-th (i + 1/2) / 400 away, two with the label of the other side."""
    away = (torch.arange(n) + 0.5) / 400
    side = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)
    y = (side > 0).long()
    y[[7, 15]] = 1 - y[[7, 15]]
    return Grey(), (0.5 + side * away).view(n, 1, 1, 1).expand(n, 1, 2, 2).contiguous(), y


def falls(eps, n=60):
    """bool (n,): the points that an attack within eps breaks."""
    wrong = np.zeros(n, bool)
    wrong[[7, 15]] = True
    return wrong | ((np.arange(n) + 0.5) / 400 < eps)


def drawn_points(found, eps, audit):
    """Ids of the first points in the order of the draw, from the record alone."""
    fast = found.record.where(~np.isin(found.record.attack, [*PRESETS["standard"]]))
    stages = (CLEAN, *(Stage("momentum-pgd", radius) for radius in found.robust_at))
    return FastRun(fast, found.points.numpy(), stages, 0, True).survivors(eps).others[:audit]


def test_the_three_figures():
    found = evaluate(*problem(), **HOW, audit=12, keep_images=True)
    left = ~falls(0.05)
    # the clean margin is 16 d, the best one that fast saw 16 (d - 0.05): up to d = 0.0515 it is near zero
    suspicious, others = np.flatnonzero(left)[:1], np.flatnonzero(left)[1:]
    assert suspicious.tolist() == [20]
    sample = drawn_points(found, 0.1, 12)
    assert len(sample) == 12
    assert set(sample) <= set(others.tolist())
    missed = np.flatnonzero(left & falls(0.1))
    broken = np.intersect1d(missed, [*suspicious, *sample])
    assert 0 < len(broken) - 1 < 12  # of the sample some, not all
    audit = found.audits[0.1]
    assert audit == Audit(left.sum(), 1, 12, 1, len(broken) - 1, audit.broke)
    assert audit.broke == {"apgd-ce": len(broken), "apgd-t": 0, "fab-t": 0, "square": 0}
    assert torch.equal(found.robust, torch.as_tensor(left & ~np.isin(np.arange(60), broken)))
    clean, score = found.scores
    assert (clean.correct, clean.audit) == (58, None)
    assert (score.attack, score.protocol, score.n, score.audit) == ("fast", None, 60, audit)
    assert score.correct == left.sum() - len(broken)
    assert score.broke == {"clean": 2, "momentum-pgd": 58 - left.sum(), "audit": len(broken)}
    # the estimate: all suspicious ones, and of the others as many as in the sample
    assert audit.falling == pytest.approx(1 + len(others) * (len(broken) - 1) / 12)
    assert score.audited_accuracy == pytest.approx((left.sum() - audit.falling) / 60)
    low, high = count_interval(len(broken) - 1, 12, len(others))
    assert tuple(audit.falling_interval) == (1 + low, 1 + high)
    assert 1 + low <= len(missed) <= 1 + high
    assert tuple(audit.accuracy_interval(60)) == ((left.sum() - 1 - high) / 60, (left.sum() - 1 - low) / 60)
    # images fool the model just where a point is broken
    assert torch.equal(problem()[0](found.images).argmax(1) == problem()[2], found.robust)
    assert (found.images - problem()[1]).abs().max() <= 0.1 + 1e-6


def test_without_points_to_draw_from_nothing_is_estimated():
    every = evaluate(*problem(), **HOW, audit=1000)
    audit = every.audits[0.1]
    assert audit.whole
    assert audit.drawn == audit.others
    assert torch.equal(every.robust, torch.as_tensor(~falls(0.1)))
    ends = audit.accuracy_interval(60)
    assert ends.low == ends.high == every.robust_accuracy == audit.accuracy(60)
    assert every.interval == accuracy_interval(int((~falls(0.1)).sum()), 60)
    line = headline(every.scores[1])
    assert "at most" not in line
    assert line.endswith("60 points, fast, all 40 survivors audited by AutoAttack standard: 20 broken")
    told = "audit at linf 0.1: AutoAttack standard broke 20 (apgd-ce 20) of all 40 points that fast left"
    assert audit_line(every.scores[1]) == told


def test_a_model_that_fast_breaks_altogether_needs_no_audit():
    found = evaluate(*problem(18), **HOW)
    assert found.audits == {0.1: Audit(0, broke=dict.fromkeys(PRESETS["standard"], 0))}
    assert found.interval == accuracy_interval(0, 18)
    assert audit_line(found.scores[1]) == "audit at linf 0.1: fast left no point"


def test_no_audit_on_request():
    found = evaluate(*problem(), **HOW, audit=0)
    assert found.audits == {}
    assert found.scores[1].audit is None
    assert found.scores[1].audited_accuracy is None
    assert int(found.robust.sum()) == (~falls(0.05)).sum()
    assert "at most 66.7% (95%: 54.1 to 77.3), 60 points" in headline(found.scores[1])
    assert headline(found.scores[1]).endswith("fast, not audited")
    assert "audit" not in found.scores[1].broke
    assert audit_line(found.scores[1]) is None


def test_several_radii_share_what_was_found():
    found = evaluate(*problem(), **{**HOW, "eps": [0.06, 0.1]}, audit=15)
    for eps, audit in found.audits.items():
        left, true = ~falls(REACH * eps), falls(eps)
        assert audit.survivors == left.sum()
        low, high = audit.falling_interval
        assert low <= (left & true).sum() <= high
        sample = drawn_points(found, eps, 15)
        assert audit.broke_drawn == true[sample].sum()
        assert not (found.robust_at[eps].numpy() & falls(REACH * eps)).any()
    # nothing that the smaller radius' audit broke was attacked again
    small, large = (
        found.record.where((found.record.eps == eps) & (found.record.attack == "apgd-ce")) for eps in (0.06, 0.1)
    )
    assert not np.isin(large.point, small.point[small.success]).any()
    assert set(drawn_points(found, 0.1, 15)) & set(drawn_points(found, 0.06, 15))  # one order for all radii


def test_the_draw_depends_on_nothing_but_seed_and_point():
    ids = np.arange(0, 3000, 7)
    clean = Record.of(CLEAN, ids, success=False, distance=np.inf, margin=-1.0)
    fast = Record.of(Stage("momentum-pgd", 0.1), ids, success=False, distance=np.inf, margin=-0.9, backwards=5)
    run = FastRun(Record.joined([clean, fast]), ids, (CLEAN, Stage("momentum-pgd", 0.1)), 3, True)
    suspicious, order = run.survivors(0.1)
    assert len(suspicious) == 0
    assert sorted(order) == ids.tolist()
    assert order.tolist() != ids.tolist()
    shuffled = np.random.default_rng(0).permutation(len(ids))
    other = replace(run, record=run.record.where(np.concatenate([shuffled, len(ids) + shuffled])), points=ids[shuffled])
    assert other.survivors(0.1).others.tolist() == order.tolist()
    half = replace(run, record=run.record.where(run.record.point < 1500), points=ids[ids < 1500])
    assert half.survivors(0.1).others.tolist() == [point for point in order if point < 1500]
    assert replace(run, seed=4).survivors(0.1).others.tolist() != order.tolist()


def test_which_survivors_are_suspicious():
    stages = (CLEAN, *(Stage(name, eps) for eps in (0.1, 0.2) for name in ("first", "last")))
    rows = [  # attack, eps, margin, backwards, zero, non-finite of the points 0 to 6, whose clean margin is -2
        ("first", 0.1, [-1, -0.07, -0.05, np.nan, -1, -1, -1], 10, [9, 0, 0, 0, 0, 0, 9], [0] * 7),
        ("last", 0.1, [-1.5, -0.08, -1, np.nan, -1, -1, -1], 10, [4, 0, 0, 0, 5, 2, 0], [0, 0, 0, 0, 0, 3, 0]),
        ("first", 0.2, [-1, -0.01, -1, np.nan, -1, -1, -1], 10, [0] * 7, [0] * 7),
        ("last", 0.2, [-1] * 7, 10, [0] * 7, [0] * 7),
    ]  # fmt: skip
    ids = np.arange(7)
    made = [Record.of(CLEAN, ids, success=False, distance=np.inf, margin=-2.0)]
    for name, eps, margin, backwards, zero, lost in rows:
        stage = Stage(name, eps)
        made.append(
            Record.of(stage, ids, success=False, distance=np.inf, margin=margin, backwards=backwards,
                      zero_gradients=zero, non_finite=lost)
        )  # fmt: skip
    run = FastRun(Record.joined(made), ids, stages, 0, True)
    # 2 came within 3% of the clean margin, 4 and 5 lost half of the last attack's gradients
    assert run.survivors(0.1).suspicious.tolist() == [2, 4, 5]
    assert run.survivors(0.2).suspicious.tolist() == [1]


def test_how_many_are_drawn():
    assert sample_of(750, 1000, None, None) == SAMPLE == 40
    assert sample_of(750, 1000, 100, None) == 100
    assert sample_of(30, 1000, 100, None) == 30
    for width in (0.01, 0.05):
        size = sample_of(750, 1000, None, width)
        assert count_interval(0, size, 750).high <= 1000 * width < count_interval(0, size - 1, 750).high
    assert sample_of(9, 1000, None, 0.01) == 1  # though all 9 are less than 1%
    audit = evaluate(*problem(), **HOW, audit_width=0.2).audits[0.1]
    assert audit.drawn == sample_of(audit.others, 60, None, 0.2)


# In a store: resumed, in shards, extended, under a budget.


STORED = {**HOW, "eps": [0.06, 0.1], "audit": 9, "chunk": 12}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Everything undisturbed, with the presets of this file, and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patched(patch)
        folder = tmp_path_factory.mktemp("whole") / "s"
        return evaluate(*problem(40), **STORED, store=folder), folder


def equal(found, whole):
    return found.scores == whole.scores and same(found.record, whole.record) and torch.equal(found.robust, whole.robust)


def test_the_store_holds_what_memory_finds(whole, monkeypatch):
    found, folder = whole
    in_memory = evaluate(*problem(40), **{**STORED, "chunk": None})
    assert found.scores == in_memory.scores
    assert [len(found.record), len(found.audits)] == [len(in_memory.record), 2]
    for column in ("point", "eps", "attack", "success", "distance"):
        order = [np.lexsort((each.record.attack, each.record.eps, each.record.point)) for each in (found, in_memory)]
        rows = [each.record.columns[column][at] for each, at in zip((found, in_memory), order, strict=True)]
        assert (
            rows[0].tolist() == pytest.approx(rows[1].tolist()) if column == "distance" else (rows[0] == rows[1]).all()
        )
    store = Store.existing(folder)
    assert [each.manifest.eps for each in audit_stores(store)] == [(0.06,), (0.1,)]
    record = Record.joined(store.chunk_record(chunk) for chunk in range(4))
    read = stored_audit(store, FastRun.of_store(store, record, np.arange(40)))
    assert (read.audits, same(read.record, found.record)) == (found.audits, True)
    monkeypatch.setattr(Store, "write", None)  # a second call computes nothing
    assert equal(evaluate(*problem(40), **STORED, store=folder), found)


@pytest.mark.parametrize("stop", [2, 12])
def test_killed_in_the_audit_it_ends_with_the_same_bits(whole, tmp_path, monkeypatch, stop):
    def evaluation():
        return evaluate(*problem(40), **STORED, store=tmp_path / "s")

    stop_at_save(monkeypatch, stop, lambda task: "audit" in task.store.folder.parts, evaluation)
    assert equal(evaluation(), whole[0])


def test_killed_between_fast_and_audit_and_between_two_radii(whole, tmp_path, monkeypatch):
    module, done = import_module("easybn.evaluation.run_audit"), []
    run = module.run_resumable

    def killed(*args):
        if len(done) == allowed:
            raise KeyboardInterrupt
        done.append(1)
        return run(*args)

    for allowed in (0, 1):
        monkeypatch.setattr(module, "run_resumable", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*problem(40), **STORED, store=tmp_path / "s")
        store = Store.existing(tmp_path / "s")
        assert len(audit_stores(store)) == allowed
    monkeypatch.setattr(module, "run_resumable", run)
    assert equal(evaluate(*problem(40), **STORED, store=tmp_path / "s"), whole[0])


def test_whoever_finds_all_shards_done_audits(whole, tmp_path):
    for i in (2, 0, 1):
        found = evaluate(*problem(40), **STORED, store=tmp_path / "s", shard=(i, 3))
        assert bool(found.audits) == found.complete == (i == 1)
        if i != 1:
            assert headline(found.scores[1]).endswith("fast, not audited")
    assert equal(found, whole[0])


def test_a_larger_sample_goes_on_from_the_smaller_one(whole, tmp_path):
    how = {**STORED, "eps": 0.1, "store": tmp_path / "s"}
    small = evaluate(*problem(40), **{**how, "audit": 4})
    large = evaluate(*problem(40), **{**how, "audit": 9})
    assert [small.audits[0.1].drawn, large.audits[0.1].drawn] == [4, 9]
    points = [each.manifest.points for each in audit_stores(Store.existing(tmp_path / "s"))]
    assert sorted(map(len, points)) == [5, 5]  # one was suspicious
    assert not {*points[0]} & {*points[1]}
    assert large.audits == evaluate(*problem(40), **{**how, "audit": 9, "store": tmp_path / "t"}).audits
    for audit in (4, 0):  # what is there counts
        assert evaluate(*problem(40), **{**how, "audit": audit}).audits == large.audits
    next((tmp_path / "s" / "audit").glob("*/attempts/00000-04.parquet")).unlink()
    lost = evaluate(*problem(40), **{**how, "audit": 0})
    assert lost.audits == {}
    assert evaluate(*problem(40), **how).audits == large.audits


def test_a_budget_pays_for_the_audit_too(tmp_path, monkeypatch):
    assert chunks_within(100, 10, 50, lambda chunks: 0) == 9
    assert chunks_within(100, 10, 50, lambda chunks: 21) == 7
    assert chunks_within(100, 10, 50, lambda chunks: 10 * chunks) == 4 + 1 - 1
    assert chunks_within(100, 10, 50, lambda chunks: 1000) == 1
    how = {**STORED, "chunk": 8, "store": tmp_path / "s"}
    found = evaluate(*problem(40), **how, budget=1e-9)
    assert len(found.points) == 8
    assert all(audit.drawn == min(1, audit.others) for audit in found.audits.values())
    assert {score.audit is None for score in found.scores[1:]} == {False}
    more = evaluate(*problem(40), **how, budget=1e9)
    assert more.complete
    assert {audit.drawn for audit in more.audits.values()} == {9}
    # what the audit of the pilot broke is broken
    assert not (more.robust_at[0.1][found.points] & ~found.robust_at[0.1]).any()


# In words, as rows, and beside other figures.

FOUND = Audit(119, 3, 40, 1, 1, {"apgd-ce": 0, "apgd-t": 1, "fab-t": 0, "square": 1})
NONE = Audit(119, 0, 40, 0, 0, {"apgd-ce": 0, "apgd-t": 0, "fab-t": 0, "square": 0})


def score(audit=NONE, correct=119, n=200, eps=8 / 255):
    return Score("fast", n, correct, None, "linf", eps, broke={"clean": 9, "malt": 72, "audit": 0}, audit=audit)


def test_what_is_said():
    high = count_interval(0, 40, 119, 0.975).high
    low, top = (100 * accuracy_interval(left, 200, 0.975)[end] for end, left in ((0, 119 - high), (1, 119)))
    assert headline(score(), 10_000) == (
        f"robust accuracy at linf 8/255: at most 59.5%, audited 59.5% (95%: {low:.1f} to {top:.1f}), "
        "200 of 10,000 points, fast, 40 of 119 survivors audited by AutoAttack standard: 0 broken"
    )
    high = count_interval(0, 40, 119).high
    assert audit_line(score()) == (
        "audit at linf 8/255: AutoAttack standard broke none of 40 points drawn at random of the 119 that fast left: "
        f"of all 119 at most {high} would fall to it, so that {(119 - high) / 2:.1f} to 59.5% of the 200 attacked "
        "withstand both (95%)"
    )
    low, high = (1 + end for end in count_interval(1, 40, 116))
    assert headline(score(FOUND, 117)).startswith("robust accuracy at linf 8/255: at most 58.5%, audited 57.6% (95%: ")
    assert audit_line(score(FOUND, 117)) == (
        "audit at linf 8/255: AutoAttack standard broke 2 (apgd-t 1, square 1) of 43 points (3 suspicious, 40 drawn at "
        f"random) of the 119 that fast left: of all 119 about 4 ({low} to {high}) would fall to it, so that 57.6% "
        f"({(119 - high) / 2:.1f} to {(119 - low) / 2:.1f}) of the 200 attacked withstand both (95%)"
    )
    assert display_name(score()) == "fast linf 8/255"


@pytest.mark.parametrize("audit", [None, NONE, FOUND, Audit(0)])
def test_a_score_comes_back_from_json(audit):
    row = json.loads(json.dumps(score(audit).to_dict(), allow_nan=False))
    assert Score.from_dict(row) == score(audit)
    del row["audit"]  # of a version without audits
    assert Score.from_dict(row) == score(None)


@pytest.mark.parametrize(
    "counts",
    [(5, 6), (5, 2, 4), (5, 2, 1, 3), (5, 2, 1, 1, 2), (5, 2, 1, 1, 0, {"square": 0}), (1, 0, 1, 0, 0, {"a": 2})],
)
def test_counts_that_contradict_each_other(counts):
    with pytest.raises(ValueError, match="the counts of an audit contradict each other"):
        Audit(*counts)


def test_what_another_audit_broke_is_no_estimate_but_a_fact():
    audit = Audit(100, 0, 40, 0, 0, {"apgd-t": 3})
    assert audit.falling == 3
    assert audit.falling_interval == (3, count_interval(0, 40, 100).high)
    assert Audit(100, 0, 40, 0, 0, {"apgd-t": 30}).falling_interval == (30, 30)


def test_an_upper_bound_beside_others():
    standard = Score("autoattack", 200, 130, "standard", "linf", 8 / 255)
    strong = Score("pgd", 200, 60, "strong", "linf", 8 / 255, steps=100)
    clean = Score("clean", 200, 190)
    assert bounds(clean, score())
    assert bounds(score(eps=4 / 255), score())
    assert not bounds(score(), score(eps=4 / 255))
    assert bounds(score(), standard)
    assert not bounds(standard, score())
    assert bounds(strong, score())
    assert not contradictions([clean, score(), standard])  # within chance
    (found,) = contradictions([clean, score(), replace(standard, correct=180)])
    assert "autoattack (standard) linf 8/255 is 30.50 points above fast linf 8/255" in str(found)


# The intervals cover what they are about.


def test_the_audited_interval_covers_the_figure_of_standard():
    """Survivors, some of which standard breaks, are drawn from a large test set, and then audited."""
    random, n, runs = np.random.default_rng(0), 200, 2000
    for withstands, missed in ((0.6, 0.0), (0.6, 0.02), (0.5, 0.15)):
        drawn_left = random.multinomial(n, [withstands, missed, 1 - withstands - missed], size=runs)
        covered = of_points = 0
        for both, only_fast, _ in drawn_left:
            left = int(both + only_fast)
            found = int(random.hypergeometric(only_fast, both, 40))
            audit = Audit(left, 0, 40, 0, found, {"apgd-t": found})
            low, high = audit.population_interval(n)
            covered += low <= withstands <= high
            low, high = audit.accuracy_interval(n)
            of_points += low <= both / n <= high
        assert covered / runs >= 0.95
        assert of_points / runs >= 0.95
