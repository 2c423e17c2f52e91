"""A server of one model that speaks as much of the Hub's API as a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PIECE = 1 << 16


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, seconds: float, *args: object):
        self.folder, self.seconds = folder, seconds
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.do_GET(with_content=False)

    def do_GET(self, with_content: bool = True) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/"):
            files = sorted(file.name for file in self.folder.iterdir())
            about = {"id": "tiny/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            tree = [
                {"type": "file", "path": name, "size": (self.folder / name).stat().st_size, "oid": name}
                for name in files
            ]
            return self._answer(json.dumps(tree if "/tree/" in path else about).encode(), with_content, {})
        file = self.folder / path.rpartition("/")[2]
        if not file.is_file():
            self.send_error(404)
            return None
        content = file.read_bytes()
        tag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._answer(content, with_content, tag)

    def _answer(self, content: bytes, with_content: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(content) if with_content else 0, _PIECE):
            self.wfile.write(content[start : start + _PIECE])
            time.sleep(self.seconds)


@contextmanager
def hub(folder: Path, seconds: float = 0.0) -> Iterator[str]:
    """The address of a Hub that has the files of ``folder`` as ``tiny/model``.

    Args:
        folder: its files.
        seconds: to wait after each 64 KiB.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder, seconds)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
