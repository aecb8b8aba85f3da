"""Code named by its user: found, imported once, and never in the place of another module."""

import re
import sys
from pathlib import Path

import pytest
from torch import nn

from easybn.models.registry import is_code, user_model
from easybn.user_code import call, code_file, import_code, is_user_code, load_object


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, finders = set(sys.modules), list(sys.meta_path)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.meta_path[:] = finders


@pytest.mark.parametrize("name", ["my.py:Make", "./a b/my.py:make", "/x/my.py:make", "my:make", "my.inner.more:Make"])
def test_names_of_code(name):
    assert is_user_code(name)


@pytest.mark.parametrize(
    "name", ["sample", "my.py", "images/cats", "C:\\images", "a:b:c", "my.py:", ":make", "1:2", ""]
)
def test_names_of_no_code(name):
    assert not is_user_code(name)


def test_a_models_name_is_of_code_unless_it_is_of_a_librarys_model():
    assert is_code("my.py:Net")
    assert is_code("my:net")
    assert not is_code("timm:resnet18")
    assert not is_code("torchvision:resnet18")
    assert not is_code("resnet18")
    assert not is_code(None)


def test_a_file_and_a_module_are_the_same_and_run_once():
    Path("once_here.py").write_text("with open('ran', 'a') as f: f.write('x')\ndef make(): return 1\n")
    by_file, by_module = load_object("once_here.py:make", "--data"), load_object("once_here:make", "--data")
    assert by_file is by_module
    assert load_object("./once_here.py:make", "--data") is by_file
    assert Path("ran").read_text() == "x"
    assert import_code("once_here.py:make", "--data")[0] is sys.modules["once_here"]


def test_a_module_of_a_package_is_found_in_the_working_folder():
    Path("mine_pack").mkdir()
    Path("mine_pack/__init__.py").write_text("")
    Path("mine_pack/part.py").write_text("from .other import width\ndef make(): return width\n")
    Path("mine_pack/other.py").write_text("width = 7\n")
    assert load_object("mine_pack.part:make", "--data")() == 7


def test_a_file_is_looked_for_here_and_then_in_the_folders_given(tmp_path):
    Path("below").mkdir()
    Path("below/there_only.py").write_text("make = dict\n")
    assert code_file("there_only.py:make", "--data", [tmp_path / "below"]) == tmp_path / "below" / "there_only.py"
    assert code_file("there_only:make", "--data") is None
    with pytest.raises(ValueError, match=r"--data there_only.py:make: there is no file there_only.py"):
        code_file("there_only.py:make", "--data")
    assert "there_only" not in sys.modules


def test_what_lies_beside_a_file_is_imported_last_also_when_its_function_is_called():
    Path("below").mkdir()
    Path("below/uses_beside.py").write_text(
        "def make():\n    import beside_it, json\n    return beside_it.width, json\n"
    )
    Path("below/beside_it.py").write_text("width = 3\n")
    Path("below/another_beside.py").write_text("")
    Path("below/colorsys.py").write_text("raise RuntimeError('this is not the standard library')\n")
    width, json = load_object("below/uses_beside.py:make", "--model")()
    assert (width, json) == (3, sys.modules["json"])
    with pytest.raises(ModuleNotFoundError):  # this file lies elsewhere
        import another_beside  # type: ignore[import-not-found]  # noqa: F401
    import colorsys

    assert Path(colorsys.__file__).parent != Path("below").absolute()


def test_an_installed_module_does_not_import_from_the_folder_around_it(tmp_path):
    library = tmp_path / ".venv" / "lib" / "site-packages" / "library_here.py"
    library.parent.mkdir(parents=True)
    library.write_text("try:\n    import optional_here\nexcept ImportError:\n    optional_here = None\n")
    Path("optional_here.py").write_text("raise RuntimeError('imported')\n")
    Path("uses_library.py").write_text(
        f"import importlib.util as u\ns = u.spec_from_file_location('library_here', {str(library)!r})\n"
        "library = u.module_from_spec(s)\ns.loader.exec_module(library)\ndef make(): return library.optional_here\n"
    )
    assert load_object("uses_library.py:make", "--model")() is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mistaken.py:mak", "--recipe mistaken.py:mak: no function 'mak' in mistaken.py; it has make, Thing"),
        ("mistaken:number", "--recipe mistaken:number: no function 'number' in mistaken; it has make, Thing"),
        ("none.py:make", "--recipe none.py:make: there is no file none.py"),
        ("nowhere_at_all:make", "nowhere_at_all cannot be imported: ModuleNotFoundError"),
        ("wrong.py:make", "wrong.py cannot be imported: SyntaxError"),
        ("json.py:make", "'json' cannot be a module's name here"),
        ("a-b.py:make", "'a-b' cannot be a module's name here"),
        ("just a name", "code is named as file.py:Name or module:name"),
    ],
)
def test_mistakes_are_one_line(name, message):
    Path("mistaken.py").write_text("number = 1\ndef make(): pass\nclass Thing: pass\ndef _hidden(): pass\n")
    Path("wrong.py").write_text("def make(:\n")
    for other in ("json.py", "a-b.py"):
        Path(other).write_text("make = dict\n")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_object(name, "--recipe")
    assert "\n" not in str(error.value)


def test_a_file_that_failed_can_be_mended():
    Path("mended.py").write_text("raise RuntimeError('not yet')\n")
    with pytest.raises(ValueError, match=r"mended.py cannot be imported: RuntimeError: not yet"):
        load_object("mended.py:make", "--data")
    Path("mended.py").write_text("def make(): return 'mended'\n")
    assert load_object("mended.py:make", "--data")() == "mended"


def test_what_a_function_raises_names_it():
    def fails(width):
        raise KeyError(width)

    with pytest.raises(ValueError, match=r"--model my.py:fails: fails failed: KeyError: 3"):
        call(fails, "my.py:fails", "--model", width=3)


def test_a_model_is_made_by_a_file_or_refused():
    Path("nets_here.py").write_text(
        "from torch import nn\ndef make(width=2): return nn.Linear(width, 4)\ndef number(): return 1\n"
    )
    assert user_model("nets_here.py:make", {"width": 5}).in_features == 5
    assert isinstance(user_model("nets_here:make"), nn.Linear)
    with pytest.raises(ValueError, match=r"number returned a int, not a torch.nn.Module"):
        user_model("nets_here.py:number")
