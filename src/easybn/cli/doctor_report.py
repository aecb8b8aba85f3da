"""The block that ``easybn doctor --report`` prints, to be pasted into an issue: what runs where, and what is not well.

It names no host, and no other environment variable than those that change what is computed or found. The home folder
is shown as ``~``, and a folder of the user's name as ``USER``.
"""

import getpass
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..json_files import read_json

if TYPE_CHECKING:
    from .doctor import Finding

VARIABLES = re.compile(
    r"(EASYBN|OMP|MKL|KMP|GOMP|ATEN|ONEDNN|DNNL|CUDA|CUDNN|CUBLAS|NVIDIA|NCCL|PYTORCH|TORCH)_\w+|LD_PRELOAD|XDG_CACHE_HOME"
)
"""Names of environment variables that change what torch computes or where easybn looks."""


def report(findings: Iterable["Finding"], run: Path | None = None) -> str:
    """The block as Markdown; a torch that cannot be imported is said in it.

    Args:
        findings: of ``easybn doctor``; those that are not ok are in the block.
        run: a run's folder, whose config and last start are added.

    Raises:
        FileNotFoundError: ``run`` has no config.json.
        ValueError: it has one that cannot be read.
    """
    rows = [*_here(), *_wrong(findings), *(_of_run(run) if run else [])]
    width = max(len(name) for name, _ in rows)
    text = "\n".join(f"{name:{width}}  {value}".rstrip() for name, value in rows)
    return "```text\n" + without_private_paths(text).replace("```", "'''") + "\n```"


def without_private_paths(text: str) -> str:
    """``text`` with the home folder as ``~`` and folders of the user's name as ``USER``."""
    try:
        home = str(Path.home())
    except RuntimeError:  # there is none
        home = ""
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", "USER", text)


def _here() -> Iterator[tuple[str, str]]:
    commit = None
    try:
        import torch

        from ..runs.run import environment

        here, problem = environment(), ""
        commit = here["commit"]
    except Exception as error:  # a half-installed torch raises anything
        here, problem = {}, str(error)
    yield "easybn", __version__ + (f" (commit {commit})" if commit else "")
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    yield "packages", ", ".join(_packages())
    if problem:
        yield "torch", f"cannot be imported: {problem}"
    else:
        isa = torch.backends.cpu.get_cpu_capability()
        yield "processor", f"{here['processor'] or 'unknown'}, {here['cpus']} usable, torch uses {isa}"
        yield "threads", f"{here['threads']} of torch, {torch.get_num_interop_threads()} between operations"
        yield "gpu", "; ".join(_gpus()) or f"none that torch can use (built for CUDA {torch.version.cuda})"
        yield "data", "; ".join(_data())
    names = sorted(name for name in os.environ if VARIABLES.fullmatch(name))
    yield "environment", " ".join(f"{name}={os.environ[name]}" for name in names) or "nothing set"


def _packages() -> Iterator[str]:
    """Those that easybn needs, and those of its extras that are here."""
    names = [found[0] for line in requires("easybn") or [] if (found := re.match(r"[\w.-]+", line))]
    for name in dict.fromkeys(names):
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _gpus() -> Iterator[str]:
    import torch

    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        memory, capability = about.total_memory / 2**30, f"{about.major}.{about.minor}"
        yield f"cuda:{i} {about.name}, {memory:.0f} GiB, compute capability {capability}"
    if torch.cuda.device_count():
        yield f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]


def _data() -> Iterator[str]:
    from ..data import available

    for status in available():
        if status.found:
            yield status.name if status.name == "sample" else f"{status.name} in {status.found[0].parent}"


def _wrong(findings: Iterable["Finding"]) -> Iterator[tuple[str, str]]:
    for found in findings:
        if found.state != "ok":
            yield found.state, f"{found.about}: {found.text}"


def _of_run(folder: Path) -> Iterator[tuple[str, str]]:
    """A run's config, without its checksum, and the command of its last start."""
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} is no run: it has no config.json")
    yield "run", json.dumps(read_json(path, {}, verify=False), sort_keys=True)
    sessions = read_json(folder / "environment.json", [], verify=False)
    if sessions and isinstance(sessions[-1], dict) and isinstance(words := sessions[-1].get("command"), list):
        yield "started by", " ".join(map(str, words))
