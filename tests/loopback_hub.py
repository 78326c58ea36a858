"""A hub on loopback: the few endpoints that huggingface_hub needs to create, commit, list and download, and faults.

>>> with LoopbackHub() as hub:
...     hub.tokens[TOKEN] = "write"
...     hub.fail("GET", r"/resolve/.*safetensors", CUT, times=1)

Repositories are models. Files that end in .safetensors go through LFS, others into the commit itself. Refused tokens
are repeated in the answer, as no real hub should do, so that tests see whether the client prints them.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

CUT, DROP = "cut", "drop"
"""Faults beside a status code: close the connection in the middle of the body; close it without an answer."""

TOKEN = "hf_PlantedTokenThatNobodyMaySee0123456789"

ROUTES = [
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<rev>[^/]+)", "branch"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<rev>[^/]+)", "preupload"),
    ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<rev>[^/]+)", "commit"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<rev>[^/]+)", "info"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)", "info"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<rev>[^/]+)", "tree"),
    ("HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
    ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
]
WRITES = {"create", "branch", "preupload", "lfs_batch", "commit"}


class LoopbackHub:
    """The server and its state; a context manager."""

    def __init__(self):
        self.tokens = {}  # token -> "read" or "write"
        self.repos = {}  # id -> namespace(private, branches {name: commit}, commits {commit: {path: bytes}})
        self.stored = {}  # LFS: sha256 -> bytes
        self.log = []  # every request: namespace(method, path, range, token)
        self.faults = []
        self.gated = None  # a regular expression: these paths need an access that nobody has
        self.lock = threading.Lock()
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def fail(self, method, path, action, times=10**9):
        """Answer the next `times` requests whose path matches with a status code, `CUT` or `DROP`."""
        self.faults.append(SimpleNamespace(method=method, path=re.compile(path), action=action, times=times))

    def requests(self, method, path=""):
        """What was asked so far, by method and a regular expression."""
        return [entry for entry in self.log if entry.method == method and re.search(path, entry.path)]

    def create(self, repo, files=None, private=False):
        """Put a repository here directly; returns its commit."""
        self.repos[repo] = SimpleNamespace(private=private, branches={}, commits={})
        commit = self.write(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.write(repo, "main", files) if files else commit

    def write(self, repo, branch, files, deleted=()):
        """Commit files {path: bytes} over what the branch holds."""
        state = self.repos[repo]
        tree = {**state.commits.get(state.branches.get(branch), {}), **files}
        tree = {path: data for path, data in tree.items() if path not in deleted}
        content = "".join(f"{path} {hashlib.sha1(data).hexdigest()}\n" for path, data in tree.items())
        commit = hashlib.sha1(f"{repo} {len(state.commits)}\n{content}".encode()).hexdigest()
        state.commits[commit], state.branches[branch] = tree, commit
        return commit

    def files(self, repo, revision="main"):
        """{path: bytes} of a branch or commit; None if there is no such revision."""
        state = self.repos[repo]
        return state.commits.get(state.branches.get(revision, revision))

    def fault(self, method, path):
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault.action
        return None


@contextmanager
def connected_hub(monkeypatch, folder):
    """An empty hub that this process, whose huggingface_hub has read its environment already, talks to with `TOKEN`.

    The token may write; cache and login are in `folder`, which is the working folder too.
    """
    from huggingface_hub import constants

    with LoopbackHub() as hub:
        hub.tokens[TOKEN] = "write"
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(folder)
        yield hub


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: sent apart, each answer would wait 40 ms for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    hub = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def serve(self):
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        self.body = self.read_chunks() if chunked else self.rfile.read(length)
        self.query = parse_qs(url.query)
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        entry = {"method": self.command, "path": url.path, "range": self.headers.get("Range"), "token": self.token}
        self.hub.log.append(SimpleNamespace(**entry))
        self.action = self.hub.fault(self.command, url.path)
        if self.action == DROP:
            self.close_connection = True
            return
        if isinstance(self.action, int):
            self.refuse(self.action, "", f"fault for {self.token}")
            return
        if self.hub.gated and re.search(self.hub.gated, url.path):
            self.refuse(403, "GatedRepo", "Access to model is restricted")
            return
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match and method == self.command:
                values = {key: unquote(value) for key, value in match.groupdict().items()}
                if self.allowed(name, values.get("repo")):
                    with self.hub.lock:
                        answer = getattr(self, name)(**values)
                    answer()
                return
        self.refuse(404, "", f"no endpoint {self.command} {url.path}")

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def allowed(self, name, repo):
        right = self.hub.tokens.get(self.token)
        if self.token is not None and right is None:
            self.refuse(401, "", "Invalid credentials in Authorization header", f"{self.token} is no token")
            return False
        if name in WRITES and right != "write":
            self.refuse(403 if right else 401, "", f"{self.token} may not write")
            return False
        if repo is not None:
            state = self.hub.repos.get(repo)
            if state is None or (state.private and right is None):
                self.refuse(404 if right else 401, "RepoNotFound", "Repository not found")
                return False
        return True

    # -- answers ------------------------------------------------------------------------------------------------

    def answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.action == CUT:
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def json(self, value, status=200):
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status, code, message, detail=None):
        body = json.dumps({"error": detail or message}).encode()
        self.answer(status, body, {"X-Error-Code": code, "X-Error-Message": message})

    # -- endpoints: each returns a function that sends the answer -------------------------------------------------

    def create(self):
        value = json.loads(self.body)
        repo = f"{value['organization']}/{value['name']}"
        reply = {"url": f"{self.hub.url}/{repo}", "name": repo}
        if repo in self.hub.repos:
            return lambda: self.json({"error": "You already created this model repo", **reply}, 409)
        self.hub.create(repo, private=value.get("visibility") == "private")
        return lambda: self.json(reply)

    def validate(self):
        return lambda: self.json({"errors": [], "warnings": []})

    def branch(self, repo, rev):
        state = self.hub.repos[repo]
        if rev in state.branches:
            return lambda: self.refuse(409, "", "Reference already exists")
        state.branches[rev] = state.branches["main"]
        return lambda: self.json({})

    def preupload(self, repo, rev):
        tree = self.hub.files(repo, rev)
        if tree is None:
            return self.no_revision(rev)
        files = []
        for entry in json.loads(self.body)["files"]:
            path, large = entry["path"], entry["path"].endswith(".safetensors")
            oid = listed(path, tree[path])["lfs" if large else "oid"] if path in tree else None
            oid = oid["oid"] if isinstance(oid, dict) else oid
            mode = "lfs" if large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return lambda: self.json({"files": files})

    def lfs_batch(self, repo):
        objects = []
        for entry in json.loads(self.body)["objects"]:
            reply = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.hub.stored:
                reply["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}", "header": {}}}
            objects.append(reply)
        return lambda: self.json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return lambda: self.refuse(422, "", "the content has another hash")
        self.hub.stored[oid] = self.body
        return lambda: self.answer(200)

    def commit(self, repo, rev):
        if self.hub.files(repo, rev) is None:
            return self.no_revision(rev)
        files, deleted = {}, []
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif item["key"] == "deletedFile":
                deleted.append(value["path"])
        reply, state = {"success": True}, self.hub.repos[repo]
        if "create_pr" in self.query:
            number = 1 + sum(name.startswith("refs/pr/") for name in state.branches)
            state.branches[f"refs/pr/{number}"] = state.branches[rev]
            rev, reply["pullRequestUrl"] = f"refs/pr/{number}", f"{self.hub.url}/{repo}/discussions/{number}"
        commit = self.hub.write(repo, rev, files, deleted)
        reply |= {"commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"}
        return lambda: self.json(reply)

    def info(self, repo, rev="main"):
        state, tree = self.hub.repos[repo], self.hub.files(repo, rev)
        if tree is None:
            return self.no_revision(rev)
        siblings = []
        for path, data in tree.items():
            entry = listed(path, data)
            sibling = {"rfilename": path}
            if "blobs" in self.query:
                sibling |= {"size": len(data), "blobId": entry["oid"]}
                if "lfs" in entry:
                    sibling["lfs"] = {"sha256": entry["lfs"]["oid"], "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        sha = state.branches.get(rev, rev)
        return lambda: self.json({"id": repo, "sha": sha, "private": state.private, "siblings": siblings})

    def tree(self, repo, rev):
        tree = self.hub.files(repo, rev)
        if tree is None:
            return self.no_revision(rev)
        return lambda: self.json([listed(path, data) for path, data in tree.items()])

    def resolve(self, repo, rev, path):
        tree = self.hub.files(repo, rev)
        if tree is None:
            return self.no_revision(rev)
        if path not in tree:
            return lambda: self.refuse(404, "EntryNotFound", "Entry not found")
        data = tree[path]
        entry = listed(path, data)
        headers = {
            "ETag": f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"',
            "X-Repo-Commit": self.hub.repos[repo].branches.get(rev, rev),
            "Accept-Ranges": "bytes",
        }
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if start is None:
            return lambda: self.answer(200, data, headers)
        begin = int(start[1])
        headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        return lambda: self.answer(206, data[begin:], headers)

    def no_revision(self, rev):
        return lambda: self.refuse(404, "RevisionNotFound", f"Invalid rev id: {rev}")


def listed(path, data):
    """A file as the tree endpoint lists it."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if path.endswith(".safetensors"):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
