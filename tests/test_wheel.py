"""A release: the wheel holds all that the package needs, and works where there is no source tree.

The slow tests use the wheel with the packages that are installed here. With ``EASYBN_FRESH="newest oldest"`` they also
use it in environments of their own, with the newest and with the oldest versions of the packages (a minute and 5 GB
each).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import easybn

from .portable import lower_bounds

ROOT = Path(__file__).parent.parent


def run(*words: str | Path, cwd: Path) -> str:
    """Standard output of a program that has not this checkout in its path; AssertionError if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the sdist that ``make dist`` would make."""
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=ROOT)
    return out


@pytest.fixture(scope="module", params=["here", *os.environ.get("EASYBN_FRESH", "").split()])
def installed(request: pytest.FixtureRequest, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The ``bin`` of a fresh environment with the wheel, and with the packages it needs: this one's, or its own."""
    home = tmp_path_factory.mktemp("installed")
    fresh = request.param != "here"
    venv.create(home / "venv", with_pip=False)
    python = home / "venv" / "bin" / "python"
    (wheel,) = dist.glob("*.whl")
    (home / "oldest.txt").write_text("\n".join(lower_bounds((ROOT / "pyproject.toml").read_text())))
    how = {"here": ["--no-deps", "--no-index"], "newest": [], "oldest": ["--constraint", str(home / "oldest.txt")]}
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, *how[request.param], wheel, cwd=home)
    if not fresh:
        (site_packages,) = (home / "venv" / "lib").glob("python*/site-packages")
        # a path in a .pth file comes after the wheel, and the .pth files in it (an editable easybn) are not read
        (site_packages / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield home / "venv" / "bin"
    shutil.rmtree(home / "venv")


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == easybn.__version__
    assert json.loads((ROOT / "codemeta.json").read_text())["version"] == easybn.__version__
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == easybn.__version__
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert any(re.match(rf"\[?{re.escape(easybn.__version__)}\]? - ", heading) for heading in headings)


def test_codemeta_says_what_the_project_file_says():
    about = json.loads((ROOT / "codemeta.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert about["runtimePlatform"] == f"Python {project['requires-python']}"
    assert about["license"] == f"https://spdx.org/licenses/{project['license']}"
    assert {name: about[name] for name in ("name", "description", "keywords")} == {
        name: project[name] for name in ("name", "description", "keywords")
    }


def test_the_changelog_is_in_the_form_of_keep_a_changelog():
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.M)
    dated = [heading for heading in versions if heading not in ("[Unreleased]", "0.1.0 - never released")]
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in dated), dated
    numbers = [tuple(map(int, re.findall(r"\d+", heading)[:3])) for heading in versions if heading != "[Unreleased]"]
    assert numbers == sorted(numbers, reverse=True)
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "What you must change"}
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        kinds = re.findall(r"^### (.*)$", part, re.M)
        assert set(kinds) <= known
        assert len(kinds) == len(set(kinds)), "a kind of change is there twice in one version"


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(dist):
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    kept = subprocess.run(
        ["git", "ls-files", "src/easybn"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    expected = {line.removeprefix("src/") for line in kept.splitlines() if (ROOT / line).exists()}
    assert len(expected) > 100
    assert expected <= names
    assert {name.partition("/")[0] for name in names} == {"easybn", f"easybn-{easybn.__version__}.dist-info"}


@pytest.mark.slow
def test_the_sdist_has_no_results(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "src/easybn/__init__.py", "tests/test_wheel.py"} <= names
    assert not [name for name in names if re.match(r"(results|bench|tools|runs|\.venv|\.ci)/", name)]
    assert sdist.stat().st_size < 6_000_000
    known = {".gitignore", "PKG-INFO", "src", "tests", "docs", "examples"}
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    known |= {name for name in kept.splitlines() if "/" not in name}
    assert {name.partition("/")[0] for name in names if name} <= known  # no caches of tools, nothing that lies about


@pytest.mark.slow
def test_the_package_index_takes_both(dist):
    pytest.importorskip("twine", reason="pip install --group dist")
    pytest.importorskip("check_wheel_contents", reason="pip install --group dist")
    files = sorted(dist.iterdir())
    assert run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=ROOT).count("PASSED") == 2
    assert "OK" in run(sys.executable, "-m", "check_wheel_contents", *dist.glob("*.whl"), cwd=ROOT)


@pytest.mark.slow
def test_every_module_can_be_imported_from_the_wheel(installed, tmp_path):
    code = """
import easybn, importlib, pkgutil
names = [m.name for m in pkgutil.walk_packages(easybn.__path__, "easybn.") if not m.name.endswith("__main__")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # of an extra, where only what is needed is installed
        assert name == f"easybn.integrations.{error.name.partition('.')[0]}", (name, error)
print(easybn.__file__, len(names), *[len(str(getattr(easybn, name))) > 0 for name in easybn.__all__])
"""
    where, count, *public = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(where).is_relative_to(installed.parent)
    assert int(count) > 100
    assert public == ["True"] * len(easybn.__all__)


@pytest.mark.slow
def test_the_quick_start_works_from_the_wheel(installed, tmp_path):
    program = installed / "easybn"
    assert "train" in run(program, "--help", cwd=tmp_path)
    assert "sample" in run(program, "data", cwd=tmp_path)
    words = ("--config", "demo", "--recipe", "EBN", "--epochs", "1", "--train_images", "200", "--device", "cpu")
    run(program, "train", *words, "--out", "run", cwd=tmp_path)
    run(program, "evaluate", "run", "--eps", "0.5", "--points", "4", "--steps", "2", "--device", "cpu", cwd=tmp_path)
    assert "EBN" in run(program, "table", "run", cwd=tmp_path)
    run(program, "report", "run", "-o", "report.html", cwd=tmp_path)  # its template, style and script are in the wheel
    assert "<svg" in (tmp_path / "report.html").read_text()
    model = ("--model", "fashion-mnist-vanilla", "--attacks", "pgd", "--norm", "l2", "--eps", "0.5", "--points", "4")
    run(program, "evaluate", *model, "--device", "cpu", cwd=tmp_path)  # weights that come with the package
