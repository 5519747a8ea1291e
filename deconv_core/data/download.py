"""CIFAR-10 from its official site: checked, resumable, and never half there.

pooch keeps the cache: it looks for the archive, has it downloaded beside its place, compares the
checksum and only then moves it there. The archive is unpacked beside its place in the same way. Of
several processes that find nothing, one downloads and the others wait for it.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
import zlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from deconv_core.data.cifar10 import locate
from deconv_core.data.resume import DownloadError, ResumingDownloader
from deconv_core.extras import require


@dataclass(frozen=True)
class Archive:
    """A tar file on a server: where it is, what it must hash to, the folder it unpacks to.

    Examples
    --------
    >>> CIFAR10_BINARY.filename
    'cifar-10-binary.tar.gz'
    """

    url: str
    sha256: str
    folder: str

    @property
    def filename(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


CIFAR10_BINARY = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    folder="cifar-10-batches-bin",
)
CIFAR10_PYTHON = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    folder="cifar-10-batches-py",
)


def find_or_download_cifar10(
    root: str | PathLike[str] | None = None,
    progress: bool = True,
    archive: Archive = CIFAR10_BINARY,
) -> Path:
    """Return a folder that holds CIFAR-10, downloading it when there is none.

    Parameters
    ----------
    root : path, optional
        Where to look and to download to; by default ``$DECONV_CORE_DATA``, or else the platform's
        cache folder.
    progress : bool
        Show a progress bar when the output is a terminal.
    archive : Archive
        What to download; the binary version by default.

    Returns
    -------
    Path
        The folder of the batches, for `read_cifar10`. A copy that was found is not checked here.

    Raises
    ------
    DownloadError
        When there is no copy and none could be had: no network, a wrong checksum, a full disk, or
        the archive's folder is there already and holds something else.
        What was received before an interruption is kept and continued the next time.
    ImportError
        When there is no copy and the packages of the extra ``train`` are missing.
    NotADirectoryError
        When ``root`` is a file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     folder = pathlib.Path(root, "cifar-10-batches-bin")
    ...     folder.mkdir()
    ...     _ = (folder / "test_batch.bin").write_bytes(bytes(3073))
    ...     find_or_download_cifar10(root).name
    'cifar-10-batches-bin'
    """
    place = _root(root)
    if place.exists() and not place.is_dir():
        raise NotADirectoryError(f"{place} is a file, not a folder that may hold CIFAR-10")
    found = locate(place)
    if found is not None:
        return found[0]
    was_there = place.exists()
    try:
        with _alone(place / (archive.filename + ".lock")):
            found = locate(place)
            if found is not None:
                return found[0]
            _check_free(place / archive.folder)
            _unpack(_fetch(archive, place, progress), archive.folder, place)
    except (OSError, ValueError) as error:
        raise DownloadError(
            f"no CIFAR-10 in {place}, and {archive.url} could not be had: {error}"
        ) from error
    finally:
        if not was_there:
            with suppress(OSError):
                place.rmdir()  # leaves nothing behind, where nothing of the archive has come
    return place / archive.folder


def _root(root: str | PathLike[str] | None) -> Path:
    """Choose the folder: the argument, the environment, the cache."""
    if root is not None:
        return Path(root)
    return Path(os.environ.get("DECONV_CORE_DATA") or require("pooch").os_cache("deconv_core"))


def _alone(lock: Path) -> ExitStack:
    """Return what holds a file, to be entered, where the system can lock files: others wait."""
    if sys.platform == "win32":
        return ExitStack()
    import fcntl

    while True:  # who had it before may have taken the file away, or even the folder
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError), ExitStack() as stack:
            file = stack.enter_context(open(lock, "ab"))
            with suppress(OSError):  # not every network file system has locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                stack.callback(lock.unlink, missing_ok=True)
                return stack.pop_all()


def _check_free(goal: Path) -> None:
    """Raise where a folder to unpack to is taken: before a download that would be in vain."""
    free = not goal.exists() or (goal.is_dir() and next(goal.iterdir(), None) is None)
    if goal.is_symlink() or not free:
        raise FileExistsError(f"{goal} is there and holds no batches of CIFAR-10: move it away")


def _fetch(archive: Archive, place: Path, progress: bool) -> Path:
    """Download the archive to a folder, unless it is there, and check it."""
    part = place / (archive.filename + ".part")
    pooch = require("pooch")
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # the bar says already what is downloaded
    try:
        path = pooch.retrieve(
            archive.url,
            known_hash=f"sha256:{archive.sha256}",
            fname=archive.filename,
            path=place,
            downloader=ResumingDownloader(part, progress),
        )
    finally:
        logger.setLevel(level)
    return Path(path)


def _unpack(path: Path, folder: str, place: Path) -> None:
    """Unpack beside the goal and move there at once; the archive is not needed any more."""
    if not hasattr(tarfile, "data_filter"):
        raise OSError("this Python cannot unpack safely: 3.10.12, 3.11.4 or later is needed")
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=place) as temporary:
        try:
            with tarfile.open(path) as tar:
                tar.extractall(temporary, filter="data")
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked: {error}") from error
        if not Path(temporary, folder).is_dir():
            raise ValueError(f"{path} holds no folder {folder}")
        os.replace(Path(temporary, folder), place / folder)
    path.unlink()
