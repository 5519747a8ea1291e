"""A server on this machine that can break off and resume, and a tiny CIFAR-10 for it to serve."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile

import numpy as np

from deconv_core import data

FOLDER = "cifar-10-batches-bin"
RECORDS = np.random.default_rng(0).integers(0, 10, (6, 2, 3073), np.uint8)


def tar_of(members):
    """A .tar.gz of (name, bytes) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def batches(folder=FOLDER):
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    return [(f"{folder}/{n}", r.tobytes()) for n, r in zip(names, RECORDS, strict=True)]


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; breaks off after ``limit`` bytes; notes the ranges asked for."""

    daemon_threads = True
    content = b""
    limit: int | None = None
    ranges = True
    shift = 0
    status: int | None = None
    kind = "application/x-gzip"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []

    def archive(self, content, folder=FOLDER):
        self.content = content
        url = f"http://127.0.0.1:{self.server_port}/tiny.tar.gz"
        return data.Archive(url, hashlib.sha256(content).hexdigest(), folder)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted[6:-1]) if wanted and server.ranges else 0
        body = server.content[start:]
        if server.status:
            self.send_response(server.status)
            body = b"no"
        elif start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            body = b""
        elif start:
            self.send_response(206)
            first = start + server.shift
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{last + 1}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.limit])

    def log_message(self, *_):
        pass


def get(root, archive):
    return data.find_or_download_cifar10(root, progress=False, archive=archive)
