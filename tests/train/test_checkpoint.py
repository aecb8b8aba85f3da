import errno
import pickle
import random
import signal
import subprocess
import sys
import zipfile

import pytest
import torch

from easybn.json_files import Damaged
from easybn.train.checkpoint import Checkpoint, forget, load, resume, save


def state(step=3):
    return Checkpoint(
        step,
        {"w": torch.arange(4.0), "n": torch.tensor(5)},
        {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        tally={"main": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)},
        seconds=1.5,
        settings={"lr": "0.1"},
    )


def test_round_trip(tmp_path):
    save(state(), tmp_path / "a" / "c.pt")
    found = load(tmp_path / "a" / "c.pt")
    assert found.step == 3
    assert found.seconds == 1.5
    assert found.average is None
    assert found.settings == {"lr": "0.1"}
    assert torch.equal(found.model["w"], torch.arange(4.0))
    assert found.model["n"].dtype == torch.int64
    assert found.tally["main"].dtype == torch.float64
    assert found.optimizer["param_groups"] == [{"lr": 0.1, "params": [0]}]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["c.pt"]


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", bytes(1000), pickle.dumps({"a": 1})])
def test_a_foreign_file_is_a_clear_error(content, tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.pt is no checkpoint"):
        load(path)


def test_a_damaged_checkpoint_is_a_clear_error(tmp_path):
    path = tmp_path / "c.pt"
    save(state(), path)
    whole = path.read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"c\.pt is (damaged|no checkpoint)"):
            load(path)


@pytest.mark.parametrize(
    "content",
    [{"w": torch.ones(1)}, [1], {"version": 0, "step": 1}, {"version": 1, "step": 1}, {"version": 1, "other": 1}],
)
def test_another_files_content_is_a_clear_error(content, tmp_path):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"is (no|an incomplete) checkpoint"):
        load(tmp_path / "c.pt")


def test_no_file_is_the_usual_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "c.pt")


class Malicious:
    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return (open, (self.touched, "w"))


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    touched = tmp_path / "touched"
    path = tmp_path / "c.pt"
    torch.save({"version": 1, "step": 0, "model": Malicious(str(touched)), "optimizer": {}}, path)
    with zipfile.ZipFile(path) as archive:  # the bait works: plain unpickling would run it
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        pickle.loads(archive.read(name))["model"].close()
    assert touched.exists()
    touched.unlink()
    with pytest.raises(ValueError, match="is no checkpoint"):
        load(path)
    assert not touched.exists()


def test_every_flipped_bit_and_every_cut_is_named(tmp_path):
    path = tmp_path / "c.pt"
    save(state(), path)
    whole = path.read_bytes()
    draw = random.Random(0)
    for place in draw.sample(range(8 * len(whole)), 200):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(Damaged, match=r"c\.pt is (damaged|no checkpoint)"):
            load(path)
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged, match=r"c\.pt is (damaged|no checkpoint)"):
            load(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(Damaged):
        load(path)


def test_a_checkpoint_of_an_earlier_version_is_read_and_its_numbers_are_tested(tmp_path):
    path = tmp_path / "c.pt"
    torch.save({"version": 1, **vars(state())}, path)
    assert load(path).step == 3
    assert torch.load(path, weights_only=True)["step"] == 3
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.arange(4.0).numpy().tobytes()) + 5] ^= 4
    path.write_bytes(whole)
    with pytest.raises(Damaged, match=r"checksum of .* does not match"):
        load(path)


def test_torch_reads_our_checkpoints(tmp_path):
    save(state(), tmp_path / "c.pt")
    assert torch.load(tmp_path / "c.pt", weights_only=True)["step"] == 3


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_one_before_is_kept_and_resumed_from(tmp_path):
    path, older = tmp_path / "c.pt", tmp_path / "c.previous.pt"
    assert resume(path) is None
    save(state(1), path)
    assert not older.exists()
    for step in (2, 3, 4):
        save(state(step), path)
        assert [load(path).step, load(older).step] == [step, step - 1]
        assert resume(path).step == step
    damage(path)
    with pytest.warns(UserWarning, match=r"c\.pt is damaged .*: resuming from c\.previous\.pt, step 3"):
        assert resume(path).step == 3
    assert resume(path).step == 3
    assert (tmp_path / "c.pt.corrupt").exists()
    save(state(5), path)
    assert [load(path).step, load(older).step] == [5, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.previous.pt", "c.pt", "c.pt.corrupt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from easybn.train.checkpoint import Checkpoint, save

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

path = Path(sys.argv[1])
save(Checkpoint(1, {}, {}), path)
Path.replace = kill
save(Checkpoint(2, {}, {}), path)
"""


def test_what_a_kill_left_of_either_is_removed_when_it_is_resumed(tmp_path):
    path = tmp_path / "c.pt"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    left = [part.name.rsplit(".", 2)[0] for part in tmp_path.glob(".*.easybn-part")]
    assert sorted(left) == [".c.previous.pt", ".c.pt"]
    assert resume(path).step == 1
    assert [each.name for each in tmp_path.iterdir()] == ["c.pt"]


def test_a_checkpoint_of_an_earlier_version_names_its_settings_otherwise(tmp_path):
    old = {"version": 1, **vars(state())}
    old["asked"] = old.pop("settings")
    torch.save(old, tmp_path / "c.pt")
    assert load(tmp_path / "c.pt").settings == {"lr": "0.1"}


def test_both_damaged_or_the_newer_deleted(tmp_path):
    path, older = tmp_path / "c.pt", tmp_path / "c.previous.pt"
    save(state(1), path)
    damage(path)
    with pytest.raises(Damaged, match="delete it to start again"):
        resume(path)
    path.unlink()
    save(state(1), path)
    save(state(2), path)
    damage(path)
    damage(older)
    with pytest.raises(Damaged, match=r"so is the one before .*: delete both to start again"):
        resume(path)
    path.unlink()
    assert resume(path) is None, "who deletes it begins anew"
    forget(path)
    assert not older.exists()


def test_where_a_file_has_one_name_only_the_one_before_is_a_copy(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", fail)
    for step in (1, 2):
        save(state(step), tmp_path / "c.pt")
    assert load(tmp_path / "c.previous.pt").step == 1
