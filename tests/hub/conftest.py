"""As much of the Hugging Face Hub as its client asks for to download and to upload, on the loopback address."""

from __future__ import annotations

import hashlib
import importlib
import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


@dataclass
class Repository:
    """`commits`: files by commit; `revisions`: commits by branch or tag."""

    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)


class RefusedError(Exception):
    """Of a status, with the `code` that the Hub has for what is wrong."""

    def __init__(self, status: int, code: str = "", **answer: str) -> None:
        self.status, self.code, self.answer = status, code, answer


class Hub(ThreadingHTTPServer):
    """`requests`: method and path of what was asked; `received`: what was sent with it."""

    token = "hf_of_the_owner"  # may write, and read what is gated

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.received: list[bytes] = []
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, name: str, files: dict[str, bytes], revision: str = "main", **options: bool) -> str:
        """To a repository, which is made where there is none; returns the commit."""
        repository = self.repositories.setdefault(name, Repository(**options))
        commit = hashlib.sha1(repr((name, len(repository.commits))).encode()).hexdigest()
        repository.commits[commit], repository.revisions[revision] = files, commit
        return commit

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """Commit and files. Raises RefusedError."""
        if name not in self.repositories:
            raise RefusedError(404, "RepoNotFound")
        repository = self.repositories[name]
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            raise RefusedError(404, "RevisionNotFound")
        return commit, repository.commits[commit]


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{self.command} {path}")
        self.server.received.append(body)
        try:
            reply = self.of_api if path.startswith("/api/") else self.of_file
            status, content, headers = 200, *reply(path.strip("/").split("/"), body)
        except RefusedError as refusal:
            status, headers = refusal.status, {"X-Error-Code": refusal.code}
            content = json.dumps(refusal.answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_GET  # noqa: N815 - names of BaseHTTPRequestHandler

    def log_message(self, *unused: Any) -> None:
        pass

    def demand_owner(self, code: str = "") -> None:
        """Raises RefusedError where the token is not the owner's."""
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            raise RefusedError(403 if "Authorization" in self.headers else 401, code)

    def of_file(self, parts: list[str], body: bytes) -> tuple[bytes, dict[str, str]]:
        """OWNER/NAME/resolve/REVISION/FILE"""
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        commit, files = self.server.find(name, revision)
        if self.server.repositories[name].gated:
            self.demand_owner("GatedRepo")
        if file not in files:
            raise RefusedError(404, "EntryNotFound")
        return files[file], {"ETag": f'"{hashlib.sha256(files[file]).hexdigest()}"', "X-Repo-Commit": commit}

    def of_api(self, parts: list[str], body: bytes) -> tuple[bytes, dict[str, str]]:
        return json.dumps(self.answer(parts, body)).encode(), {"Content-Type": "application/json"}

    def answer(self, parts: list[str], body: bytes) -> dict[str, Any]:
        name, repositories = "/".join(parts[2:4]), self.server.repositories
        match parts[1:]:
            case ["models", _, _] | ["models", _, _, "revision", _]:
                commit, files = self.server.find(name, parts[5] if len(parts) > 5 else "main")
                siblings = [{"rfilename": file} for file in files]
                return {"id": name, "sha": commit, "private": repositories[name].private, "siblings": siblings}
            case ["validate-yaml"]:
                return {"errors": [], "warnings": []}
            case ["repos", "create"]:
                self.demand_owner()
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                url = f"{self.server.endpoint}/{name}"
                if name in repositories:
                    raise RefusedError(409, url=url)
                self.server.commit(name, {}, private=asked.get("visibility") == "private")
                return {"url": url}
            case ["models", _, _, "preupload", "main"]:
                modes = {"uploadMode": "regular", "shouldIgnore": False}
                return {"files": [{"path": file["path"], **modes} for file in json.loads(body)["files"]]}
            case ["models", _, _, "commit", "main"]:
                self.demand_owner()
                sent = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
                files = {file["path"]: b64decode(file["content"]) for file in sent}
                commit = self.server.commit(name, self.server.find(name, "main")[1] | files)
                return {"commitOid": commit, "commitUrl": f"{self.server.endpoint}/{name}/commit/{commit}"}
        raise RefusedError(404)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switches the client's offline mode, as the environment does, on or off."""

    def switch(on: bool) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", str(int(on)))
        importlib.reload(constants)

    return switch


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub for the client in this process and in those that it starts, and an empty cache; nobody is logged in."""
    hub = Hub()
    for name, value in {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hugging face")}.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    importlib.reload(constants)  # read from the environment when it is imported
    yield hub
    monkeypatch.undo()
    importlib.reload(constants)
    hub.stop()
