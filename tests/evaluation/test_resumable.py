"""``evaluate`` on the verdict store: the same verdicts as in memory, however it is cut, stopped and gone on with."""

import errno
import shutil
import signal
from importlib import import_module

import numpy as np
import pytest
import torch

from easybn.evaluation import evaluate
from easybn.evaluation import resumable as stored
from easybn.evaluation.diagnostics import diagnose
from easybn.evaluation.resumable import chunks_within
from easybn.evaluation.store import Store, stage_file
from easybn.files import Removed
from easybn.interrupt import Interrupted
from easybn.json_files import Damaged

from ..small import small_images, small_net
from .store.fake_job import same
from .store.stops import stop_at_save

HOW = {"norm": "linf", "eps": [0.01, 0.03], "attacks": ["apgd-ce", "fab"], "batch_size": 8}


@pytest.fixture(scope="module")
def problem():
    model, x = small_net(), small_images(14)
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 4
    return model, x, y


@pytest.fixture(scope="module")
def in_memory(problem):
    return evaluate(*problem, **HOW, keep_images=True)


def test_one_chunk_is_the_run_in_memory(problem, in_memory, tmp_path, monkeypatch):
    stored = evaluate(*problem, **HOW, keep_images=True, store=tmp_path / "s")
    assert same(stored.record, in_memory.record)
    assert stored.scores == in_memory.scores
    assert torch.equal(stored.clean, in_memory.clean)
    for eps, robust in in_memory.robust_at.items():
        assert torch.equal(stored.robust_at[eps], robust)
        assert torch.equal(stored.images_at[eps], in_memory.images_at[eps])
        assert torch.equal(problem[0](stored.images_at[eps]).argmax(1) == problem[2], robust)
    assert stored.complete
    assert stored.points.tolist() == list(range(14))
    # a second call computes nothing
    monkeypatch.setattr(Store, "write", None)
    again = evaluate(*problem, **HOW, keep_images=True, store=str(tmp_path / "s"))
    assert same(again.record, in_memory.record)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_at_once_and_it_goes_on_to_the_same_bits(problem, in_memory, tmp_path, signum):
    told = []

    def interrupt(done: int, total: int, what: str) -> None:
        if "apgd" in what and 0 < done < total and not told:
            told.append(what)
            signal.raise_signal(signum)

    with pytest.raises(Interrupted, match="what is done so far is saved") as stopped:
        evaluate(*problem, **HOW, store=tmp_path / "s", progress=interrupt)
    assert stopped.value.signum == signum
    assert list((tmp_path / "s" / "partial").iterdir())
    assert same(evaluate(*problem, **HOW, store=tmp_path / "s").record, in_memory.record)


@pytest.mark.parametrize("stop", [3, 150])
def test_stopped_within_a_stage_it_goes_on_to_the_same_bits(problem, in_memory, tmp_path, monkeypatch, stop):
    def evaluation():
        return evaluate(*problem, **HOW, store=tmp_path / "s")

    stop_at_save(monkeypatch, stop, lambda _: True, evaluation)
    assert list((tmp_path / "s" / "partial").iterdir())
    assert same(evaluation().record, in_memory.record)


def test_shards_are_one_run(problem, tmp_path):
    quick = {"eps": 0.3, "steps": 4, "random_start": True, "chunk": 4}
    whole = evaluate(*problem, **quick, store=tmp_path / "whole")
    sizes = []
    for i in (2, 0, 1):
        found = evaluate(*problem, **quick, store=tmp_path / "parts", shard=(i, 3))
        sizes.append(len(found.points))
        assert found.complete == (i == 1)
        assert any("belong to other shards" in note for note in found.notes) != found.complete
    assert sizes == [4, 4 + 6, 14]
    assert same(found.record, whole.record)


def test_a_part_of_the_points_gets_the_numbers_of_the_whole(problem):
    model, x, y = problem
    rows, quick = [11, 3, 7], {"eps": 0.3, "steps": 4, "random_start": True}
    whole, part = evaluate(*problem, **quick), evaluate(model, x[rows], y[rows], **quick, ids=rows)
    assert part.points.tolist() == rows
    there = whole.record.where(np.isin(whole.record.point, rows))
    assert (np.abs(there.margin[np.isfinite(there.margin)]) > 1e-3).all()  # no verdict hangs on the size of the batch
    assert torch.equal(part.robust, whole.robust[rows])
    assert there.margin == pytest.approx(part.record.margin, abs=1e-5, nan_ok=True)
    others = evaluate(model, x[rows], y[rows], **quick, ids=torch.tensor([10**15, -4, 0]))
    assert others.points.tolist() == [10**15, -4, 0]
    assert others.record.margin != pytest.approx(part.record.margin, abs=1e-5, nan_ok=True)


def test_another_evaluation_is_refused_by_name(problem, tmp_path):
    model, x, y = problem
    quick = {"norm": "linf", "eps": 0.01, "attacks": "pgd", "steps": 2, "store": tmp_path / "s"}
    evaluate(model, x, y, **quick)
    for change, told in (
        ({"model": small_net(seed=1)}, "model: "), ({"y": (y + 1) % 4}, "data: "), ({"x": 1 - x}, "data: "),
        ({"seed": 1}, "seed: 0 here, 1 asked"), ({"eps": 0.02}, "eps: "), ({"steps": 3}, "settings.pgd-ce"),
        ({"norm": "l2"}, "norm: 'linf' here"), ({"ids": range(1, 15)}, "points: "),
    ):  # fmt: skip
        other = {"model": model, "x": x, "y": y, **quick, **change}
        with pytest.raises(ValueError, match="another evaluation") as caught:
            evaluate(**other)
        assert told in str(caught.value)


def test_the_same_weights_and_another_function_are_another_model(problem, tmp_path):
    model, x, y = problem
    quick = {"attacks": "clean", "store": tmp_path / "s"}
    evaluate(model, x, y, **quick)
    other = torch.nn.Sequential(*model[:2], torch.nn.Tanh(), *model[3:])
    with pytest.raises(ValueError, match="model: "):
        evaluate(other, x, y, **quick)
    path = next((tmp_path / "s" / "attempts").iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="put aside"):  # a damaged file is done again
        evaluate(model, x, y, **quick)
    assert path.exists()


def test_a_budget_takes_the_pilot_and_what_fits(problem, tmp_path, monkeypatch):
    assert chunks_within(100, pilot=10, most=50) == 1 + 8
    assert chunks_within(100, pilot=200, most=50) == 1
    assert chunks_within(1e9, pilot=10, most=50) == 50
    quick = {"norm": "linf", "eps": 0.01, "attacks": "pgd", "steps": 2, "chunk": 3, "store": tmp_path / "s"}
    found = evaluate(*problem, **quick, budget=1e-9)
    assert len(found.points) == 3
    assert not found.complete
    assert "3 of 14 points, drawn at random by the seed" in found.notes[0]
    assert found.scores[1].n == 3
    assert torch.equal(found.points, found.points.sort().values)  # as they were given
    more = evaluate(*problem, **quick, budget=1e9)
    assert more.complete
    assert set(found.points.tolist()) <= set(more.points.tolist())
    monkeypatch.setattr(Store, "write", None)  # what was paid for counts under a smaller budget too
    assert len(evaluate(*problem, **quick, budget=1e-9).points) == 14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (3, 3), "store": "s"}, "there is no shard 3 of 3: a shard is i of n with i from 0"),
        ({"shard": (0, 3)}, "shard is about a store"),
        ({"budget": 3.0}, "budget is about a store"),
        ({"chunk": 0, "store": "s"}, "chunk must be at least 1"),
        ({"budget": float("nan"), "store": "s"}, "budget must be a positive number"),
        ({"budget": 3.0, "shard": (0, 2), "store": "s"}, "cannot be split into shards"),
        ({"protocol": "robustness", "store": "s"}, "leave store out"),
        ({"ids": [1, 2]}, "ids must be 14 integers, each once"),
        ({"ids": [0] * 14}, "ids must be 14 integers, each once"),
        ({"attacks": "apgd-se", "store": "s"}, r"did you mean apgd-ce\?"),
        ({"eps": 8, "norm": "linf", "store": "s"}, "is it in units of /255"),
    ],
)
def test_one_line_errors(problem, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        evaluate(*problem, **options)
    assert not list(tmp_path.iterdir())


def test_a_model_and_labels_that_make_no_sense(problem, tmp_path):
    model, x, y = problem
    with pytest.raises(ValueError, match=r"labels must be in 0 \.\. 3"):
        evaluate(model, x, y + 1, store=tmp_path / "s")
    broken = small_net()
    broken[4].weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits are NaN or infinite for 14 of 14"):
        evaluate(broken, x, y, store=tmp_path / "s")
    with pytest.raises(ValueError, match="float32 images"):
        evaluate(small_net().double(), x.double(), y, store=tmp_path / "t", keep_images=True)


def test_a_full_disk_loses_nothing(problem, tmp_path, monkeypatch):
    quick = {"norm": "linf", "eps": 0.01, "attacks": "pgd", "steps": 2, "chunk": 5, "store": tmp_path / "s"}
    written, replacing = [], stage_file.replacing  # type: ignore[attr-defined]

    def full(path):
        written.append(path)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return replacing(path)

    monkeypatch.setattr(stage_file, "replacing", full)
    with pytest.raises(OSError, match="make room and run the same command again"):
        evaluate(*problem, **quick)
    monkeypatch.undo()
    assert len(list((tmp_path / "s" / "attempts").iterdir())) == 4
    quick["store"] = tmp_path / "s"
    whole = evaluate(*problem, **(quick | {"store": tmp_path / "t"}))
    assert same(evaluate(*problem, **quick).record, whole.record)


def test_a_store_that_is_gone_is_not_said_to_belong_to_other_shards(problem, tmp_path):
    quick = {"norm": "linf", "eps": 0.01, "attacks": "pgd", "steps": 2, "chunk": 5, "store": tmp_path / "s"}

    def told(done, total, what):
        if done == total:
            shutil.rmtree(tmp_path / "s", ignore_errors=True)

    with pytest.raises(Removed, match="s was removed"):
        evaluate(*problem, **quick, progress=told)
    assert not (tmp_path / "s").exists()


def test_chunks_that_are_lost_at_the_end_are_an_error(problem, tmp_path, monkeypatch):
    quick = {"norm": "linf", "eps": 0.01, "attacks": "pgd", "steps": 2, "chunk": 5, "store": tmp_path / "s"}
    done = stored.work  # type: ignore[attr-defined]

    def losing(store, *args, **options):
        found = done(store, *args, **options)
        store.file(1, 1).path().unlink()
        return found

    monkeypatch.setattr(stored, "work", losing)
    with pytest.raises(Damaged, match="1 chunks that were done, such as 1, were removed or damaged meanwhile"):
        evaluate(*problem, **quick)


def test_the_diagnosis_is_kept_with_the_verdicts(problem, tmp_path, monkeypatch):
    how = {"norm": "linf", "eps": 0.02, "attacks": "pgd", "steps": 2, "chunk": 4, "store": tmp_path / "s"}
    kept = tmp_path / "s" / "findings.json"
    assert not evaluate(*problem, **how, shard=(0, 2)).findings  # the other half is not done
    assert not kept.exists()
    first = evaluate(*problem, **how)
    assert first.findings
    assert len(first.notes) - len(first.remarks) == sum(each.severity == "warning" for each in first.findings)
    module, made = import_module("easybn.evaluation.evaluate"), []
    monkeypatch.setattr(module, "diagnose", lambda *args, **named: made.append(1) or diagnose(*args, **named))
    again = evaluate(*problem, **how)
    assert (again.findings, again.notes) == (first.findings, first.notes)
    assert made == []
    kept.write_text(kept.read_text().replace("randomised", "randomized"))  # its checksum is another one now
    assert evaluate(*problem, **how).findings == first.findings
    assert made == [1]
    assert "randomised" in kept.read_text()


def test_a_budget_is_diagnosed_on_the_points_that_it_reached(problem, tmp_path):
    model, x, y = problem
    found = evaluate(
        model, x, (y + 1) % 4, norm="linf", eps=0.02, attacks="pgd", steps=1, chunk=4, budget=1e-6, store=tmp_path / "s"
    )
    assert len(found.clean) == 4
    points = next(finding for finding in found.findings if finding.name == "points")
    assert "of 4 points" in points.how_much
