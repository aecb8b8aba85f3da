"""A Hugging Face Hub on this machine: the few calls that huggingface_hub makes to upload and to download a model.

It keeps commits of whole repositories, asks for a token where a repository is private or written to, and says no as
the real one does.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import huggingface_hub
import pytest

TOKEN = "hf_of_this_test"


@dataclass
class Repository:
    """Its commits, oldest first, each a dictionary of files; and the commit of each branch."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """The new commit's hash, of what the branch had with ``files`` put in."""
        whole = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        name = hashlib.sha1(repr((len(self.commits), sorted(whole.items()))).encode()).hexdigest()
        self.commits[name] = whole
        self.branches[branch] = name
        return name


@dataclass
class Hub:
    """The server's state: repositories by USER/NAME, what was asked, and headers that replace those of downloads."""

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, files: dict[str, bytes], **options: Any) -> str:
        """A repository with one commit of ``files``; returns the commit."""
        repository = self.repositories[name] = Repository(**options)
        return repository.commit(files)


class _Answer(Exception):
    def __init__(self, status: int, code: str = "", body: Any = None):
        self.status, self.code, self.body = status, code, body


def _answerer(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.answer()

        do_HEAD = do_POST = do_GET

        def answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            self.content = self.rfile.read(size)
            if self.headers.get("Transfer-Encoding") == "chunked":
                self.content = b"".join(self.chunks())
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            try:
                status, headers, body = self.found(path)
            except _Answer as no:
                status, headers = no.status, {"X-Error-Code": no.code, "X-Error-Message": "no"} if no.code else {}
                body = json.dumps(no.body or {"error": "no"}).encode()
            self.send_response(status)
            for name, value in {
                "Content-Length": str(len(body)),
                "Content-Type": "application/json",
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline().strip() or b"0", 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        @property
        def known(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def found(self, path: str) -> tuple[int, dict[str, str], bytes]:
            if path == "/api/repos/create":
                return self.created(json.loads(self.content))
            if path == "/api/validate-yaml":
                return self.json({"errors": [], "warnings": []})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path):
                return self.written(match[1], match[2], match[3])
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                commit, files = self.at(match[1], match[2] or "main")
                siblings = [{"rfilename": name} for name in files]
                repository = hub.repositories[match[1]]
                about = {"id": match[1], "sha": commit, "private": repository.private, "siblings": siblings}
                return self.json({**about, "gated": False, "downloads": 0, "tags": [], "likes": 0})
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+|refs%2F[^/]+)/(.+)", path):
                commit, files = self.at(match[1], match[2].replace("%2F", "/"))
                if match[3] not in files:
                    raise _Answer(404, "EntryNotFound")
                content = files[match[3]]
                tag = f'"{hashlib.sha1(content).hexdigest()}"'
                return 200, {"X-Repo-Commit": commit, "ETag": tag, **hub.headers}, content
            raise _Answer(404)

        def json(self, value: Any) -> tuple[int, dict[str, str], bytes]:
            return 200, {}, json.dumps(value).encode()

        def at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and not self.known):
                raise _Answer(404 if self.known else 401, "RepoNotFound")
            if repository.gated:
                raise _Answer(403, "GatedRepo")
            commit = repository.branches.get(revision, revision)
            if commit not in repository.commits:
                if not repository.commits:  # it is new and empty
                    return "0" * 40, {}
                raise _Answer(404, "RevisionNotFound")
            return commit, repository.commits[commit]

        def created(self, asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
            if not self.known:
                raise _Answer(401)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if not name.startswith("me/"):
                raise _Answer(403)
            if name in hub.repositories:
                raise _Answer(409, body={"url": f"{hub.address}/{name}"})
            private = asked.get("private") or asked.get("visibility") == "private"
            hub.repositories[name] = Repository(private=bool(private))
            return self.json({"url": f"{hub.address}/{name}"})

        def written(self, name: str, what: str, branch: str) -> tuple[int, dict[str, str], bytes]:
            if not self.known:
                raise _Answer(401)
            repository = hub.repositories[name]
            if what == "branch":
                if branch in repository.branches:
                    raise _Answer(409)
                if "main" in repository.branches:
                    repository.branches[branch] = repository.branches["main"]
                return self.json({})
            if what == "preupload":
                asked = json.loads(self.content)["files"]
                return self.json(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
                )
            lines = [json.loads(line) for line in self.content.splitlines()]
            values = [line["value"] for line in lines if line["key"] == "file"]
            files = {value["path"]: base64.b64decode(value["content"]) for value in values}
            commit = repository.commit(files, branch)
            return self.json({"commitOid": commit, "commitUrl": f"{hub.address}/{name}/commit/{commit}"})

    return Answers


def use(address: str, patch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub ask that server, as ``HF_ENDPOINT`` does before it is imported."""
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    for module in (huggingface_hub.constants, huggingface_hub.file_download):  # older versions have a copy there
        patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub that answers until the block ends."""
    hub = Hub("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _answerer(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
