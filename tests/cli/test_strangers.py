"""Files and folders from somebody else: none runs code, none reaches the terminal, none fills the memory."""

import ast
import io
import json
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.table import Table
from rich.text import Text

import easybn as package
from easybn.cli.user_code import parse_yaml
from easybn.data.pictures import decode_picture
from easybn.data.split import DataError
from easybn.escapes import escaped, say
from easybn.evaluation.store import Store
from easybn.models import build, load
from easybn.models.registry import check_stored_options, user_model
from easybn.models.weights import save
from easybn.terminal import Terminal

from ..evaluation.store.fake_job import manifest
from .conftest import ENVIRONMENT

MARK = "ran"  # a file that code leaves where it runs
EVIL = f"""
open({MARK!r}, "w").close()
from dataclasses import dataclass
from easybn.recipes import Context, Recipe, Term

@dataclass(frozen=True)
class Mine(Recipe):
    branches = ("main",)

    def __call__(self, model, x, y, ctx=Context()):
        yield Term.cross_entropy("main", model(x), y, 1.0)

def make(**options):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""
SMALL = ("--epochs", "1", "--train_images", "64", "--batch_size", "32", "--validation", "0")


def stored(folder: str, **fields: object) -> Path:
    """A folder of results that a downloaded archive may hold."""
    about = {"model": None, "weights": None, "data": "sample", "data_folder": None, "model_options": {}}
    path = Path(folder, "evaluation.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "mean": None, "std": None, **fields}))
    return path.parent


@pytest.fixture
def evil(monkeypatch):
    Path("evil_module.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(Path.cwd()))  # as if it were installed
    return "evil_module"


COMMAND = {"command": f"touch {MARK}"}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("os:system", COMMAND),
        ("posix:system", COMMAND),
        ("subprocess:getoutput", {"cmd": f"touch {MARK}"}),
        ("evil_module:make", {}),
        ("./evil_module.py:make", {}),
        ("evil_module.py:Mine", {}),
        ("timm:resnet10t", {"checkpoint_path": "evil.pth"}),
        ("timm:resnet10t", {"pretrained": True, "pretrained_cfg": {"file": "evil.pth"}}),
        ("timm:resnet10t", {"act_layer": "evil_module.make"}),
        ("torchvision:resnet18", {"norm_layer": {"class_path": "evil_module.Mine"}}),
    ],
)
@pytest.mark.parametrize("words", ["evaluate .", "evaluate f --attacks pgd-ce", "hidden f", "verify f/verdicts/x"])
def test_what_a_folder_stores_is_repeated_before_it_runs(model, options, words, evil, easybn):
    folder = stored("f", model=model, model_options=options)
    if words.startswith("verify"):
        Store.open(folder / "verdicts" / "x", manifest())
    found = easybn(*words.split())
    assert found.status == 2, found.out
    assert f"repeat it: --model {model}" in found.err
    assert not Path(MARK).exists()
    other = easybn(*words.split(), "--model", "evil_module:other")
    assert (other.status, "is of another model" in other.err) == (2, True), other.err
    assert not Path(MARK).exists()


def test_repeated_it_runs(evil, easybn):
    stored("f", model="evil_module:make", model_options={"width": 3})
    words = ("evaluate", "f", "--attacks", "clean", "--points", "5", "--model", "evil_module:make")
    assert easybn(*words).status == 2  # the options are not the stored ones
    assert not Path(MARK).exists()
    found = easybn(*words, "--model_options", '{"width": 3}')
    assert found.status == 0, found.err
    assert Path(MARK).exists()


@pytest.mark.parametrize(
    "text",
    [
        "recipe: evil_module.Mine",
        "recipe: {class_path: evil_module.Mine}",
        'recipe: {"class_path": &a "evil_module.Mine"}',
        'recipe: "\\x65vil_module.Mine"',
        'recipe: \'{"class_path": "evil_module.Mine"}\'',
        "recipe.class_path: evil_module.Mine",
        "schedule: evil_module.Mine",
        "recipe: EBN\nrecipe.attack: {class_path: evil_module.Mine}",
        "recipe: {class_path: EBN, init_args: {attack: {class_path: PGD, init_args: {ball: evil_module.Mine}}}}",
        "model_options: {a: {class_path: evil_module.Mine}}",
        'model_options: {a: "{class_path: evil_module.Mine}"}',
        'model_options: {a: "{\\"cl\\\\u0061ss_path\\": \\"evil_module.Mine\\"}"}',
        "norms: [{class_path: evil_module.Mine}]",
        "config: other.yaml",
        "recipe: !!python/name:evil_module.Mine",
        "recipe: !!python/object/apply:os.system [touch ran]",
    ],
)
def test_yaml_imports_no_module(text, evil, easybn):
    Path("c.yaml").write_text(text + "\n")
    Path("other.yaml").write_text("recipe: evil_module.Mine\n")
    entry = text.replace("\n", ", ").replace("recipe: EBN, ", "")
    Path("s.yaml").write_text(f"runs:\n  - {{{entry}}}\n")
    for words in (("train", "--config", "c.yaml", *SMALL), ("study", "s.yaml", "--dry_run")):
        found = easybn(*words)
        assert found.status == 2, (words, found.out)
        assert "Traceback" not in found.err
    assert not Path(MARK).exists()
    assert "evil_module" not in sys.modules


FILES = [
    "recipe: ./evil_file.py:Mine",
    "recipe: {class_path: ./evil_file.py:Mine}",
    "{recipe : {class_path: './evil_file.py:Mine'}}",
]


@pytest.mark.parametrize("text", FILES)
def test_a_recipe_that_yaml_names_is_said_before_it_runs_and_runs_for_training_alone(text, easybn):
    Path("evil_file.py").write_text(EVIL)
    Path("c.yaml").write_text(text + "\n")
    Path("s.yaml").write_text(
        "runs:\n  - {config: c.yaml, epochs: 1, recipe.factor: 3}\n  - {recipe: ./evil_file.py:Mine}\n"
    )
    for words in (("--print_config",), ("--help",), ("--print_config=skip_default",)):
        easybn("train", "--config", "c.yaml", *words)
    shown = easybn("study", "s.yaml", "--dry_run")
    assert (shown.status, "./evil_file.py:Mine" in shown.out, "c-epochs-1" in shown.out) == (0, True, True), shown.err
    assert not Path(MARK).exists()
    found = easybn("train", "--config", "c.yaml", *SMALL, "--out", "r")
    assert found.status == 0, found.err
    assert Path(MARK).exists()
    told = found.err.splitlines()[0]
    assert told == f"easybn: c.yaml names code, which runs now: {Path('evil_file.py').resolve()}, class Mine"
    Path(MARK).unlink()
    del sys.modules["evil_file"]
    # a run that was trained with it is evaluated, and shown, without
    assert easybn("evaluate", "r", "--attacks", "clean", "--points", "5").status == 0
    assert easybn("table", "r").status == 0
    assert "evil_file" not in sys.modules
    again = easybn("census", "r")
    assert "names a class of yours (evil_file.Mine)" in again.err
    assert not Path(MARK).exists()


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"class": "evil_module.Mine"}},
        {"recipe": {"class": "EBN", "attack": {"class": "evil_module.Mine"}}},
        {"recipe": "evil_module.Mine"},
        {"model_options": {"a": {"class_path": "evil_module.Mine"}}},
        {"model_options": {"a": "{class_path: evil_module.Mine}"}},
        {"config": "other.yaml", "recipe": {"class": "Vanilla"}, "data": "nowhere"},
        {"training": {"schedule": {"class": "evil_module.Mine"}}},
    ],
)
def test_a_config_of_a_run_names_no_code(change, evil, easybn):
    Path("other.yaml").write_text("recipe: evil_module.Mine\n")
    Path("r").mkdir()
    Path("r/config.json").write_text(json.dumps({"experiment": {"training": {"class": "Training"}, **change}}))
    found = easybn("census", "r", "--out", "o")
    assert found.status == 2, found.out
    assert not Path(MARK).exists()


class Evil:
    """A pickle of it makes the file that says that it ran."""

    def __reduce__(self):
        return (open, (MARK, "w"))


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_path": "evil.pth"},
        {"pretrained": True, "pretrained_cfg": {"file": "evil.pth"}},
        {"pretrained_cfg_overlay": {"file": "evil.pth"}},
        {"cache_dir": "."},
        {"features_only": True},
        {"norm_layer": "evil_module.Mine"},
        {"drop_rate": {"class_path": "evil_module.Mine"}},
    ],
)
def test_a_header_sets_no_option_that_loads(options, evil):
    Path("evil.pth").write_bytes(pickle.dumps(Evil()))
    model = build("timm:resnet10t", 10, 3)
    save(model, "m.safetensors", {"name": "timm:resnet10t", "num_classes": 10, "in_channels": 3, **options})
    with pytest.raises(ValueError, match="is not taken from a file"):
        load("m.safetensors")
    assert not Path(MARK).exists()


@pytest.mark.parametrize(
    "name",
    ["timm:hf-hub:a/b", "timm:local-dir:.", "timm:resnet18.hf-hub:a/b", "timm:../x",
     "torchvision:fasterrcnn_resnet50_fpn", "torchvision:resnet18/../x", "evil_module:make", "os:system", 3, None, []],
)  # fmt: skip
def test_a_header_names_a_network_of_the_lists(name, evil):
    save(build("resnet_tiny", 10, 1), "m.safetensors", {"name": name})
    with pytest.raises(ValueError, match=r"m\.safetensors|has no model|unknown model"):
        load("m.safetensors")
    assert not Path(MARK).exists()


@pytest.mark.parametrize(
    "change", [{"num_classes": 10**8}, {"in_channels": 10**9}, {"num_classes": True}, {"mean": "x"}]
)
def test_a_header_does_not_fill_the_memory(change):
    save(build("resnet_tiny", 10, 1), "m.safetensors", {"name": "resnet_tiny", "num_classes": 10, **change})
    with pytest.raises(ValueError, match=r"m\.safetensors"):
        load("m.safetensors")


def test_options_that_shape_a_network_are_taken_from_files():
    options = {"drop_path_rate": 0.1, "img_size": [32, 32], "global_pool": "avg", "depths": (1, 2), "qkv_bias": True}
    check_stored_options(options, "m.safetensors")
    about = {"name": "timm:resnet10t", "num_classes": 3, "in_channels": 1, "drop_rate": 0.5}
    save(build(**about), "m.safetensors", {**about, "pretrained": True})
    assert load("m.safetensors").network.drop_rate == 0.5


@pytest.mark.parametrize("name", ["checkpoint.pt", "weights.pth"])
def test_a_pickle_is_not_run(name, easybn):
    data = pickle.dumps(Evil())
    Path(name).write_bytes(data)
    torch.save({"a": Evil()}, "zip.pt")
    for file in (name, "zip.pt"):
        found = easybn("evaluate", "--model", "timm:resnet10t", "--weights", file, "--data", "sample")
        assert found.status == 2
    Path("c.yaml").write_text(f"model: timm:resnet10t\nmodel_options: {{checkpoint_path: {name}}}\n")
    found = easybn("train", "--config", "c.yaml", *SMALL)
    assert (found.status, f"checkpoint_path {name}" in found.err) == (2, True), found.err
    assert not Path(MARK).exists()


def test_a_module_in_the_working_folder_takes_the_place_of_none():
    for name in ("torch", "timm", "yaml", "rich", "numpy", "cli", "safetensors", "wandb"):
        Path(f"{name}.py").write_text(EVIL)
    Path("mine_here.py").write_text("import timm, yaml\nfrom torch import nn\ndef make(): return nn.Flatten()\n")
    words = ["evaluate", "--model", "mine_here:make", "--data", "nowhere"]
    done = subprocess.run(
        [sys.executable, "-m", "easybn", *words], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert (done.returncode, "unknown data set 'nowhere'" in done.stderr) == (2, True), done.stderr
    assert not Path(MARK).exists()


def test_a_users_module_finds_its_own_modules_and_no_others_in_the_working_folder():
    Path("helper_here.py").write_text("width = 10\n")
    Path("mine_here.py").write_text("import timm, helper_here\nfrom torch import nn\n"
                                    "def make(): return nn.Linear(2, helper_here.width)\n")  # fmt: skip
    for name in ("timm", "torch", "colorsys"):
        Path(f"{name}.py").write_text(EVIL)
    before = list(sys.path)
    assert user_model("mine_here:make").out_features == 10
    assert sys.path == before
    assert not Path(MARK).exists()


HOSTILE = "a\x1b[2J\x07\r\x9b31m\u202e[bold]:smile:[/red]"
SHOWN = r"a\x1b[2J\x07\x0d\x9b31m\u202e[bold]:smile:[/red]"


def assert_shown(text: str) -> None:
    controls = [
        c for c in text if c not in "\n\t\u200c\u200d" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    assert controls == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, SHOWN),
        ("é ± → 汉字 \N{THUMBS UP SIGN}", "é ± → 汉字 \N{THUMBS UP SIGN}"),
        ("a\tb\nc", "a\tb\nc"),
        ("\udc80\ufeff\u2028\u2066\u200f\xad\x00\x7f", r"\udc80\ufeff\u2028\u2066\u200f\xad\x00\x7f"),
        ("\U000e0041", r"\U000e0041"),
        ("न\u200d\u200cम", "न\u200d\u200cम"),
    ],
)
def test_what_controls_is_shown(text, shown, capsys):
    assert escaped(text) == shown
    say(text)
    Terminal(width=200).print(text)
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    table.add_row(Text(text))
    Terminal(width=200, force_terminal=True).print(table)
    found = capsys.readouterr().out
    assert found.count(shown) >= (1 if "\n" in text else 2 + 4)  # a table cuts lines
    assert_shown(found.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[3m", "").replace("\x1b[2;3m", ""))


def test_everything_is_printed_through_one_place():
    folder = Path(package.__file__).parent
    for path in folder.rglob("*.py"):
        if path in (folder / "terminal.py", folder / "escapes.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
            assert name not in ("print", "Console"), (path, node.lineno)  # type: ignore[attr-defined]
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("print_exc", "from_markup"), (path, node.lineno)


def test_names_that_control_are_shown_by_every_command(easybn, monkeypatch):
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((400, 50)))
    monkeypatch.setenv("COLUMNS", "400")
    name = HOSTILE.replace("/", "")
    shown = SHOWN.replace("/", "")
    folder = Path("images", "train")
    for label, grey in (("b[bold]:smile:[red]", 10), ("c", 200)):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(np.full((8, 8), grey + i, np.uint8)).save(folder / label / f"{name}{i}.png")
    shutil.copytree(folder, "images/test")
    small = ("--epochs", "1", "--batch_size", "4", "--validation", "0", "--data", "images")
    attack = ("--attacks", "pgd-ce", "--eps", "0.1", "--points", "4")
    image = str(next((folder / "c").iterdir()))
    commands = [
        ("data", "images"),
        ("train", *small, "--out", f"runs/{name}"),
        ("train", *small, "--lr", "2", "--out", f"runs/{name}"),
        ("evaluate", f"runs/{name}", *attack),
        ("evaluate", f"runs/{name}", "--branch", name),
        ("evaluate", "--model", name),
        ("table", "runs"),
        ("table", "runs", "--format", "markdown"),
        ("hidden", f"runs/{name}", "--images", "4"),
        ("report", "runs", "-o", f"{name}.html"),
        ("summarise", "runs"),
        ("perturb", f"runs/{name}", image, "--out", name),
        ("export", f"runs/{name}", "--format", "safetensors", "--out", f"{name}.safetensors"),
        ("claims", "runs"),
        ("study", name),
        ("census", name),
        ("verify", name),
        ("doctor", name),
        (name,),
    ]  # fmt: skip
    seen = 0
    for words in commands:
        found = easybn(*words)
        assert "Traceback" not in found.err, found.err
        assert_shown(found.out + found.err)
        seen += shown in found.out + found.err
    assert seen >= 13
    page = Path(f"{name}.html").read_text()
    assert_shown(page)
    assert shown in page


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(path))


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


KINDS = [pipe, a_socket, endless, sparse, Path.mkdir]


@pytest.fixture
def _soon():
    """A read that waits without end fails."""

    def late(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_no_file_is_not_read(kind, easybn, tmp_path):
    run = Path("runs/r")
    run.mkdir(parents=True)
    about = {"name": "resnet_tiny", "num_classes": 10, "in_channels": 1}
    save(build(**about), "m.safetensors", about)
    config = {"experiment": {"data": "sample", "data_folder": None, "training": {}}}
    cases = {
        "config.json": [("table", "runs"), ("evaluate", "runs"), ("report", "runs"), ("census", "runs/r")],
        "scores.jsonl": [("table", "runs"), ("evaluate", "runs"), ("report", "runs")],
        "metrics.jsonl": [("report", "runs")],
        "model.safetensors": [("evaluate", "runs"), ("export", "runs/r", "--format", "torch", "--out", "o")],
        "checkpoint.pt": [("evaluate", "runs", "--branch", "easy")],
        "evaluation.json": [("evaluate", "runs")],
        "c.yaml": [("train", "--config", "runs/r/c.yaml"), ("study", "runs/r/c.yaml")],
        "ids.json": [("train", "--leave_out", "runs/r/ids.json")],
        "w.pt": [("evaluate", "--model", "timm:resnet10t", "--data", "sample", "--weights", "runs/r/w.pt")],
        "i.png": [("perturb", "fashion-mnist-vanilla", "runs/r/i.png")],
        "d.zip": [("train", "--data", "runs/r/d.zip")],
    }
    for name, commands in cases.items():
        if name != "evaluation.json":
            (run / "config.json").write_text(json.dumps(config))
            shutil.copy("m.safetensors", run / "model.safetensors")
        (run / name).unlink(missing_ok=True)
        kind(run / name)
        for words in commands:  # type: ignore[attr-defined]
            found = easybn(*words)
            assert "Traceback" not in found.err
            assert found.status == 2 or words[0] == "report", (words, found)
            assert name in found.err or "runs/r" in found.err or found.status == 0, (words, found.err)
        (run / name).rmdir() if kind is Path.mkdir else (run / name).unlink()
        shutil.rmtree(run)
        run.mkdir()


@pytest.mark.usefixtures("_soon")
def test_image_folders_with_what_is_no_image(easybn):
    for i in range(6):
        for part in ("train/a", "train/b", "test/a", "test/b"):
            Path("i", part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), 10 * i, np.uint8)).save(f"i/{part}/{i}.png")
    for kind in KINDS[:-1]:
        kind(Path("i/train/a/x.png"))
        found = easybn("data", "i")
        assert (found.status, "x.png" in found.err) == (2, True), (kind, found)
        Path("i/train/a/x.png").unlink()
    Path("outside").mkdir()
    Path("outside/back").symlink_to(Path("i/train").resolve())
    for link, target in (
        ("a/up", ".."),
        ("a/up", "/"),
        ("a/up", "../../.."),
        ("c", "."),
        ("a/there", "../../../outside"),
    ):
        Path("i/train", link).symlink_to(target)
        found = easybn("data", "i")
        assert (found.status, "remove the link" in found.err) == (2, True), (link, target, found)
        Path("i/train", link).unlink()
    assert easybn("data", "i").status == 0


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "more than 100,000 values"),
        (BOMB.replace("[", "{k: [").replace("]", "]}"), "values"),
        (
            "a: &a {b: 1}\nc:\n" + "".join(f"  k{i}: {{<<: [{', '.join(['*a'] * 400)}]}}\n" for i in range(400)),
            "values",
        ),
        ("a: &a [*a]\n", "parsing"),
        ("a: &a {<<: *a}\n", "c.yaml"),
        ("[" * 5000, "parsing"),
        ("a:\n" + "".join(" " * i + "a:\n" for i in range(1, 100)), "more than 50 levels"),
        ("lr: 1\nlr: 2\n", "the key 'lr' is there twice, again in line 2"),
        ("lr: " + "9" * 5000 + "\n", "parsing"),
        ("lr: !!timestamp 2020-01-01\n", "parsing"),
        ("a: b\n" * 10, "twice"),
        ("\x00", "parsing"),
        ("# " + "x" * 2**20 * 65 + "\n", "bytes"),
    ],
    ids=range(13),
)
def test_yaml_is_read_with_limits(text, told, easybn):
    Path("c.yaml").write_text(text)
    for words in (("train", "--config", "c.yaml"), ("study", "c.yaml", "--dry_run")):
        found = easybn(*words)
        assert (found.status, found.err.count("\n")) == (2, 1), found.err
        assert told in found.err
        assert "c.yaml" in found.err


def test_yaml_is_what_it_was():
    text = "a: 1e-3\nb: 8/255\nc: 2020-01-01\nd: [1, 0x10, 1_000, .5, -.inf, on, ~, 'x']\n"
    text += "base: &b {x: 1}\ne: {<<: *b, y: 2}\n"
    found = parse_yaml(text)
    assert found.pop("d") == [1, 16, 1000, 0.5, -float("inf"), True, None, "x"]
    assert found == {"a": 0.001, "b": "8/255", "c": "2020-01-01", "base": {"x": 1}, "e": {"x": 1, "y": 2}}


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("name", ["evaluation.json", "config.json", "scores.jsonl"])
@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 50_000, "9" * 5000, "\xff", "null", "[]", '{"model": [[]]}'],
    ids=range(7),
)
def test_json_of_any_kind_is_an_error(name, text, easybn):
    Path("r").mkdir()
    Path("r", "config.json" if name == "scores.jsonl" else name).write_text('{"experiment": {}}')
    Path("r", name).write_text(text + "\n", encoding="latin-1")
    for words in (("evaluate", "r"), ("table", "r")):
        found = easybn(*words)
        assert "Traceback" not in found.err
        assert found.status == 2 or (words[0] == "table" and name != "scores.jsonl"), (words, found)


@pytest.mark.parametrize("eps", [255, 200, 14.0, "255", "20"])
def test_an_l2_radius_beyond_all_images_is_refused(eps):
    x, y = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])  # diameter: 13.86
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    for attacks in ("pgd", "apgd-ce", "standard"):
        with pytest.raises(ValueError, match="is it in units of /255"):
            package.evaluate(model, x, y, norm="l2", eps=eps, attacks=attacks)
    with pytest.raises(ValueError, match="is it in units of /255"):
        package.PGD(package.L2(eps), 1)(model, x, package.untargeted(y))
    assert package.evaluate(model, x, y, norm="l2", eps=13.8, attacks="pgd", steps=1).robust_at


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1), (2, 300_000), (1, 80_000), (60_000, 60_000)])
def test_a_small_file_of_a_huge_picture_is_refused(size):
    file = io.BytesIO()
    Image.new("1", size if size[0] * size[1] < 10**7 else (1, 1)).save(file, "PNG")
    data = file.getvalue()
    if size[0] * size[1] > 10**7:  # announced, and not there
        head = b"IHDR" + struct.pack(">II", *size) + data[24:29]
        data = data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    for channels in (1, 3):
        with pytest.raises(
            DataError, match=r"x\.png: (is [0-9,]+ pixels long|is no readable image .*decompression bomb)"
        ):
            decode_picture(data, "x.png", channels, resize=224)


@pytest.mark.usefixtures("_soon")
def test_the_log_of_a_study_is_no_link_and_no_pipe(easybn):
    Path("s.yaml").write_text("runs: [{epochs: 1, train_images: 64, name: a}]\n")
    Path("mine.txt").write_text("mine")
    for make, told in ((lambda path: path.symlink_to("../../../mine.txt"), "is a link"), (pipe, "is a pipe")):
        shutil.rmtree("runs", ignore_errors=True)
        Path("runs/s/a-0").mkdir(parents=True)
        make(Path("runs/s/a-0/study.log"))
        found = easybn("study", "s.yaml")
        assert (found.status, told in found.err) == (2, True), found
    assert Path("mine.txt").read_text() == "mine"
