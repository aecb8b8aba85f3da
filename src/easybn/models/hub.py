"""Models on the Hugging Face Hub: weights and config of a run, of one commit, and no code.

A model is called USER/NAME, or USER/NAME@REVISION with a branch, a tag or a commit; where files and other libraries'
models are named too, hub:USER/NAME. Two files are downloaded, ``config.json`` and ``model.safetensors``, into the cache
of ``huggingface_hub``, from which they serve without a network too (``HF_HUB_OFFLINE=1``). Nothing is unpickled or run.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..files import MOST_TEXT, check_regular
from ..json_files import Damaged, read_json
from . import weights

PREFIX = "hub:"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_REPO = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubError(ValueError):
    """A model cannot be had from the Hub, or not put there; the message says why and what to do, in one line."""


@dataclass(frozen=True)
class HubModel:
    """A model of the Hub at one commit, with its files in the cache.

    Args:
        repo: USER/NAME.
        commit: 40 hexadecimal digits.
        folder: of ``config.json`` and ``model.safetensors``.
    """

    repo: str
    commit: str
    folder: Path

    @property
    def name(self) -> str:
        """USER/NAME@COMMIT."""
        return f"{self.repo}@{self.commit}"


def from_hub(
    repo: str,
    revision: str | None = None,
    *,
    model: nn.Module | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> nn.Module:
    """The plain model of a run on the Hugging Face Hub, in eval mode, on the CPU.

    Its attribute ``hub`` is USER/NAME@COMMIT: what was loaded, to be written beside results.

    Args:
        repo: USER/NAME or USER/NAME@REVISION.
        revision: a branch, a tag or a commit; by default the main branch.
        model: where the weights belong, for a model whose network is a function of a user's; filled in place.
        token: by default the one that ``hf auth login`` has stored, or ``HF_TOKEN``.
        local_files_only: take what the cache has, as with ``HF_HUB_OFFLINE=1``.

    Raises:
        HubError: a ValueError: no such repository or revision, no right to read it, no network and nothing in the
            cache, or a repository that holds no run of easybn.
        ValueError: its weights are damaged, or do not fit the model.
    """
    found = fetch(repo, revision, token=token, local_files_only=local_files_only)
    loaded = weights.load(found.folder) if model is None else weights.load(found.folder / WEIGHTS, model)
    loaded.hub = found.name  # type: ignore[assignment]
    return loaded


def fetch(
    repo: str, revision: str | None = None, *, token: str | None = None, local_files_only: bool = False
) -> HubModel:
    """The files of a model, from the cache or downloaded into it, see :func:`from_hub`."""
    repo, revision = parse(repo, revision)
    hub = hub_library()
    local_files_only = local_files_only or hub.constants.HF_HUB_OFFLINE
    where = {"repo_id": repo, "token": token, "local_files_only": local_files_only}
    with explained(repo, revision, local_files_only):
        config = Path(hub.hf_hub_download(filename=CONFIG, revision=revision, **where))
        commit, cache = config.parent.name, config.parents[2]
        expected = (f"models--{repo.replace('/', '--')}", "snapshots", commit, CONFIG)
        inside = config.parts[-4:] == expected and config.resolve().is_relative_to(cache.resolve())
        if not (inside and _COMMIT.fullmatch(commit)):  # they are what the server says
            raise HubError(f"{repo}: the name of the commit or of a file leads out of the cache: it is not read")
        check_run(config, repo)
        file = Path(hub.hf_hub_download(filename=WEIGHTS, revision=commit, **where))
    return HubModel(repo, commit, file.parent)


def check_run(config: Path, repo: str) -> None:
    """HubError unless ``config`` is the config.json of a run of easybn."""
    try:
        check_regular(config, MOST_TEXT)
        described = read_json(config, {}).get("experiment")
    except Damaged:
        described = None
    if not isinstance(described, dict):
        raise HubError(f"{repo} holds no run of easybn: its {CONFIG} does not describe one")


def pinned(name: str) -> str:
    """hub:USER/NAME@COMMIT of a model called hub:USER/NAME or hub:USER/NAME@REVISION, which is downloaded."""
    return PREFIX + fetch(name).name


def is_hub(name: object) -> bool:
    """Whether ``name`` is one of the form hub:USER/NAME."""
    return isinstance(name, str) and name.startswith(PREFIX)


def parse(repo: str, revision: str | None = None) -> tuple[str, str | None]:
    """USER/NAME and the revision, of which one may be part of ``repo``.

    Raises:
        HubError: names that are none, such as paths.
    """
    name, at, said = repo.removeprefix(PREFIX).partition("@")
    if at and revision is not None and revision != said:
        raise HubError(f"{repo}: there are two revisions, {said} and {revision}")
    revision = said if at else revision
    if not _REPO.fullmatch(name) or ".." in name:
        raise HubError(f"{repo!r} is no model of the Hub: USER/NAME or USER/NAME@REVISION")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise HubError(f"{name}: {revision!r} is no revision: a branch, a tag or a commit")
    return name, revision


def hub_library() -> Any:
    """The module huggingface_hub, which takes its time to import; HubError if it is missing."""
    try:
        import huggingface_hub
        import huggingface_hub.constants  # it finds its own names when they are used, and not these modules
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise HubError("the Hugging Face Hub needs a package: pip install huggingface_hub") from error
    return huggingface_hub


_HTTP = {"httpx", "httpx2", "httpcore", "requests", "urllib3"}
"""Packages below huggingface_hub's versions, whose errors it lets through."""


@contextmanager
def explained(
    repo: str, revision: str | None = None, local_files_only: bool = False, write: bool = False
) -> Iterator[None]:
    """What goes wrong between this machine and the Hub inside the block is a HubError in one line.

    Args:
        write: whether ``repo`` is written to, for the message.
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        message = _message(error, repo, revision, local_files_only, write)
        if message is None:
            raise
        raise HubError(message) from error


def _message(error: Exception, repo: str, revision: str | None, local_files_only: bool, write: bool) -> str | None:
    """What to tell a user; None for errors that are not the Hub's."""
    hub = hub_library()
    errors, constants = hub.errors, hub.constants
    place, at = constants.ENDPOINT.removeprefix("https://"), f"@{revision}" if revision else ""
    login = "hf auth login, or HF_TOKEN, with a token that may " + ("write there" if write else "read it")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its terms on its page on {place}, and log in ({login})"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{repo}: there is no such model on {place}, or it is private: {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision or 'main'}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        if local_files_only:
            return f"{repo}{at} is not complete in the cache ({constants.HF_HUB_CACHE}), and the network is not asked"
        return f"{repo}{at} is not in the cache, and {place} cannot be reached: is there a network?"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{repo}{at} holds no run of easybn: it lacks {CONFIG} or {WEIGHTS}"
    if isinstance(error, errors.LocalTokenNotFoundError) or status in (401, 403):
        return f"{repo}: {place} does not allow it ({status or 'no token'}): {login}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"{repo}: {place} answers {status or 'an error'}: {_first_line(error)}"
    if type(error).__module__.partition(".")[0] in _HTTP or isinstance(error, ConnectionError):
        return f"{repo}: {place} cannot be reached ({type(error).__name__}): is there a network?"
    if type(error).__module__.partition(".")[0] == "huggingface_hub":
        return f"{repo}: {_first_line(error)}"
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
