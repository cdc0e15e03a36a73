"""A stand-in of the Hugging Face Hub: the requests of huggingface_hub for uploads and downloads of models.

It requires a token for uploads, keeps large files apart (Git LFS), and answers unknown repositories, revisions and
files with the statuses and the header X-Error-Code of https://huggingface.co.
"""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_test"


@dataclass
class HubServer:
    """The repositories: name -> path -> content."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 -> content of large files."""
    url: str = ""


def handler_of(server: HubServer) -> type[http.server.BaseHTTPRequestHandler]:
    """The class that answers requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.download(with_body=False)

        def do_GET(self) -> None:
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?(\?.*)?", self.path):
                self.describe(match[1], match[2])
            elif match := re.match(r"/api/models/([^/]+/[^/]+)/tree/", self.path):
                files = server.repositories.get(match[1], {})
                self.reply([{"type": "file", "path": path, "size": len(files[path])} for path in sorted(files)])
            else:
                self.download(with_body=True)

        def do_PUT(self) -> None:
            content = self.body()
            server.large[hashlib.sha256(content).hexdigest()] = content
            self.reply({})

        def do_POST(self) -> None:
            data = self.body()
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.reject(401, "")
            elif self.path == "/api/repos/create":
                request = json.loads(data)
                name = f"{request['organization']}/{request['name']}"
                server.repositories.setdefault(name, {})
                server.private[name] = request.get("visibility") == "private" or bool(request.get("private"))
                self.reply({"url": f"{server.url}/{name}", "name": name})
            elif self.path == "/api/validate-yaml":
                self.reply({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(data)["files"]
                modes = [{"path": f["path"], "uploadMode": "lfs" if f["size"] > 4096 else "regular"} for f in files]
                self.reply({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(data)["objects"]
                upload = {"upload": {"href": f"{server.url}/large"}}
                self.reply({"transfer": "basic", "objects": [{**each, "actions": upload} for each in objects]})
            elif "/commit/" in self.path:
                self.commit(self.path.split("/api/models/")[1].split("/commit/")[0], data)
            else:
                self.reply({})

        def commit(self, name: str, data: bytes) -> None:
            for line in map(json.loads, data.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    server.repositories[name][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    server.repositories[name][value["path"]] = server.large[value["oid"]]
            url = f"{server.url}/{name}/commit/{COMMIT}"
            self.reply({"commitUrl": url, "commitOid": COMMIT, "success": True, "pullRequestUrl": None})

        def describe(self, name: str, revision: str | None) -> None:
            if name not in server.repositories:
                self.reject(401, "RepoNotFound")
            elif revision not in (None, "main", COMMIT):
                self.reject(404, "RevisionNotFound")
            else:
                files = [{"rfilename": path} for path in sorted(server.repositories[name])]
                self.reply({"id": name, "modelId": name, "sha": COMMIT, "siblings": files, "tags": []})

        def download(self, with_body: bool) -> None:
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path.partition("?")[0])
            if match is None or match[1] not in server.repositories:
                self.reject(401, "RepoNotFound")
            elif match[3] not in server.repositories[match[1]]:
                self.reject(404, "EntryNotFound")
            else:
                content = server.repositories[match[1]][match[3]]
                headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                self.send(200, content, headers, with_body)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def reply(self, value: Any) -> None:  # noqa: ANN401
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, True)

        def reject(self, status: int, code: str) -> None:
            self.send(status, b"", {"X-Error-Code": code} if code else {}, True)

        def send(self, status: int, content: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A running stand-in."""
    server = HubServer()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(server)) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        listening.shutdown()
        thread.join()
