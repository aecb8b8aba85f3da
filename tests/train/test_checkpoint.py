import pickle
import zipfile

import pytest
import torch

from easybn.train.checkpoint import State, load, save


def state(step=3):
    return State(
        step,
        {"w": torch.arange(4.0), "n": torch.tensor(5)},
        {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        tally={"main": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)},
        seconds=1.5,
        asked={"lr": "0.1"},
    )


def test_round_trip(tmp_path):
    save(state(), tmp_path / "a" / "c.pt")
    found = load(tmp_path / "a" / "c.pt")
    assert found.step == 3
    assert found.seconds == 1.5
    assert found.average is None
    assert found.asked == {"lr": "0.1"}
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
    with pytest.raises(ValueError, match=r"is no (whole )?checkpoint"):
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
