"""One download over HTTP that continues where an earlier one stopped.

It grows a ``.part`` file, asks the server for the bytes that are missing (a Range request), and
gives up within seconds where there is no network: a name that is not found, a connection refused
or a server that never answers.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deconv_core.extras import require

PATIENCE = 5.0  # seconds for the name, the connection and the head of the answer together
STALL = 30.0  # seconds without a byte after which a running download stops
_BLOCK = 2**16


class DownloadError(OSError):
    """Something is not here and could not be had; the message says why."""


@dataclass(frozen=True)
class ResumingDownloader:
    """A downloader for pooch that continues the file an earlier try left.

    Parameters
    ----------
    part : Path
        The file that grows; it is moved to pooch's temporary file when it is complete.
    progress : bool
        Show a progress bar when the output is a terminal.

    Examples
    --------
    >>> ResumingDownloader(Path("x.tar.gz.part"), progress=False).progress
    False
    """

    part: Path
    progress: bool

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Download ``url`` to ``output_file``, as pooch asks."""
        have = self.part.stat().st_size if self.part.exists() else 0
        response = _open(url, have)
        if have and response.status_code == 416:  # nothing after that: complete, or not this file
            response.close()
            if response.headers.get("Content-Range") != f"bytes */{have}":
                self.part.unlink()
                return self(url, output_file, pooch)
        else:
            with response:
                self._receive(response, have)
        os.replace(self.part, output_file)

    def _receive(self, response: Any, have: int) -> None:
        """Append the body of an answer, or start over where the server sends everything."""
        response.raise_for_status()
        kind = response.headers.get("Content-Type", "")
        if kind.lower().startswith("text/html"):  # of a network that asks to log in, say
            raise DownloadError(f"the server sent a page ({kind}), not the file")
        resumed = response.status_code == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise DownloadError(f"asked for the bytes from {have} on, the server sent others")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = require("tqdm").tqdm(
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            desc="CIFAR-10",
            disable=None if self.progress else True,
        )
        try:
            with bar, open(self.part, "ab" if resumed else "wb", buffering=0) as file:
                for block in response.raw.stream(_BLOCK, decode_content=False):
                    file.write(block)
                    bar.update(len(block))
        except require("urllib3.exceptions").HTTPError as error:
            raise DownloadError(
                f"the connection broke after {self.part.stat().st_size} of {total} bytes;"
                " they are kept, the next try continues there"
            ) from error


def _open(url: str, offset: int) -> Any:
    """Ask for the bytes of ``url`` from ``offset`` on, with a limit on the whole wait."""
    requests = require("requests")
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        return _within(
            PATIENCE,
            lambda: requests.get(url, headers=headers, stream=True, timeout=(PATIENCE, STALL)),
        )
    except (requests.ConnectionError, requests.Timeout, TimeoutError) as error:
        server = urlsplit(url).netloc
        late = isinstance(error, (requests.Timeout, TimeoutError))
        why = f"gave no answer within {PATIENCE:g} s" if late else "could not be reached"
        raise DownloadError(f"{server} {why} ({_cause(error)})") from error


def _cause(error: BaseException) -> str:
    """Return the innermost reason of an error: what the system said."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def _within(seconds: float, function: Callable[[], Any]) -> Any:
    """Return what a function returns, or stop waiting: a name look-up has no limit of its own."""
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    late = threading.Event()

    def work() -> None:
        try:
            result = function()
        except BaseException as error:
            answers.put((None, error))
        else:
            answers.put((result, None))
            if late.is_set():
                result.close()

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        late.set()
        raise TimeoutError("timed out") from None
    if error is not None:
        raise error
    return result
