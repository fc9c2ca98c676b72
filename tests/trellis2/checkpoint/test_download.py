"""Downloads from a stand-in for the hub on this machine: progress, cancel, cut connections, no connection."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from comfyui_trellis2.trellis2.checkpoint import download as module
from comfyui_trellis2.trellis2.checkpoint.download import Meter, OfflineError, download, local_file
from comfyui_trellis2.trellis2.checkpoint.hub import FileSource, MissingFileError, hub_download
from huggingface_hub import constants

CONTENT = np.random.default_rng(0).integers(0, 255, 3_000_000, np.uint8).tobytes()
CHUNK = 1 << 16


class Stop(Exception):
    """What a host raises in a report, to cancel."""


class Hub(BaseHTTPRequestHandler):
    """One repository, owner/name, with one file, a.bin; its sizes from the API."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        if self.path.startswith("/api/models/owner/name"):
            files = [{"rfilename": "a.bin", "size": len(CONTENT)}]
            self.reply(200, json.dumps({"id": "owner/name", "siblings": files}).encode(), {}, body=body)
        elif self.path == "/owner/name/resolve/main/a.bin":
            self.send_file(body=body)
        else:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)

    def send_file(self, *, body: bool) -> None:
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if body:
            self.server.asked.append(begin)
        shared = {"ETag": '"abc"', "X-Repo-Commit": "f" * 40, "Accept-Ranges": "bytes"}
        if begin:
            shared["Content-Range"] = f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}"
        self.reply(206 if begin else 200, CONTENT[begin:], shared, body=body)

    def reply(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        try:
            for start in range(0, len(content) if body else 0, CHUNK):
                if start >= self.server.cut_after:
                    self.server.cut_after = len(CONTENT)
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.wfile.write(content[start : start + CHUNK])
                time.sleep(self.server.pause)
        except OSError:
            self.close_connection = True


@pytest.fixture
def hub(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.asked, server.pause, server.cut_after = [], 0.0, len(CONTENT)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use(monkeypatch, server.server_port)
    yield server
    server.shutdown()
    server.server_close()


def use(monkeypatch, port: int) -> None:
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_file_comes_with_fractions_that_rise_to_one(hub, tmp_path):
    seen = []
    path = download("owner/name", "a.bin", tmp_path, seen.append)
    assert path == tmp_path / "a.bin"
    assert path.read_bytes() == CONTENT
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(seen) > 10


def test_without_progress(hub, tmp_path):
    assert download("owner/name", "a.bin", tmp_path).read_bytes() == CONTENT


def test_a_file_that_is_there_is_not_asked_for(hub, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"mine")
    assert download("owner/name", "a.bin", tmp_path).read_bytes() == b"mine"
    assert hub.asked == []


def test_after_a_cancel_the_next_call_gets_the_whole_file(hub, tmp_path):
    hub.pause = 0.1  # five seconds in all
    seen = []

    def cancel(fraction: float) -> None:
        seen.append(fraction)
        if fraction > 0.1:
            raise Stop

    with pytest.raises(Stop):
        download("owner/name", "a.bin", tmp_path, cancel)
    assert not (tmp_path / "a.bin").exists()
    hub.pause = 0.0
    seen.clear()
    assert download("owner/name", "a.bin", tmp_path, seen.append).read_bytes() == CONTENT
    assert seen[-1] == 1
    assert list(tmp_path.rglob("*.incomplete")) == []


@pytest.mark.slow
def test_a_cancel_does_not_wait_for_a_line_that_stands_still(hub, tmp_path):
    hub.pause = 30.0
    begun, reports = time.monotonic(), []

    def cancel(fraction: float) -> None:
        reports.append(time.monotonic())
        if time.monotonic() - begun > 2:
            raise Stop

    with pytest.raises(Stop):
        download("owner/name", "a.bin", tmp_path, cancel)
    assert time.monotonic() - begun < 10
    assert len(reports) > 4


def test_a_cut_connection_is_taken_up_again(hub, tmp_path, monkeypatch):
    hub.cut_after = 10 * CHUNK
    assert download("owner/name", "a.bin", tmp_path, lambda fraction: None).read_bytes() == CONTENT
    assert len(hub.asked) > 1
    assert hub.asked[-1] > 0


def test_a_file_that_the_repository_lacks(hub, tmp_path):
    with pytest.raises(MissingFileError, match=r"b\.bin: could not be downloaded from owner/name"):
        hub_download("owner/name", "b.bin", tmp_path, lambda fraction: None)


def test_no_connection_is_told_at_once(monkeypatch, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        use(monkeypatch, closed.getsockname()[1])
        begun = time.monotonic()
        with pytest.raises(OfflineError, match="cannot be reached"):
            download("owner/name", "a.bin", tmp_path)
        source = FileSource.open("owner/name", "owner/name", tmp_path)
        with pytest.raises(MissingFileError) as caught:
            source.get("a.bin")
        assert time.monotonic() - begun < 10  # two attempts, in one of seven processes on two cores
    assert str(tmp_path) in str(caught.value)
    assert "hf download owner/name a.bin" in str(caught.value)


def test_the_cache_is_looked_at_without_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert local_file("owner/name", "a.bin", None) is None


class TestMeter:
    @pytest.fixture
    def clock(self, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
        return now

    def test_it_counts_on_at_the_measured_speed_up_to_the_next_report(self, clock):
        meter = Meter("a", 10 * module.CHUNK)
        clock[0] += 10
        meter.add(module.CHUNK)
        assert meter.fraction() == pytest.approx(0.1)
        clock[0] += 5
        assert meter.fraction() == pytest.approx(0.15)
        clock[0] += 500
        assert meter.fraction() == pytest.approx(0.2)
        meter.add(module.CHUNK)
        assert meter.fraction() == pytest.approx(0.2)

    def test_it_is_below_one_before_the_end_and_zero_without_a_size(self, clock):
        meter = Meter("a", 100)
        meter.add(100)
        assert meter.fraction() < 1
        unknown = Meter("a", None)
        unknown.add(100)
        assert unknown.fraction() == 0

    def test_the_line(self, clock, caplog):
        meter = Meter("a.bin", 5_000_000_000)
        clock[0] += 10
        meter.add(200_000_000)
        assert meter.line() == "a.bin: 0.2 of 5.0 GB, 20.0 MB/s, 4:00 left"
        with caplog.at_level(logging.INFO):
            meter.fraction()
            meter.fraction()
        assert caplog.text.count("20.0 MB/s") == 1
