"""A server on loopback that speaks what an upload to the Hugging Face Hub needs, with repositories in memory."""

import contextlib
import hashlib
import json
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """Its files after each commit, the last one at the end."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1] if self.commits else {}


@dataclass
class Hub:
    """What the server holds, and what it is told to do."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by their SHA-256, whether a commit names them or not."""
    requests: list[str] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)
    """Part of a path to the status that such a request gets."""


def complaints(card: str) -> list[str]:
    """What the Hub finds wrong in a card's front matter, as its validator words it."""
    head = yaml.safe_load(card.split("---\n")[1])
    found = []
    for result in (result for model in head.get("model-index", []) for result in model["results"]):
        for name, value in result["dataset"].items():
            if value == "":
                found.append(f'"model-index[0].results[0].dataset.{name}" is not allowed to be empty')
        if not re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", result["dataset"]["type"], re.ASCII):
            found.append('"model-index[0].results[0].dataset.type" fails to match the required pattern')
    return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _reply(self, status: int, content: Any = None) -> None:
        body = json.dumps(content or {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        name = self._name()
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._reply(404, {"error": "Repository not found"})
        else:
            self._reply(200, {"id": name, "private": repository.private, "sha": f"{len(repository.commits):040}"})

    def do_PUT(self) -> None:
        body = self._body()
        self.hub.requests.append(self.path)
        if any(part in self.path for part in self.hub.broken):
            self._reply(403)
            return
        digest = self.path.removeprefix("/lfs/")
        assert hashlib.sha256(body).hexdigest() == digest
        self.hub.objects[digest] = body
        self._reply(200)

    def do_POST(self) -> None:
        body = self._body()
        self.hub.requests.append(self.path)
        for part, status in self.hub.broken.items():
            if part in self.path:
                self._reply(status, {"error": "as the test wants it"})
                return
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._reply(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            found = complaints(json.loads(body)["content"])
            self._reply(400 if found else 200, {"errors": [{"message": each} for each in found], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            self._preupload(json.loads(body))
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            self._commit([json.loads(line) for line in body.splitlines()])

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != "team":
            self._reply(403, {"error": "You don't have the rights to create a model under this namespace"})
            return
        known = name in self.hub.repositories
        if not known:
            self.hub.repositories[name] = Repository(wanted.get("visibility") == "private")
        self._reply(409 if known else 200, {"url": f"{self.hub.url}/{name}"})

    def _name(self) -> str:
        return "/".join(self.path.removeprefix("/api/models/").split("/")[:2])

    def _preupload(self, wanted: dict[str, Any]) -> None:
        held = self.hub.repositories[self._name()].files
        modes = []
        for file in wanted["files"]:
            content = held.get(file["path"])
            large = b"\0" in b64decode(file["sample"])
            digest = None
            if content is not None:
                header = b"" if large else f"blob {len(content)}\0".encode()
                digest = (hashlib.sha256 if large else hashlib.sha1)(header + content).hexdigest()
            mode = "lfs" if large else "regular"
            modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": digest})
        self._reply(200, {"files": modes})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = [dict(each) for each in wanted["objects"]]
        for each in objects:
            if each["oid"] not in self.hub.objects:
                each["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}
        self._reply(200, {"transfer": "basic", "objects": objects})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        name = self._name()
        repository = self.hub.repositories[name]
        files = dict(repository.files)
        for line in lines[1:]:
            value = line["value"]
            large = line["key"] == "lfsFile"
            files[value["path"]] = self.hub.objects[value["oid"]] if large else b64decode(value["content"])
        repository.commits.append(files)
        number = f"{len(repository.commits):040}"
        self._reply(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{number}", "commitOid": number})


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """Start a server; whoever has TOKEN may write the repositories of `team`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
