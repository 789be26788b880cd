"""Serves a built site as the public host does: below its path, compressed, with 404.html for what is missing."""

import gzip
import mimetypes
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.website.checks import base

COMPRESSED = {".html", ".css", ".js", ".json", ".svg", ".xml", ".py", ".ipynb", ".txt"}
mimetypes.add_type("font/woff2", ".woff2")
mimetypes.add_type("text/javascript", ".js")


def body(file: Path) -> bytes:
    """What is sent for a file."""
    data = file.read_bytes()
    return gzip.compress(data, 6, mtime=0) if file.suffix in COMPRESSED else data


def file_for(site: Path, url: str) -> tuple[int, Path]:
    """The status and the file for an address."""
    path = unquote(urlsplit(url).path)
    file = site / path.removeprefix(base(site))
    file = file / "index.html" if path.endswith("/") else file
    if not path.startswith(base(site)) or ".." in file.parts or not file.is_file():
        return 404, site / "404.html"
    return 200, file


@contextmanager
def serve(site: Path):
    """Serve the site on a free port of this machine; yields the address of its first page."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status, file = file_for(site, self.path)
            data = body(file)
            self.send_response(status)
            self.send_header("Content-Type", mimetypes.guess_type(file.name)[0] or "application/octet-stream")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "max-age=600")
            if file.suffix in COMPRESSED:
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            with suppress(ConnectionError):  # a browser that has left the page does not wait for the rest
                self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{base(site)}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
