"""A hub of one's own: serves folders as repositories, in as much of the hub's HTTP interface as reading needs."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def log_message(self, format, *args):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        # /api/{models|datasets}/OWNER/NAME/paths-info/REVISION
        if len(parts) == 6 and parts[4] == "paths-info":
            folder = self.root / parts[1] / parts[2] / parts[3]
            wanted = (
                json.loads(body)["paths"]
                if body.startswith(b"{")
                else [unquote(pair.split("=", 1)[1]) for pair in body.decode().split("&") if pair.startswith("paths=")]
            )
            return self._json([self._entry(folder, folder / path) for path in wanted if (folder / path).exists()])
        return self._missing("EntryNotFound")

    def _answer(self):
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "api":
            return self._api(*parts[1:])
        kind = "models"
        if parts[0] == "datasets":
            kind, parts = "datasets", parts[1:]
        if len(parts) < 5 or parts[2] != "resolve":
            return self._missing("RepoNotFound")
        folder = self.root / kind / parts[0] / parts[1]
        if not folder.is_dir():
            return self._missing("RepoNotFound")
        path = folder.joinpath(*parts[4:])
        if not path.is_file():
            return self._missing("EntryNotFound")
        return self._file(path)

    def _api(self, kind, *parts):
        folder = self.root / kind / "/".join(parts[:2])
        if len(parts) < 2 or not folder.is_dir():
            return self._missing("RepoNotFound")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if len(parts) > 2 and parts[2] == "tree":
            below = folder.joinpath(*parts[4:])
            if not below.is_dir():
                return self._missing("EntryNotFound")
            deep = "recursive=true" in urlsplit(self.path).query.lower()
            found = sorted(below.rglob("*") if deep else below.iterdir())
            return self._json([self._entry(folder, path) for path in found])
        names = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
        about = {
            "_id": "1",
            "id": "/".join(parts[:2]),
            "sha": COMMIT,
            "private": False,
            "gated": False,
            "disabled": False,
        }
        return self._json({**about, "siblings": names, "tags": [], "downloads": 0, "likes": 0})

    def _entry(self, folder, path):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        return {"type": "file", "oid": _oid(path), "size": path.stat().st_size, "path": name}

    def _file(self, path):
        data = path.read_bytes()
        status, total = 200, len(data)
        wanted = self.headers.get("Range")
        if wanted is not None:
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(begin), min(int(end) if end else total - 1, total - 1)
            status, data = 206, data[begin : end + 1]
        self.send_response(status)
        self.send_header("ETag", f'"{_oid(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{total}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _json(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self, code):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _oid(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def small_hub(root: Path):
    """Serve root/models/OWNER/NAME and root/datasets/OWNER/NAME; yields the address for HF_ENDPOINT."""
    handler = type("Hub", (_Hub,), {"root": root})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
