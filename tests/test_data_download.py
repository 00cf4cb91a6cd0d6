"""``ms.data.get`` against a server on this machine."""

import dataclasses
import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_data_files import idx, small_set

import minisnn as ms

ROOT = Path(__file__).parent.parent
TRAIN, TEST = small_set(), small_set(6, seed=1)
FILES = {
    f"{part}-{kind}-idx{values.ndim}-ubyte.gz": gzip.compress(idx(values), mtime=0)
    for part, pair in (("train", TRAIN), ("t10k", TEST))
    for kind, values in zip(("images", "labels"), pair, strict=True)
}
SUMS = {name: hashlib.sha256(raw).hexdigest() for name, raw in FILES.items()}
FIRST, SECOND, *_ = FILES


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; counts what was asked for; breaks off or stops in the midst of the files in `broken`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.headers_asked = {}, [], {}
        self.broken, self.stopped, self.go_on = set(), set(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that went away is part of these tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, Path(self.path).name
        server.asked.append(self.path)
        server.headers_asked = dict(self.headers)
        raw = server.files.get(self.path)
        if raw is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2])
        self.wfile.flush()
        if name in server.stopped:
            server.go_on.wait(60)
        if name not in server.broken:
            self.wfile.write(raw[len(raw) // 2 :])
        return None

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("pooch", reason="downloads need pooch: pip install pooch")
    for name in ("MINISNN_DATA", "MINISNN_DATA_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        running.files |= {f"/mnist/{name}": raw for name, raw in FILES.items()}
        small = dataclasses.replace(ms.data.SETS["mnist"], files=SUMS, mirrors=(running.url + "/mnist",))
        monkeypatch.setitem(ms.data.SETS, "mnist", small)
        yield running
        running.go_on.set()
        running.shutdown()


def test_a_set_is_fetched_once_and_can_be_read(server, tmp_path):
    assert ms.data.get("mnist", tmp_path) == tmp_path / "mnist"
    assert {p.name: p.read_bytes() for p in (tmp_path / "mnist").iterdir()} == FILES
    assert server.asked == [f"/mnist/{name}" for name in FILES]
    assert server.headers_asked["Accept-Encoding"] == "identity"
    assert np.array_equal(ms.data.mnist("test", folder=tmp_path)[1], TEST[1])
    if os.name == "posix":
        assert {p.stat().st_mode & 0o777 for p in (tmp_path / "mnist").iterdir()} == {0o644}
    ms.data.get("mnist", tmp_path)
    assert ms.data.get("mnist", str(tmp_path / "mnist")) == tmp_path / "mnist"  # the set's own folder
    assert len(server.asked) == 4


def test_the_folder_and_the_server_may_stand_in_the_environment(server, tmp_path, monkeypatch):
    server.files = {f"/course{path}": raw for path, raw in server.files.items()}
    monkeypatch.setenv("MINISNN_DATA", str(tmp_path / "new"))
    monkeypatch.setenv("MINISNN_DATA_URL", server.url + "/nothing")
    ms.data.get("mnist", url=server.url + "/course/")  # the argument goes first
    assert len(ms.data.mnist()[1]) == 22
    monkeypatch.setenv("MINISNN_DATA_URL", server.url + "/course")
    assert ms.data.get("mnist", tmp_path / "other") == tmp_path / "other" / "mnist"
    assert [path for path in server.asked if not path.startswith("/course/mnist/")] == []


def test_a_mirror_stands_in_for_one_that_fails(server, tmp_path, monkeypatch):
    mirrors = (server.url + "/gone", server.url + "/mnist")
    monkeypatch.setitem(ms.data.SETS, "mnist", dataclasses.replace(ms.data.SETS["mnist"], mirrors=mirrors))
    ms.data.get("mnist", tmp_path)
    assert {p.name for p in (tmp_path / "mnist").iterdir()} == set(FILES)
    assert server.asked[:2] == [f"/gone/{FIRST}", f"/mnist/{FIRST}"]


def spoil_bytes(server):
    server.files[f"/mnist/{SECOND}"] = b"<html>log in first</html>"


def spoil_path(server):
    del server.files[f"/mnist/{SECOND}"]


def spoil_end(server):
    server.broken.add(SECOND)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (spoil_bytes, rf"{SECOND}: other bytes than those published \(their SHA-256 is not {SUMS[SECOND]}\)"),
        (spoil_path, f"{SECOND}: 404 Client Error"),
        (spoil_end, f"{SECOND}: .*(broken|[Ii]ncomplete|other bytes)"),
    ],
)
def test_a_failure_is_explained_leaves_no_half_file_and_the_next_call_goes_on(server, tmp_path, spoil, message):
    spoil(server)
    with pytest.raises(ms.data.DataError, match=message) as error:
        ms.data.get("mnist", tmp_path)
    assert str(error.value).startswith(f"get: {SECOND} could not be fetched; what was fetched before stays\n  {server.url}")
    assert [p.name for p in (tmp_path / "mnist").iterdir()] == [FIRST]
    server.files[f"/mnist/{SECOND}"] = FILES[SECOND]
    server.broken.clear()
    server.asked.clear()
    ms.data.get("mnist", tmp_path)
    assert server.asked == [f"/mnist/{name}" for name in FILES if name != FIRST]
    assert {p.name: p.read_bytes() for p in (tmp_path / "mnist").iterdir()} == FILES


def test_a_damaged_file_is_fetched_again_and_stays_until_a_good_one_is_there(server, tmp_path):
    ms.data.get("mnist", tmp_path)
    path = tmp_path / "mnist" / SECOND
    path.write_bytes(b"damaged")
    server.broken.add(SECOND)
    with pytest.raises(ms.data.DataError, match="could not be fetched"):
        ms.data.get("mnist", tmp_path)
    assert path.read_bytes() == b"damaged"
    server.broken.clear()
    server.asked.clear()
    ms.data.get("mnist", tmp_path)
    assert path.read_bytes() == FILES[SECOND] and server.asked == [f"/mnist/{SECOND}"]


KILLED = """
import dataclasses, sys
import minisnn as ms
ms.data.SETS["mnist"] = dataclasses.replace(ms.data.SETS["mnist"], files={sums!r})
ms.data.get("mnist", {folder!r}, url={url!r})
"""


def test_a_killed_download_leaves_no_file_of_that_name(server, tmp_path):
    server.stopped.add(SECOND)
    program = KILLED.format(sums=SUMS, folder=str(tmp_path), url=server.url)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while len(server.asked) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # half of the file is on its way
    process.kill()
    process.communicate()
    assert len(server.asked) == 2 and {p.name for p in (tmp_path / "mnist").glob("*.gz")} == {FIRST}
    server.go_on.set()
    ms.data.get("mnist", tmp_path)
    assert {p.name: p.read_bytes() for p in (tmp_path / "mnist").glob("*.gz")} == FILES


def test_nobody_answers(server, tmp_path):
    with pytest.raises(
        ms.data.DataError, match=f"{FIRST} could not be fetched.*\n.*127.0.0.1:1/mnist/{FIRST}: .*[Rr]efused"
    ):
        ms.data.get("mnist", tmp_path, url="http://127.0.0.1:1")
    with pytest.raises(ms.data.DataError, match="No connection adapters"):
        ms.data.get("mnist", tmp_path, url="file://etc")
    assert list((tmp_path / "mnist").iterdir()) == []


def test_unknown_sets_no_folder_and_a_file_in_its_place(server, tmp_path):
    with pytest.raises(ms.data.DataError, match="'mnits' is unknown; those to download are mnist, fashion-mnist"):
        ms.data.get("mnits", tmp_path)
    with pytest.raises(ms.data.DataError, match="'nmnist' is not ours to fetch, see https://www.garrickorchard"):
        ms.data.get("nmnist", tmp_path)
    with pytest.raises(ms.data.DataError, match="'digits' ships with minisnn"):
        ms.data.get("digits", tmp_path)
    with pytest.raises(FileNotFoundError, match="mnist: no folder was given"):
        ms.data.get("mnist")
    (tmp_path / "mnist").write_bytes(b"")
    with pytest.raises(FileExistsError):
        ms.data.get("mnist", tmp_path)
    assert server.asked == []


def test_without_pooch_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"get: downloads need pooch \(.*\): pip install pooch"):
        ms.data.get("mnist", tmp_path)
