"""
A Hub for tests: a small server on the loopback interface that keeps what `huggingface_hub` sends, and refuses where it is
told to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_aTokenThatNobodyMaySee"  # of the user who talks to the server


@dataclass
class Fault:
    """The next `times` requests of a method whose path contains `path` get a status, or a connection that breaks."""

    method: str
    path: str
    status: int | None  # None: the connection is cut in the middle of what is sent
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Repo:
    private: bool
    commits: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest()


class HubServer:
    """`with HubServer() as hub:`; `hub.url` is its address, `hub.repos` what it holds, `hub.requests` what was asked."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.path in path:
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status: int, body: object = b"", headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        fault = self.hub.fault(self.command, path)
        if fault is not None and fault.status is None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.close_connection = True
            self.connection.close()
            return
        body = self._body()
        if fault is not None:
            self._answer(fault.status, {"error": f"refused with {fault.status}"}, fault.headers)
            return
        for pattern, method in _ROUTES:
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found:
                method(self, body, *found.groups())
                return
        self._answer(404, {"error": "no such place"})

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        private = asked.get("private") or asked.get("visibility") == "private"
        known = name in self.hub.repos
        self.hub.repos.setdefault(name, Repo(bool(private)))
        self._answer(409 if known else 200, {"url": f"{self.hub.url}/{name}", "name": name})

    def _whoami(self, body: bytes) -> None:
        self._answer(200, {"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def _validate(self, body: bytes) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def _repo(self, name: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return repo

    def _preupload(self, body: bytes, name: str) -> None:
        if self._repo(name) is not None:
            # What is not text goes to the large-file storage.
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "regular" if file["path"].endswith((".json", ".md", ".yaml", ".jinja")) else "lfs",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})

    def _batch(self, body: bytes, name: str) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            href = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(wanted if wanted["oid"] in self.hub.blobs else wanted | {"actions": href})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _store(self, body: bytes, oid: str) -> None:
        right = hashlib.sha256(body).hexdigest() == oid
        if right:
            self.hub.blobs[oid] = body
        self._answer(200 if right else 400)

    def _commit(self, body: bytes, name: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return
        lines = [json.loads(line) for line in body.splitlines()]
        with self.hub.lock:
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    repo.commits.append(value["summary"])
                elif line["key"] == "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repo.files[value["path"]] = self.hub.blobs[value["oid"]]
        url = f"{self.hub.url}/{name}/commit/{repo.sha}"
        self._answer(200, {"success": True, "commitOid": repo.sha, "commitUrl": url, "hookOutput": ""})

    def _info(self, body: bytes, name: str) -> None:
        repo = self._repo(name)
        if repo is not None:
            files = [{"rfilename": path} for path in repo.files]
            self._answer(200, {"id": name, "sha": repo.sha, "private": repo.private, "tags": [], "siblings": files})

    def _tree(self, body: bytes, name: str) -> None:
        repo = self._repo(name)
        if repo is not None:
            rows = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in repo.files.items()
            ]
            self._answer(200, rows)

    def _resolve(self, body: bytes, name: str, path: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return
        if path not in repo.files:
            self._answer(
                404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.sha}
            )
            return
        content = repo.files[path]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": repo.sha}
        self._answer(200, content, headers | {"Content-Type": "application/octet-stream"})


_NAME = r"([^/]+/[^/]+?)"
_ROUTES = [
    (r"POST /api/repos/create", _Handler._create),
    (r"GET /api/whoami-v2", _Handler._whoami),
    (r"POST /api/validate-yaml", _Handler._validate),
    (rf"POST /api/models/{_NAME}/preupload/main", _Handler._preupload),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler._batch),
    (r"PUT /lfs/(\w+)", _Handler._store),
    (rf"POST /api/models/{_NAME}/commit/main", _Handler._commit),
    (rf"GET /api/models/{_NAME}(?:/revision/\w+)?", _Handler._info),
    (rf"GET /api/models/{_NAME}/tree/\w+", _Handler._tree),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/\w+/(.+)", _Handler._resolve),
]
