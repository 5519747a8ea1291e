"""Finding and downloading, against a server on this machine that can break off and resume."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import logging
import socket
import sys
import tarfile
import threading
import time
from dataclasses import replace

import numpy as np
import pooch
import pytest
from download_server import FOLDER, RECORDS, Server, batches, get, tar_of

from deconv_core import data
from deconv_core.data import download, resume


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(resume, "PATIENCE", 10.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_downloads_checks_unpacks_and_leaves_nothing_else(server, tmp_path):
    folder = get(tmp_path / "new", server.archive(tar_of(batches())))
    assert folder == tmp_path / "new" / FOLDER
    np.testing.assert_array_equal(
        data.read_cifar10(folder, "train").images.reshape(-1, 3072),
        RECORDS[:5, :, 1:].reshape(-1, 3072),
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FOLDER]
    assert len(server.asked) == 1
    get(tmp_path / "new", server.archive(b"another"))
    assert len(server.asked) == 1


def test_the_environment_names_the_folder(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DECONV_CORE_DATA", str(tmp_path / "there"))
    assert get(None, server.archive(tar_of(batches()))) == tmp_path / "there" / FOLDER


def test_without_it_the_platforms_cache_is_used(server, tmp_path, monkeypatch):
    monkeypatch.delenv("DECONV_CORE_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / project)
    expected = tmp_path / "deconv_core" / FOLDER
    assert get(None, server.archive(tar_of(batches()))) == expected


def test_an_interrupted_download_is_kept_and_continued(server, tmp_path):
    archive = server.archive(tar_of(batches()))
    server.limit = 300
    for done in (300, 600):
        with pytest.raises(data.DownloadError, match=rf"after {done} of {len(server.content)} byt"):
            get(tmp_path, archive)
        assert (tmp_path / "tiny.tar.gz.part").read_bytes() == server.content[:done]
        assert [path.name for path in tmp_path.iterdir()] == ["tiny.tar.gz.part"]
    server.limit = None
    assert len(data.read_cifar10(get(tmp_path, archive), "test")) == 2
    assert server.asked == [None, "bytes=300-", "bytes=600-"]


def test_a_server_without_ranges_is_asked_for_everything_again(server, tmp_path):
    archive = server.archive(tar_of(batches()))
    (tmp_path / "tiny.tar.gz.part").write_bytes(server.content[:100])
    server.ranges = False
    assert get(tmp_path, archive).is_dir()


@pytest.mark.parametrize("extra", [b"", b"too long"])
def test_a_part_that_is_complete_or_too_long(server, tmp_path, extra):
    archive = server.archive(tar_of(batches()))
    (tmp_path / "tiny.tar.gz.part").write_bytes(server.content + extra)
    assert get(tmp_path, archive).is_dir()
    assert len(server.asked) == (2 if extra else 1)


def test_a_server_that_sends_other_bytes_than_asked_for_is_refused(server, tmp_path):
    archive = server.archive(tar_of(batches()))
    (tmp_path / "tiny.tar.gz.part").write_bytes(server.content[:100])
    server.shift = 5
    with pytest.raises(data.DownloadError, match="from 100 on"):
        get(tmp_path, archive)


@pytest.mark.parametrize("start", [b"", b"junk that an earlier try left"])
def test_a_wrong_checksum_deletes_what_came_and_says_so(server, tmp_path, start):
    archive = replace(server.archive(tar_of(batches())), sha256="0" * 64)
    if start:
        (tmp_path / "tiny.tar.gz.part").write_bytes(start)
    with pytest.raises(data.DownloadError, match=r"(?s)does not match.*[Dd]eleted"):
        get(tmp_path, archive)
    assert list(tmp_path.iterdir()) == []


def test_junk_in_the_part_costs_one_more_try(server, tmp_path):
    archive = server.archive(tar_of(batches()))
    (tmp_path / "tiny.tar.gz.part").write_bytes(b"junk")
    with pytest.raises(data.DownloadError, match="does not match"):
        get(tmp_path, archive)
    assert get(tmp_path, archive).is_dir()


def test_an_archive_that_is_there_already_is_checked_and_used(server, tmp_path):
    archive = server.archive(tar_of(batches()))
    (tmp_path / "tiny.tar.gz").write_bytes(server.content)
    assert get(tmp_path, archive).is_dir()
    assert server.asked == []


@pytest.mark.parametrize("status", [404, 503])
def test_an_error_of_the_server_is_named(server, tmp_path, status):
    archive = server.archive(b"x")
    server.status = status
    with pytest.raises(data.DownloadError, match=str(status)):
        get(tmp_path / "new", archive)
    assert not (tmp_path / "new").exists()


def evil_link(kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo(f"{FOLDER}/out")
        link.type, link.linkname = kind, "../../outside"
        tar.addfile(link)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        tar_of([*batches(), ("../escaped.bin", b"x")]),
        tar_of([*batches(), (f"{FOLDER}/../../escaped.bin", b"x")]),
        evil_link(tarfile.SYMTYPE),
        evil_link(tarfile.LNKTYPE),
        tar_of(batches())[:-200],
        b"not a tar at all",
        tar_of(batches("elsewhere")),
    ],
    ids=["up", "through", "symlink", "hardlink", "truncated", "junk", "no folder"],
)
def test_archives_never_leave_their_folder_and_broken_ones_leave_nothing(server, tmp_path, content):
    (tmp_path / "outside").write_text("mine")
    root = tmp_path / "root"
    with pytest.raises(data.DownloadError, match="tiny.tar.gz"):
        get(root, server.archive(content))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "root"]
    assert [path.name for path in root.iterdir()] == ["tiny.tar.gz"]
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_member_with_an_absolute_name_stays_inside(server, tmp_path):
    outside = tmp_path / "absolute.bin"
    archive = server.archive(tar_of([*batches(), (str(outside), b"x")]))
    with contextlib.suppress(data.DownloadError):
        get(tmp_path / "root", archive)
    assert not outside.exists()


def test_a_folder_of_that_name_without_the_batches_is_not_overwritten(server, tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "notes.txt").write_text("mine")
    with pytest.raises(data.DownloadError, match=f"{FOLDER} is there and holds no batches"):
        get(tmp_path, server.archive(tar_of(batches())))
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["notes.txt"]
    assert server.asked == []


def test_a_page_in_place_of_the_file_costs_nothing_of_what_came(server, tmp_path):
    archive = server.archive(tar_of(batches()))
    (tmp_path / "tiny.tar.gz.part").write_bytes(server.content[:100])
    server.ranges, server.kind = False, "Text/HTML; charset=utf-8"
    with pytest.raises(data.DownloadError, match=r"sent a page \(Text/HTML; charset=utf-8\)"):
        get(tmp_path, archive)
    assert (tmp_path / "tiny.tar.gz.part").read_bytes() == server.content[:100]


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
@pytest.mark.parametrize("stage", ["asked", "checked", "unpacked"])
def test_of_two_at_once_one_downloads_and_the_other_waits(server, tmp_path, monkeypatch, stage):
    archive = server.archive(tar_of(batches()))
    entered, held = threading.Event(), threading.Event()

    def stop_at(function):
        def stopping(*given, **named):
            entered.set()
            assert held.wait(20)
            return function(*given, **named)

        return stopping

    if stage == "asked":
        monkeypatch.setattr(resume, "_open", stop_at(resume._open))
    elif stage == "checked":
        monkeypatch.setattr("pooch.core.hash_matches", stop_at(pooch.core.hash_matches))
    else:
        monkeypatch.setattr(download, "_unpack", stop_at(download._unpack))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = [pool.submit(get, tmp_path / "new", archive)]
        assert entered.wait(20)
        both.append(pool.submit(get, tmp_path / "new", archive))
        assert not concurrent.futures.wait(both, timeout=0.3).done
        held.set()
        assert [future.result(20) for future in both] == [tmp_path / "new" / FOLDER] * 2
    assert len(server.asked) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FOLDER]


def test_a_server_that_refuses_every_range_is_not_asked_for_ever(server, tmp_path):
    archive = server.archive(b"")  # nothing begins at byte 0
    with pytest.raises(data.DownloadError, match="416"):
        get(tmp_path, archive)
    assert len(server.asked) == 1


def test_a_link_where_the_archive_would_go_is_named_before_the_download(server, tmp_path):
    (tmp_path / FOLDER).symlink_to(tmp_path / "nowhere")
    with pytest.raises(data.DownloadError, match=f"{FOLDER} is there and holds no batches"):
        get(tmp_path, server.archive(tar_of(batches())))
    assert server.asked == []


def silent_port():
    """A socket that accepts connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, listener.getsockname()[1]


@pytest.mark.parametrize("failure", ["silent", "refused", "no name", "slow name"])
def test_no_network_is_noticed_at_once(failure, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "PATIENCE", 0.4)
    monkeypatch.setenv("NO_PROXY", "*")
    listener, port = silent_port()
    released = threading.Event()
    if failure == "refused":
        listener.close()
    if failure in ("no name", "slow name"):

        def look_up(*_args, **_kwargs):
            if failure == "slow name":
                released.wait(20)
            raise socket.gaierror(-3, "Temporary failure in name resolution")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
    archive = data.Archive(f"http://127.0.0.1:{port}/tiny.tar.gz", "0" * 64, FOLDER)
    started = time.monotonic()
    late = failure in ("silent", "slow name")
    why = "gave no answer within 0.4 s" if late else "could not be reached"
    with pytest.raises(data.DownloadError, match=f"127.0.0.1:{port} {why}"):
        get(tmp_path / "new", archive)
    assert time.monotonic() - started < 3
    assert not (tmp_path / "new").exists()
    released.set()
    listener.close()


def test_patience_is_a_few_seconds():
    assert resume.PATIENCE <= 5


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="file is a file"):
        data.find_or_download_cifar10(tmp_path / "file")


@pytest.mark.parametrize("name", ["pooch", "tqdm"])
def test_a_missing_package_is_named_with_the_extra(server, tmp_path, monkeypatch, name):
    archive = server.archive(tar_of(batches()))
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{name} is not installed.*deconv-core\[train\]"):
        get(tmp_path / "new", archive)
    assert not (tmp_path / "new").exists()


def test_the_progress_bar_counts_what_was_there_before(server, tmp_path, monkeypatch):
    bars = []

    class Bar(contextlib.AbstractContextManager):
        def __init__(self, initial, total, disable, **_):
            bars.append([initial, total, disable])

        def __exit__(self, *_):
            pass

        def update(self, count):
            bars[-1][0] += count

    monkeypatch.setattr("tqdm.tqdm", Bar)
    archive = server.archive(tar_of(batches()))
    (tmp_path / "tiny.tar.gz.part").write_bytes(server.content[:100])
    data.find_or_download_cifar10(tmp_path, True, archive)
    assert bars == [[len(server.content), len(server.content), None]]


def test_the_official_archives():
    assert download.CIFAR10_BINARY.url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert download.CIFAR10_PYTHON.folder == "cifar-10-batches-py"
    for archive in (download.CIFAR10_BINARY, download.CIFAR10_PYTHON):
        assert len(bytes.fromhex(archive.sha256)) == 32


def test_poochs_own_lines_are_not_shown(tmp_path, server):
    told = []
    handler = logging.Handler()
    handler.emit = told.append
    logger = pooch.get_logger()
    before = logger.level
    logger.addHandler(handler)
    try:
        get(tmp_path / "new", server.archive(tar_of(batches())))
    finally:
        logger.removeHandler(handler)
    assert told == [] and logger.level == before
