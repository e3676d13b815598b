"""
A small Hub over HTTP: accounts, repositories, commits, large files, downloads, and the faults of a network.

`huggingface_hub` talks to it as it does to the real one (`HF_ENDPOINT`, or `endpoint=`), over the same paths and with
the same headers and status codes. It keeps everything in memory and offers no Xet, so clients need
`HF_HUB_DISABLE_XET=1`.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.card_rules import broken_rules


LARGE = (".safetensors", ".bin", ".pt", ".model", ".h5", ".onnx")
REVISION = r"(?P<revision>[^/]+)"
REPO = r"(?P<repo>[^/]+/[^/]+?)"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Account:
    name: str
    role: str = "write"


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    commits: list[Commit] = field(default_factory=list)

    def commit(self, message: str, files: dict[str, bytes]) -> Commit:
        oid = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits.append(Commit(oid, message, files))
        return self.commits[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1].files


class Answer(Exception):
    """What is sent back."""

    def __init__(self, status: int, body: dict | bytes = b"", **headers: str):
        self.status, self.body = status, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @classmethod
    def error(cls, status: int, message: str, code: str | None = None) -> "Answer":
        return cls(status, {"error": message}, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))


class HubServer:
    """
    Use as a context manager; `url` is its address.

    Args:
        accounts (`dict[str, Account]`): by token.

    Attributes:
        repositories (`dict[str, Repository]`): by `user/name`.
        requests (`list[str]`): `METHOD /path` of each request, in order.
        cut_uploads (`int`): so many uploads of large files are cut off in the middle.
        refuse_commits (`int`): so many commits end without an answer.
    """

    def __init__(self, accounts: dict[str, Account]):
        self.accounts = accounts
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cut_uploads = 0
        self.refuse_commits = 0
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def storage_url(self) -> str:
        """Large files are on another host, as on the real Hub, whose clients must not send their token there."""
        return f"http://localhost:{self._server.server_port}/storage"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def requested(self, pattern: str) -> list[str]:
        return [request for request in self.requests if re.search(pattern, request)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    # (method, path, name of what answers)
    ROUTES = [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", rf"/api/models/{REPO}/preupload/{REVISION}", "preupload"),
        ("POST", rf"/api/models/{REPO}/commit/{REVISION}", "commit"),
        ("POST", rf"/api/models/{REPO}/paths-info/{REVISION}", "paths_info"),
        ("GET", rf"/api/models/{REPO}/refs", "refs"),
        ("GET", rf"/api/models/{REPO}/tree/{REVISION}(?P<folder>/.*)?", "tree"),
        ("GET", rf"/api/models/{REPO}(/revision/{REVISION})?", "info"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
        ("POST", rf"/{REPO}/lfs-verify", "lfs_verify"),
        ("GET", r"/storage/(?P<oid>[0-9a-f]{64})", "lfs_download"),
        ("GET", rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
    ]

    def do_GET(self):
        self.answer("GET")

    def do_HEAD(self):
        self.answer("GET")

    def do_POST(self):
        self.answer("POST")

    def do_PUT(self):
        self.answer("PUT")

    def log_message(self, *_):
        pass

    def answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.query = parse_qs(urlsplit(self.path).query)
        self.hub.requests.append(f"{self.command} {path}")
        if method == "PUT" and self.hub.cut_uploads > 0:
            self.hub.cut_uploads -= 1
            self.rfile.read(100)
            return self.hang_up()
        self.body = self.read_body()
        if "/commit/" in path and self.hub.refuse_commits > 0:
            self.hub.refuse_commits -= 1
            return self.hang_up()
        try:
            for route_method, pattern, name in self.ROUTES:
                found = re.fullmatch(pattern, path)
                if route_method == method and found:
                    with self.hub.lock:
                        getattr(self, name)(**{key: value for key, value in found.groupdict().items() if value})
            raise Answer.error(404, "Not found")
        except Answer as answer:
            self.send(answer)

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, answer: Answer) -> None:
        is_json = isinstance(answer.body, dict | list)
        body = json.dumps(answer.body).encode() if is_json else answer.body
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json" if is_json else "application/octet-stream", **answer.headers}
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # Who asks, and for what

    def account(self, needed: bool = True) -> Account | None:
        header = self.headers.get("Authorization")
        if header is None:
            if needed:
                raise Answer.error(401, "Invalid username or password.")
            return None
        account = self.hub.accounts.get(header.removeprefix("Bearer "))
        if account is None:
            raise Answer.error(401, "Invalid credentials in Authorization header")
        return account

    def repository(self, name: str, write: bool = False) -> Repository:
        account = self.account(needed=write)
        repository = self.hub.repositories.get(name)
        is_own = account is not None and name.split("/")[0] == account.name
        if repository is None or (repository.private and not is_own):
            raise Answer.error(404 if account else 401, "Repository not found", "RepoNotFound")
        if write and not (is_own and account.role == "write"):
            raise Answer.error(403, "Forbidden: you must use a write token to upload to a repository.")
        return repository

    def at(self, name: str, revision: str = "main") -> Commit:
        commits = self.repository(name).commits
        found = [commit for commit in commits if commit.oid == revision]
        if revision == "main":
            found = commits[-1:]
        if not found:
            raise Answer.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def json(self):
        return json.loads(self.body)

    # Accounts and repositories

    def whoami(self):
        account = self.account()
        token = {"accessToken": {"role": account.role, "displayName": "a token"}}
        raise Answer(200, {"type": "user", "name": account.name, "orgs": [], "auth": token})

    def create_repo(self):
        account, given = self.account(), self.json()
        owner = given.get("organization") or account.name
        name = f"{owner}/{given['name']}"
        if account.role != "write" or owner != account.name:
            raise Answer.error(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        url = f"{self.hub.url}/{name}"
        is_private = bool(given.get("private")) or given.get("visibility") == "private"
        if name in self.hub.repositories:
            raise Answer(409, {"error": "You already created this model repo", "url": url, "name": name})
        repository = self.hub.repositories[name] = Repository(is_private)
        repository.commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        raise Answer(200, {"url": url, "name": name, "id": name})

    def info(self, repo: str, revision: str = "main"):
        commit = self.at(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        private = self.hub.repositories[repo].private
        raise Answer(
            200,
            {"id": repo, "modelId": repo, "sha": commit.oid, "private": private, "siblings": siblings, "tags": []},
        )

    def refs(self, repo: str):
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.at(repo).oid}
        raise Answer(200, {"branches": [branch], "tags": [], "converts": []})

    def tree(self, repo: str, revision: str, folder: str = ""):
        files, folder = self.at(repo, revision).files, folder.strip("/")
        chosen = sorted(path for path in files if not folder or path.startswith(f"{folder}/"))
        if folder and not chosen:
            raise Answer.error(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
        raise Answer(200, [self.entry(path, files[path]) for path in chosen])

    def paths_info(self, repo: str, revision: str):
        files = self.at(repo, revision).files
        asked = self.json()["paths"] if self.body.startswith(b"{") else parse_qs(self.body.decode())["paths"]
        raise Answer(200, [self.entry(path, files[path]) for path in asked if path in files])

    def entry(self, path: str, content: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    # Uploads

    def validate_yaml(self):
        self.account(needed=False)
        errors, warnings = broken_rules(self.json()["content"])
        raise Answer(
            400 if errors else 200,
            {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]},
        )

    def preupload(self, repo: str, revision: str):
        files = self.repository(repo, write=True).files
        answer = []
        for asked in self.json()["files"]:
            path = asked["path"]
            mode = "lfs" if path.endswith(LARGE) or asked["size"] > 10_000_000 else "regular"
            entry = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if path in files:
                entry["oid"] = hashlib.sha256(files[path]).hexdigest() if mode == "lfs" else git_oid(files[path])
            answer.append(entry)
        raise Answer(200, {"files": answer})

    def lfs_batch(self, repo: str):
        self.repository(repo, write=True)
        objects = []
        for asked in self.json()["objects"]:
            known = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.large_files:
                known["actions"] = {
                    "upload": {"href": f"{self.hub.storage_url}/{asked['oid']}"},
                    "verify": {"href": f"{self.hub.url}/{repo}/lfs-verify"},
                }
            objects.append(known)
        raise Answer(200, {"transfer": "basic", "objects": objects})

    def storage(self):
        if self.headers.get("Authorization") is not None:
            raise Answer.error(400, "The token must not be sent here")

    def lfs_upload(self, oid: str):
        self.storage()
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Answer.error(400, "The content is not that of this name")
        self.hub.large_files[oid] = self.body
        raise Answer(200)

    def lfs_verify(self, repo: str):
        self.repository(repo, write=True)
        content = self.hub.large_files.get(self.json()["oid"])
        if content is None or len(content) != self.json()["size"]:
            raise Answer.error(404, "No such object")
        raise Answer(200, {})

    def commit(self, repo: str, revision: str):
        repository = self.repository(repo, write=True)
        self.at(repo, revision)
        files, message = dict(repository.files), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.large_files:
                    raise Answer.error(400, f"{value['path']}: its content was not uploaded")
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif item["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = repository.commit(message, files)
        raise Answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit.oid}", "commitOid": commit.oid})

    # Downloads

    def resolve(self, repo: str, revision: str, path: str):
        commit = self.at(repo, revision)
        if path not in commit.files:
            answer = Answer.error(404, "Entry not found", "EntryNotFound")
            answer.headers["X-Repo-Commit"] = commit.oid
            raise answer
        content = commit.files[path]
        if not path.endswith(LARGE):
            raise Answer(200, content, ETag=f'"{git_oid(content)}"', X_Repo_Commit=commit.oid)
        oid = hashlib.sha256(content).hexdigest()
        raise Answer(
            302,
            Location=f"{self.hub.storage_url}/{oid}",
            X_Linked_ETag=f'"{oid}"',
            X_Linked_Size=str(len(content)),
            X_Repo_Commit=commit.oid,
        )

    def lfs_download(self, oid: str):
        self.storage()
        if oid not in self.hub.large_files:
            raise Answer.error(404, "Entry not found", "EntryNotFound")
        raise Answer(200, self.hub.large_files[oid], ETag=f'"{oid}"')
