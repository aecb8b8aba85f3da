"""The folder of an evaluation: whose it is, damaged files, a full disk, states to go on from."""

import errno
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, suppress

import numpy as np
import pytest
import torch

from easybn.evaluation.record import CLEAN, Record
from easybn.evaluation.store import Damaged, Store, work
from easybn.evaluation.store.stage_file import from_parquet, to_parquet
from easybn.evaluation.store.worker import chunk_lock
from easybn.files import Removed

from .fake_job import ITERATIONS, POINTS, Fake, killed, manifest, same


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Nobody pulls the plug here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Record:
    store = Store.open(tmp_path_factory.mktemp("undisturbed") / "store", manifest())
    assert work(store, Fake())
    return store.record


def test_every_stage_is_there_and_comes_back(undisturbed, tmp_path):
    store = Store.open(tmp_path, manifest())
    told = []
    assert work(store, Fake(), progress=lambda *what: told.append(what))
    assert same(store.record, undisturbed)
    assert [done for done, _, _ in told[:7]] == list(range(1, 8))
    assert told[-1][0] == told[-1][1] == store.manifest.chunks * len(store.manifest.stages)
    assert not list(tmp_path.glob("partial/*"))
    for file, record, images in store.read():
        found = np.unique(record.point[np.isfinite(record.distance)])
        assert sorted(images[0]) == ([] if file.stage == 0 else sorted(found))
    verdicts = store.verdicts()
    assert verdicts.points.tolist() == list(POINTS)
    assert verdicts.robust(0.25).sum() >= verdicts.robust(1.0).sum() > 0

    def never(task):
        raise AssertionError("nothing was left to do")

    assert work(Store.existing(tmp_path), never)


def test_without_sharing_every_radius_is_attacked_anew(tmp_path):
    store = Store.open(tmp_path, manifest(share=False, keep_images=False))
    assert work(store, Fake())
    record, verdicts = store.record, store.verdicts()
    for eps in (0.25, 1.0):
        attacked = record.point[(record.attack == "apgd-ce") & (record.eps == eps)]
        served = record.point[(record.attack == "fab-t") & (record.eps < eps) & (record.distance <= eps)]
        expected = set(POINTS) - set(verdicts.points[~verdicts.clean]) - set(served)
        assert set(attacked) == expected
    assert not (tmp_path / "images").exists()


def test_other_readers_understand_the_files(undisturbed, tmp_path):
    import pyarrow.parquet as pq

    store = Store.open(tmp_path, manifest())
    work(store, Fake())
    table = pq.read_table(tmp_path / "attempts")
    assert table.num_rows == len(undisturbed)
    expected = {
        "point": "int64", "eps": "double", "attack": "string", "target": "int16", "restart": "int16", "fell": "bool",
        "finished": "bool", "iteration": "int32", "distance": "double", "margin": "double", "forwards": "int32",
        "backwards": "int32",
    }  # fmt: skip
    assert expected.items() <= {field.name: str(field.type) for field in table.schema}.items()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": "n"}, "model: 'm' here, 'n' asked"),
        ({"data": "e"}, "data: 'd' here, 'e' asked"),
        ({"norm": "linf"}, "norm: 'l2' here, 'linf' asked"),
        ({"eps": (0.25,)}, r"eps: \(0.25, 1.0\) here, \(0.25,\) asked"),
        ({"attacks": ("square",)}, "attacks: "),
        ({"seed": 1}, "seed: 0 here, 1 asked"),
        ({"points": POINTS[1:]}, r"points: 25 \(100 .. 4, digest \w+\) here, 24 \(96 .. 4"),
        ({"share": False}, "share: True here, False asked"),
        ({"settings": {"queries": 5}}, "settings.queries: None here, 5 asked"),
    ],
)
def test_another_job_is_refused_by_name(changes, line, tmp_path):
    Store.open(tmp_path, manifest())
    with pytest.raises(ValueError, match="use another folder") as error:
        Store.open(tmp_path, manifest(**changes))
    assert len(str(error.value).splitlines()) == 2
    assert re.search(line, str(error.value))
    Store.open(tmp_path, manifest(settings={}))


def test_the_same_job_in_other_words_is_the_same(tmp_path):
    words = {"eps": [np.float64(0.25), 1], "points": np.array(POINTS), "attacks": ["apgd-ce", "fab-t", "square"]}
    Store.open(tmp_path / "a", manifest(settings={"at": (1, 2)}))
    Store.open(tmp_path / "a", manifest(settings={"at": [1, 2]}, **words))


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "a").write_text("x")
    for folder in (tmp_path, tmp_path / "a"):
        with pytest.raises(ValueError, match="use another folder"):
            Store.open(folder, manifest())
    (tmp_path / "manifest.json").write_text('{"schema": 1}')
    with pytest.raises(ValueError, match="damaged or of another version"):
        Store.open(tmp_path, manifest())
    with pytest.raises(FileNotFoundError):
        Store.existing(tmp_path / "none")


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "l1"}, {"eps": (0.5, 0.25)}, {"eps": (0.0,)}, {"attacks": ("clean",)}, {"attacks": ("a", "a")},
        {"points": ()}, {"points": (1, 1)}, {"chunk": 0}, {"batch_size": 0},
    ],
)  # fmt: skip
def test_a_job_that_makes_no_sense(changes):
    with pytest.raises(ValueError, match=r"must|unknown norm|there, and differ"):
        manifest(**changes)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    for i in range(4, len(data), 50):  # not all bytes of a Parquet file carry something
        data[i] ^= 16
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def of_another_stage(path):
    path.write_bytes(path.with_name("00000-01.parquet").read_bytes())


ATTEMPTS = ("attempts/00002-04.parquet", "attempts/00003-04.parquet")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in (*ATTEMPTS, "images/00002-04.safetensors") for damage in (cut, flip, empty)),
        (ATTEMPTS[0], of_another_stage),
    ],
)
def test_what_is_damaged_is_put_aside_and_computed_again(name, damage, undisturbed, tmp_path):
    lines, log = [], tmp_path / "log"
    store = Store.open(tmp_path / "store", manifest(), lines.append)
    work(store, Fake())
    damage(store.folder / name)
    assert store.verdicts().points.size < len(POINTS)
    assert lines == []
    assert len(store.record) < len(undisturbed)
    assert len(lines) == 1
    assert "left out" in lines.pop()
    assert work(store, Fake(log))
    assert len(log.read_text().splitlines()) == 1, "one stage, and no other"
    assert len(lines) == 1
    assert "put aside" in lines[0]
    stem = name.partition("/")[2].partition(".")[0]
    assert (store.folder / f"attempts/{stem}.parquet.corrupt").exists()
    assert same(store.record, undisturbed)
    damage(store.folder / name)
    with pytest.warns(UserWarning, match="put aside"):
        work(Store.existing(store.folder), Fake())


def test_a_stage_that_does_not_follow_from_those_before_is_computed_again(undisturbed, tmp_path):
    """As when a stage was computed again where kernels round differently."""
    lines: list[str] = []
    store = Store.open(tmp_path, manifest(), lines.append)
    work(store, Fake())
    points = store.manifest.points_of(1)
    stale = sum(file.chunk == 1 and len(record) > 0 for file, record, _ in store.read()) - 1
    store.file(1, 0).save(Record.of(CLEAN, points, success=True, distance=0), store.file(1, 0).load()[1])
    work(store, Fake())
    assert len(lines) == stale > 2
    assert all("does not follow" in line for line in lines)
    assert not store.verdicts().clean[6:12].any()


def test_no_flipped_bit_goes_unseen():
    record = Record.of(CLEAN, np.arange(5), success=[1, 0, 0, 1, 0], distance=[0, np.inf, np.inf, 0, np.inf])
    data = to_parquet(record, {"job": "x"})
    assert same(from_parquet(data)[0], record)
    assert same(from_parquet(to_parquet(record.where(record.success & ~record.success), {}))[0], Record.joined([]))
    for i in range(0, len(data), 17):
        flipped = bytearray(data)
        flipped[i] ^= 1 << (i % 8)
        with suppress(Damaged):
            assert same(from_parquet(bytes(flipped))[0], record)


def test_a_full_disk_is_one_clear_error_and_goes_on_later(tmp_path, monkeypatch):
    """At every single write, from the manifest to the last stage."""
    small, failures, room = manifest(points=POINTS[:8], chunk=5), 0, 0
    work(Store.open(tmp_path / "undisturbed", small), Fake())

    def full(handle):
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        while True:
            room = 1 + failures % 5
            try:
                work(Store.open(tmp_path / "store", small), Fake(), save_seconds=0)
                break
            except OSError as error:
                problem = error
            assert problem.errno == errno.ENOSPC
            assert "make room and run the same command again" in str(problem)
            failures += 1
            assert not list(tmp_path.rglob("*-part"))
    assert failures > 30
    assert same(Store.existing(tmp_path / "store").record, Store.existing(tmp_path / "undisturbed").record)


def test_a_lock_that_cannot_be_made_is_one_clear_error(tmp_path):
    store = Store.open(tmp_path, manifest())
    (tmp_path / "locks").write_text("")
    with pytest.raises(OSError, match="there is a file in the place of a folder"):
        work(store, Fake())
    (tmp_path / "locks").unlink()
    assert work(store, Fake())


def test_an_interrupt_gives_the_chunk_back(undisturbed, tmp_path):
    store, fake = Store.open(tmp_path, manifest()), Fake()

    def interrupted(task):
        with chunk_lock(store, task.chunk) as free:
            assert not free
        if (task.chunk, task.number) == (3, 2):
            raise KeyboardInterrupt
        return fake(task)

    with pytest.raises(KeyboardInterrupt):
        work(store, interrupted)
    with chunk_lock(store, 3) as free:
        assert free
    verdicts = store.verdicts()
    assert verdicts.points.tolist() == list(POINTS[:18]), "only points of whole chunks have a verdict"
    assert len(store.record) < len(undisturbed)
    assert work(store, fake)
    assert same(store.record, undisturbed)


def test_waiting_says_for_what(undisturbed, tmp_path):
    store, told = Store.open(tmp_path, manifest()), []
    with ExitStack() as other:
        other.enter_context(chunk_lock(store, 1))

        def tell(done, total, what):
            told.append((done, total, what))
            if what.startswith("waiting"):
                other.close()

        assert work(store, Fake(), progress=tell, poll=0.0)
    stages = len(store.manifest.stages)
    total = stages * store.manifest.chunks
    waiting = [what for what in told if what[2].startswith("waiting")]
    assert waiting == [(total - stages, total, "waiting for another process (chunk 2)")]
    assert same(store.record, undisturbed)


def test_a_deadline_ends_the_work_and_loses_nothing(undisturbed, tmp_path):
    store, turns, log = Store.open(tmp_path / "store", manifest()), 1, tmp_path / "log"
    while not work(store, Fake(log), deadline=0.0 if turns == 1 else None):
        assert turns == 1
        assert not log.exists(), "it had passed from the start"
        turns += 1
    assert same(store.record, undisturbed)


def test_a_deadline_within_a_stage(undisturbed, tmp_path, monkeypatch):
    store, log, sessions, clock = Store.open(tmp_path / "store", manifest()), tmp_path / "log", 1, itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    states = 0
    while not work(store, Fake(log), deadline=next(clock) + 60.0, save_seconds=1e9):
        sessions += 1
        states += len(list(store.folder.glob("partial/*")))
    assert sessions > 3
    assert states
    assert same(store.record, undisturbed)
    begun = [line.split()[:2] for line in log.read_text().splitlines()]
    assert len(begun) == len({*map(tuple, begun)}), "what was begun was gone on with"


@pytest.mark.parametrize("damage", [None, cut, flip, empty])
def test_a_state_is_gone_on_from_if_it_is_whole(damage, undisturbed, tmp_path):
    lines, begun = [], []
    store = Store.open(tmp_path, manifest(), lines.append)

    with pytest.raises(ZeroDivisionError):
        work(store, killed, save_seconds=0)
    (path,) = tmp_path.glob("partial/*")
    assert path.name == "00001-04.state"
    if damage is not None:
        damage(path)

    def resumed(task):
        before = task.resume()
        begun.append(before["i"] if before else 0)
        return Fake()(task)

    assert work(store, resumed)
    assert begun[0] == (0 if damage else 3)
    assert not any(begun[1:])
    assert bool(lines) == (damage is not None)
    assert same(store.record, undisturbed)


def test_a_state_of_other_points_or_another_job_is_not_taken(tmp_path):
    file = Store.open(tmp_path / "a", manifest()).file(0, 1)
    state = {"x": torch.arange(3), "y": [1, {"z": None}]}
    file.save_state(state, np.arange(3))
    again = file.load_state(np.arange(3))
    assert torch.equal(again.pop("x"), state.pop("x"))
    assert again == state
    with pytest.raises(Damaged, match="of another job"):
        file.load_state(np.arange(4))
    other = Store.open(tmp_path / "b", manifest(seed=1)).file(0, 1)
    other.save_state(state, np.arange(3))
    other.path("partial").replace(file.path("partial"))
    with pytest.raises(Damaged, match="of another job"):
        file.load_state(np.arange(3))
    file.save_state({"x": ITERATIONS, "y": print}, np.arange(3))
    with pytest.raises(Damaged, match="plain values"):
        file.load_state(np.arange(3))


def test_pyarrow_is_not_loaded_before_it_is_needed():
    code = "import sys, easybn.evaluation, easybn.evaluation.store; assert 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_manifest_is_readable(tmp_path):
    Store.open(tmp_path, manifest())
    assert json.loads((tmp_path / "manifest.json").read_text())["attacks"] == ["apgd-ce", "fab-t", "square"]


@pytest.mark.parametrize("again", [False, True])
def test_a_store_that_was_removed_meanwhile_is_not_written_to(again, tmp_path):
    folder = tmp_path / "store"
    store, fake = Store.open(folder, manifest()), Fake()

    def removing(task):
        if (task.chunk, task.number) == (1, 2):
            shutil.rmtree(folder)
            if again:
                Store.open(tmp_path / "other", manifest(seed=1)).folder.rename(folder)
        return fake(task)

    with pytest.raises(Removed, match="store was removed"):
        work(store, removing)
    if again:
        assert Store.existing(folder).manifest.seed == 1
        assert [each.name for each in folder.iterdir()] == ["manifest.json"]
    else:
        assert not folder.exists()
    assert work(Store.open(folder, manifest(seed=int(again))), fake)


def test_what_killed_processes_left_half_written_is_removed_at_the_next_start(tmp_path):
    store = Store.open(tmp_path, manifest())
    work(store, Fake(), most=1)
    digits = "0123456789abcdef" * 2
    names = ["attempts/.00000-01.parquet", "images/.00003-00.safetensors", "partial/.00001-02.state", ".budget.json",
             ".audit.json"]  # fmt: skip
    mine = ["attempts/.mine.parquet", "images/.00000-01.parquet", ".notes.txt"]
    for name in [*names, *mine]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.{digits}.easybn-part").write_text("x")
    work(store, Fake(), most=1)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.easybn-part")) == sorted(
        f"{name}.{digits}.easybn-part" for name in mine
    )


def test_a_store_of_an_earlier_version_is_read(tmp_path):
    """Without a checksum in the manifest, and in the Parquet files one of the record alone."""
    import pyarrow.parquet as pq

    store = Store.open(tmp_path, manifest(keep_images=False))
    work(store, Fake())
    before = store.record
    content = json.loads((tmp_path / "manifest.json").read_text())
    del content["checksum"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    for path in tmp_path.glob("attempts/*.parquet"):
        table = pq.read_table(path)
        header = json.loads(table.schema.metadata[b"easybn"])
        old = {"name": header["name"], "checksum": header["record"], "seconds": 2.0}
        pq.write_table(table.replace_schema_metadata({b"easybn": json.dumps(old).encode()}), path)
    store = Store.existing(tmp_path)
    assert same(store.record, before)
    assert store.seconds == 2.0 * store.manifest.chunks * len(store.manifest.stages)
    assert work(store, Fake())
