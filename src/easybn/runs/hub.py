"""A run on the Hugging Face Hub: its weights, its config and a model card, uploaded in one commit."""

import json
from pathlib import Path
from typing import Any

from .. import __version__
from ..json_files import read_json, with_checksum
from ..models.hub import CONFIG, PREFIX, WEIGHTS, HubError, check_run, explained, hub_library, parse
from .hub_card import hub_card, last_part
from .run import Run


def push_to_hub(
    run: Path | str | Run,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload the deployable model of a finished run: model.safetensors, config.json and a model card, in one commit.

    The card is the run's README.md, as you may have changed it, with the scores of scores.jsonl and their 95%
    intervals, and the Hub's metadata. Folders of this machine are left out of both. Checkpoints, other branches and
    verdicts are not uploaded.

    Args:
        run: its folder.
        repo: USER/NAME; made if it is not there. One that holds anything but a run of easybn is refused.
        private: only you and those you name may read it.
        revision: a branch to write to, made if it is not there; by default the main one.
        licence: of the weights, as the Hub calls it: "mit", "cc-by-4.0"; mind that of the data set.
        message: of the commit.
        token: by default the one that ``hf auth login`` has stored, or ``HF_TOKEN``.

    Returns:
        USER/NAME@COMMIT, for :func:`easybn.from_hub`.

    Raises:
        FileNotFoundError: the run is not finished.
        easybn.json_files.Damaged: a ValueError; a file of it is damaged.
        easybn.models.hub.HubError: a ValueError: no network, no right to write there, something else is there, or it is
            public and was to be private.
    """
    run = run if isinstance(run, Run) else Run(Path(run))
    config = run.config
    if not run.finished:
        raise FileNotFoundError(f"{run.folder} is not finished: run its easybn train again")
    run.check_complete()
    repo, said = parse(repo, revision)
    files: dict[str, Any] = {
        CONFIG: _config(run).encode(),
        "README.md": hub_card(run, repo, licence).encode(),
        WEIGHTS: str(run.folder / WEIGHTS),
    }
    with explained(repo, said, write=True):
        hub = hub_library()
        if hub.constants.HF_HUB_OFFLINE:
            raise HubError(f"{repo} cannot be written to without a network: HF_HUB_OFFLINE is set")
        api = hub.HfApi(token=token, library_name="easybn", library_version=__version__)
        _check_free(hub, api, repo, private)
        api.create_repo(repo, private=private, exist_ok=True)
        if said is not None:
            api.create_branch(repo, branch=said, exist_ok=True)
        commit = api.create_commit(
            repo,
            [hub.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=message or f"{config['model']} by {config['recipe']['class']}, from easybn {__version__}",
            revision=said,
        )
    return f"{repo}@{commit.oid}"


def _check_free(hub: Any, api: Any, repo: str, private: bool) -> None:
    """HubError if the repository holds something else than a run, or is public and was to be private."""
    try:
        found = api.model_info(repo)
    except hub.errors.GatedRepoError:
        raise
    except hub.errors.RepositoryNotFoundError:
        return
    if private and found.private is False:
        raise HubError(f"{repo} is there and public: make it private in its settings, or choose another name")
    names = {file.rfilename for file in found.siblings or []}
    if CONFIG in names:
        config = hub.hf_hub_download(repo, CONFIG, revision=found.sha, token=api.token)
        try:
            check_run(Path(config), repo)
        except HubError as error:
            raise HubError(f"{error}: choose another name, so that nothing is overwritten") from None
    elif WEIGHTS in names:
        raise HubError(
            f"{repo} holds weights that are not of easybn: choose another name, so that nothing is overwritten"
        )


def _config(run: Run) -> str:
    """The run's config.json without folders of this machine."""
    config = read_json(run.folder / CONFIG, {})
    experiment = dict(config["experiment"])
    for name in ("data_folder", "leave_out", "data"):
        if isinstance(value := experiment.get(name), str):
            experiment[name] = None if name == "data_folder" else last_part(value)
    return json.dumps(with_checksum({**config, "experiment": experiment}), indent=2) + "\n"


def address(name: str) -> str:
    """Where people look at USER/NAME@COMMIT."""
    repo, commit = parse(name.removeprefix(PREFIX))
    return f"{hub_library().constants.ENDPOINT}/{repo}/tree/{commit}"
