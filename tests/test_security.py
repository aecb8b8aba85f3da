"""What SECURITY.md says is never unpickled: no call in the source that would do it, but for those that it lists."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from yaml.constructor import SafeConstructor  # type: ignore[import-untyped]

from easybn.cli import user_code

ROOT = Path(__file__).parent.parent / "src" / "easybn"
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
ALLOWED = {("study/run_study.py", "pickle.loads(_read(int.from_bytes(_read(8), 'little')))"),
           ("study/run_study.py", "pickle.loads(message['planned'])")}  # fmt: skip
"""What a call of ours has made, read from the pipe of the process that made it."""


@cache
def nodes() -> list[tuple[str, ast.AST]]:
    """(file, node) of every node of the source."""
    files = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.rglob("*.py"))}
    return [(file, node) for file, text in files.items() for node in ast.walk(ast.parse(text))]


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """(file, call) of each call of a function or method ``name``."""
    for file, node in nodes():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
            yield file, node


def module(call: ast.Call) -> str:
    """``torch`` of ``torch.load(...)``; empty for anything longer."""
    value = call.func.value if isinstance(call.func, ast.Attribute) else None
    return value.id if isinstance(value, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(each.value) for each in call.keywords if each.arg == name), None)


def test_torch_and_numpy_load_without_unpickling():
    loads = [(file, call) for file, call in calls("load") if module(call) in ("torch", "np", "numpy")]
    assert len(loads) >= 8
    for file, call in loads:
        name, value = ("weights_only", True) if module(call) == "torch" else ("allow_pickle", False)
        assert keyword(call, name) is value, f"{file}: {ast.unparse(call)}"


def test_no_other_unpickler_is_called():
    found = {(file, ast.unparse(call)) for name in ("load", "loads", "Unpickler") for file, call in calls(name)
             if module(call) in UNPICKLERS}  # fmt: skip
    assert found == ALLOWED
    for file, node in nodes():
        if isinstance(node, ast.ImportFrom) and node.module in UNPICKLERS:  # they would escape the look above
            assert {each.name for each in node.names} <= {"UnpicklingError"}, file


def test_yaml_is_read_by_the_loader_of_plain_values():
    found = [(file, call) for name in ("load", "load_all", "full_load", "unsafe_load") for file, call in calls(name)
             if module(call) == "yaml"]  # fmt: skip
    assert [(file, ast.unparse(call)) for file, call in found] == [
        ("cli/user_code.py", "yaml.load(text, Loader=_Loader)")
    ]
    assert issubclass(user_code._Loader, SafeConstructor)


def test_networks_of_other_packages_are_made_without_unpickling():
    """timm, torchvision and RobustBench may load files of their own: under ``tensors_only`` each."""
    guarded = []
    for _, node in nodes():
        if isinstance(node, ast.With) and any("tensors_only()" in ast.unparse(item) for item in node.items):
            guarded += [each.func.attr for each in ast.walk(node)
                        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)]  # fmt: skip
    for library, name in (("timm", "create_model"), ("library", "get_model"), ("zoo", "load_model")):
        assert len([call for _, call in calls(name) if module(call) == library]) == guarded.count(name) > 0, name
