import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from easybn.files import Removed, discard, guarding, new_folder, replacing, sweep, write_text


def test_the_whole_content_or_the_old_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old ü")
    assert path.read_bytes() == "old ü".encode()

    def fail(error):
        with replacing(path) as file:
            file.write(b"half")
            raise error

    for error in (ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fail(error)
        assert path.read_bytes() == "old ü".encode()
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    write_text(str(path), "x")
    assert path.read_text() == "x"


def test_a_reader_sees_nothing_before_the_block_ends(tmp_path):
    path = tmp_path / "a"
    with replacing(path) as file:
        file.write(b"1")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"1"


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    code = """
        import os, signal, sys
        from easybn.files import replacing
        with replacing(sys.argv[1]) as file:
            file.write(b"half of the new one")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    write_text(tmp_path / "b", "of another file")
    assert len(list(tmp_path.iterdir())) == 3
    write_text(path, "new")
    assert path.read_bytes() == b"new"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"], "what the kill left is removed"


HOLD = """
    import sys
    from pathlib import Path
    from easybn.files import new_folder, replacing
    with replacing(sys.argv[1]) as file, new_folder(Path(sys.argv[2])) as folder:
        file.write(b"theirs")
        file.flush()
        (folder / "x").write_text("theirs")
        print("held", flush=True)
        sys.stdin.readline()
"""


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    file, folder = tmp_path / "a", tmp_path / "f"
    words = [sys.executable, "-c", textwrap.dedent(HOLD), str(file), str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        write_text(file, "ours")
        sweep(tmp_path, lambda name: True)
        assert len(list(tmp_path.glob(".*.easybn-part"))) == 2
        with new_folder(folder) as part:
            (part / "x").write_text("ours")
        assert (folder / "x").read_text() == "ours"
        other.communicate("\n", timeout=60)
        assert other.returncode == 0
    assert file.read_text() == "theirs"  # they were last
    assert (folder / "x").read_text() == "ours"  # they were not first
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "f"]


def test_nothing_is_removed_that_is_not_exactly_ours(tmp_path):
    digits = "0123456789abcdef" * 2
    files = [
        ".x.part", ".report.html.abc.part", f".report.html.{digits}.part", f".report.html.{digits[1:]}.easybn-part",
        f".report.html.{digits}0.easybn-part", f".report.html.{digits.upper()}.easybn-part", ".report.html.easybn-part",
        f"report.html.{digits}.easybn-part", f".other.html.{digits}.easybn-part", f".report.html.{digits}.easybn-part~",
        f"..report.html.{digits}.easybn-part",
    ]  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    for name in [*files, "elsewhere/mine", ".project.part/src/a.py", ".report.html.part/a"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / f".report.html.{digits[::-1]}.easybn-part").symlink_to(elsewhere)
    (tmp_path / f".report.html.{'ab' * 16}.easybn-part").symlink_to(elsewhere / "mine")
    os.mkfifo(tmp_path / f".report.html.{'cd' * 16}.easybn-part")
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0), follow_symlinks=False)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    write_text(tmp_path / "report.html", "x")
    with new_folder(tmp_path / "run"):
        pass
    assert sorted(str(path) for path in tmp_path.rglob("*") if path.name not in ("report.html", "run")) == before
    ours = tmp_path / f".report.html.{digits}.easybn-part"
    ours.write_text("x")
    write_text(tmp_path / "report.html", "y")
    assert not ours.exists()
    ours.mkdir()
    (ours / "link").symlink_to(elsewhere)
    write_text(tmp_path / "report.html", "y")
    assert not ours.exists()
    assert (elsewhere / "mine").read_text() == "mine"


def test_a_folder_with_anything_else_is_not_discarded(tmp_path):
    folder = tmp_path / "f"
    for name in ("a", "b"):
        write_text(folder / name, "x")
    with pytest.raises(FileExistsError, match="holds files that are not easybn's"):
        discard(folder, {"a", "c"})
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(FileExistsError, match="move it away"):
        discard(tmp_path / "link", {"a", "b"})
    assert sorted(each.name for each in folder.iterdir()) == ["a", "b"]
    discard(folder, {"a", "b"})
    discard(folder, {"a", "b"})
    assert [each.name for each in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "the disk is full: make room and run the same command again"),
        (errno.EDQUOT, "the quota is used up: make room"),
        (errno.EROFS, "the file system is read-only: give a folder that can be written"),
        (errno.EACCES, "give another folder, or change its permissions"),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync", "mkdir"])
def test_what_cannot_be_written_says_where_and_what_to_do(number, told, call, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "new" / "a"
    monkeypatch.setattr(*{"open": (Path, "open"), "fsync": (os, "fsync"), "mkdir": (Path, "mkdir")}[call], fail)
    with pytest.raises(OSError, match=told) as error:
        write_text(path, "x")
    assert error.value.filename == str(path)
    assert error.value.errno == number
    with pytest.raises(OSError, match=told) as error, new_folder(path) as part:
        write_text(part / "x", "x")
    assert error.value.filename == str(path)
    assert not [each for each in tmp_path.rglob("*") if each.name != "new"]


def test_nothing_is_written_into_a_folder_that_is_not_the_same_any_more(tmp_path):
    folder = tmp_path / "run"
    write_text(folder / "lock", "")
    with guarding(folder, folder / "lock"):
        write_text(folder / "a", "1")
        shutil.rmtree(folder)
        with pytest.raises(Removed, match="run was removed, or is another process's now"):
            write_text(folder / "a", "2")
        assert not folder.exists()
        write_text(tmp_path / "other" / "b", "not in it")
        write_text(tmp_path / "run2", "nor there")
        shutil.copytree(tmp_path / "other", folder)
        (folder / "lock").write_text("")
        for write in (lambda: write_text(folder / "a", "2"), lambda: new_folder(folder / "sub").__enter__()):
            with pytest.raises(Removed):
                write()
    write_text(folder / "a", "3")
    with guarding(folder, folder / "lock"):
        file = replacing(folder / "a")
        file.__enter__().write(b"4")  # while it is being written
        shutil.rmtree(folder)
        folder.mkdir()
        with pytest.raises(Removed):
            file.__exit__(None, None, None)
        assert not list(folder.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="needs the permissions of POSIX")
def test_a_folder_that_cannot_be_written():
    with tempfile.TemporaryDirectory() as folder:  # whose parents anybody may enter, unlike those of tmp_path
        Path(folder).chmod(0o555)
        me = os.geteuid()
        if me == 0:  # who may write everywhere
            os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                write_text(Path(folder) / "a", "x")
        finally:
            os.seteuid(me)
            Path(folder).chmod(0o700)
