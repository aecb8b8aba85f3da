import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from easybn.files import replacing, write_text


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
    write_text(path, "new")
    assert path.read_bytes() == b"new"


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
