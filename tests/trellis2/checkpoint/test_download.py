"""Downloads from a stand-in for the hub on this machine: progress, cancel, resume, cut connections, no connection."""

import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from comfyui_trellis2.trellis2.checkpoint import download as module
from comfyui_trellis2.trellis2.checkpoint import meter as measuring
from comfyui_trellis2.trellis2.checkpoint.download import OfflineError, download, local_file
from comfyui_trellis2.trellis2.checkpoint.hub import FileSource, MissingFileError, hub_download
from comfyui_trellis2.trellis2.checkpoint.meter import Meter
from comfyui_trellis2.trellis2.checkpoint.partial import DamagedError
from huggingface_hub import HfApi, constants, hf_hub_download

CONTENT = np.random.default_rng(0).integers(0, 255, 3_000_000, np.uint8).tobytes()
CHUNK = 1 << 16
COMMIT = "f" * 40
ROOT = Path(__file__).parents[3]


class Stop(Exception):
    """What a host raises in a report, to cancel."""


class Hub(BaseHTTPRequestHandler):
    """One repository, owner/name, with a.bin, and with large.bin, which has a SHA-256 and lies on another host."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        place, _, name = self.path.rpartition("/")
        known = place in ("/owner/name/resolve/main", f"/owner/name/resolve/{COMMIT}")
        if self.path.startswith("/api/models/owner/name"):
            time.sleep(self.server.late)
            self.reply(200, json.dumps(self.facts()).encode(), {}, body=body)
        elif self.path == "/cdn/large.bin" or (known and name == "a.bin"):
            self.send_file(body=body)
        elif known and name == "large.bin":
            server = self.server
            headers = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{server.digest}"',
                "X-Linked-Size": str(len(server.content)),
                "Location": f"http://localhost:{server.server_port}/cdn/large.bin",
            }
            self.reply(302, b"", headers, body=body)
        else:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)

    def facts(self) -> dict:
        size = len(self.server.content)
        large = {"sha256": self.server.digest, "size": size, "pointerSize": 134}
        files = [{"rfilename": "a.bin", "size": size}, {"rfilename": "large.bin", "size": size, "lfs": large}]
        known = {"private": False, "downloads": 0, "likes": 0, "tags": []}  # asked for by older releases
        return {"id": "owner/name", "sha": COMMIT, "siblings": files, **known}

    def send_file(self, *, body: bool) -> None:
        content = self.server.content
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if body:
            self.server.asked.append(begin)
        if not self.server.ranges:
            begin = 0
        shared = {"ETag": '"abc"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if begin:
            shared["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self.reply(206 if begin else 200, content[begin:], shared, body=body)

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
    server.asked, server.pause, server.cut_after, server.ranges = [], 0.0, len(CONTENT), True
    server.late = 0.0
    server.content, server.digest = CONTENT, hashlib.sha256(CONTENT).hexdigest()
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        assert time.monotonic() - begun < 1.5
        source = FileSource.open("owner/name", "owner/name", tmp_path)
        with pytest.raises(MissingFileError) as caught:
            source.get("a.bin")
        assert time.monotonic() - begun < 2
    assert str(tmp_path) in str(caught.value)
    assert "hf download owner/name a.bin" in str(caught.value)


def test_the_cache_is_looked_at_without_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert local_file("owner/name", "a.bin", None) is None


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch, tmp_path):
    asked = []

    def model_info(self: HfApi, repository: str, **_: object) -> None:
        asked.append(repository)
        raise ConnectionError("no route")

    monkeypatch.setattr(module, "_unreachable", {})
    monkeypatch.setattr(HfApi, "model_info", model_info)
    for name in ("a.bin", "b.bin", "c.bin"):
        with pytest.raises(OfflineError, match="cannot be reached"):
            download("owner/name", name, tmp_path)
    assert len(asked) == 1
    monkeypatch.setattr(module, "OFFLINE_SECONDS", 0.0)
    with pytest.raises(OfflineError):
        download("owner/name", "a.bin", tmp_path)
    assert len(asked) == 2


@pytest.mark.slow
def test_a_hub_that_answers_late_is_not_taken_for_none(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)
    hub.late = 0.5
    assert download("owner/name", "large.bin", tmp_path).read_bytes() == CONTENT
    assert hub.asked == [0]


def loaded(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stop_at(share: float):
    def cancel(fraction: float) -> None:
        if fraction > share:
            raise Stop

    return cancel


def interrupted(hub, folder: Path | None) -> None:
    """Half of large.bin, then a cancel."""
    hub.pause = 0.05
    with pytest.raises(Stop):
        download("owner/name", "large.bin", folder, stop_at(0.5))
    hub.pause = 0.0
    hub.asked.clear()


class TestResume:
    def test_a_whole_download_leaves_the_file_only(self, hub, tmp_path):
        seen = []
        path = download("owner/name", "large.bin", tmp_path / "folder", seen.append)
        assert path == tmp_path / "folder" / "large.bin"
        assert path.read_bytes() == CONTENT
        assert loaded(path.parent) == ["large.bin"]
        assert seen == sorted(seen)
        assert seen[-1] == 1
        assert hub.asked == [0]

    def test_after_a_cancel_the_rest_is_asked_for(self, hub, tmp_path):
        interrupted(hub, tmp_path)
        (partial,) = tmp_path.glob("large.bin.*.partial")
        assert 0 < partial.stat().st_size < len(CONTENT)
        assert CONTENT.startswith(partial.read_bytes())
        assert not (tmp_path / "large.bin").exists()
        there, seen = partial.stat().st_size, []
        assert download("owner/name", "large.bin", tmp_path, seen.append).read_bytes() == CONTENT
        assert hub.asked == [there]
        assert loaded(tmp_path) == ["large.bin"]
        assert min(fraction for fraction in seen if fraction) > 0.3

    @pytest.mark.slow
    def test_after_a_kill_the_rest_is_asked_for(self, hub, tmp_path):
        script = (
            "import importlib.util, pathlib, sys\n"
            f"spec = importlib.util.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r},"
            f" submodule_search_locations=[{str(ROOT)!r}])\n"
            "sys.modules['pack'] = module = importlib.util.module_from_spec(spec)\n"
            "from pack.trellis2.checkpoint.download import download\n"
            "from huggingface_hub import constants\n"
            f"constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}\n"
            f"download('owner/name', 'large.bin', pathlib.Path({str(tmp_path)!r}))\n"
        )
        hub.pause = 0.1
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}  # noqa: TID251 a copy
        process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE)
        while process.poll() is None and not any(
            path.stat().st_size > len(CONTENT) // 2 for path in tmp_path.glob("*.partial")
        ):
            time.sleep(0.02)
        process.kill()
        said = process.communicate()[1].decode()
        assert len(hub.asked) == 1, said
        (partial,) = tmp_path.glob("*.partial")
        there, hub.pause = partial.stat().st_size, 0.0
        assert download("owner/name", "large.bin", tmp_path, lambda fraction: None).read_bytes() == CONTENT
        assert hub.asked[1:] == [there]
        assert loaded(tmp_path) == ["large.bin"]

    def test_another_revision_begins_anew(self, hub, tmp_path):
        interrupted(hub, tmp_path)
        hub.content = CONTENT[::-1]
        hub.digest = hashlib.sha256(hub.content).hexdigest()
        assert download("owner/name", "large.bin", tmp_path).read_bytes() == hub.content
        assert hub.asked == [0]
        assert loaded(tmp_path) == ["large.bin"]

    def test_a_server_without_ranges_begins_anew(self, hub, tmp_path):
        interrupted(hub, tmp_path)
        hub.ranges = False
        assert download("owner/name", "large.bin", tmp_path, lambda fraction: None).read_bytes() == CONTENT
        assert hub.asked[0] > 0

    def test_a_partial_file_that_is_too_long_begins_anew(self, hub, tmp_path):
        interrupted(hub, tmp_path)
        (partial,) = tmp_path.glob("*.partial")
        partial.write_bytes(CONTENT + b"more")
        assert download("owner/name", "large.bin", tmp_path).read_bytes() == CONTENT
        assert hub.asked == [0]

    def test_all_of_it_was_there_already(self, hub, tmp_path):
        interrupted(hub, tmp_path)
        (partial,) = tmp_path.glob("*.partial")
        partial.write_bytes(CONTENT)
        assert download("owner/name", "large.bin", tmp_path).read_bytes() == CONTENT
        assert hub.asked == []

    def test_a_wrong_digest_is_an_error_and_leaves_nothing(self, hub, tmp_path):
        interrupted(hub, tmp_path)
        (partial,) = tmp_path.glob("*.partial")
        partial.write_bytes(b"x" + partial.read_bytes()[1:])
        with pytest.raises(DamagedError, match=f"expected SHA-256 {hub.digest}"):
            download("owner/name", "large.bin", tmp_path)
        assert loaded(tmp_path) in ([], ["large.bin.lock"])
        assert download("owner/name", "large.bin", tmp_path).read_bytes() == CONTENT

    def test_two_at_once_load_once(self, hub, tmp_path):
        hub.pause = 0.02
        found = []
        threads = [
            threading.Thread(
                target=lambda: found.append(download("owner/name", "large.bin", tmp_path, lambda fraction: None))
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [tmp_path / "large.bin"] * 2
        assert found[0].read_bytes() == CONTENT
        assert hub.asked == [0]
        assert loaded(tmp_path) == ["large.bin"]

    def test_a_cancel_frees_the_file_while_its_line_stands_still(self, hub, tmp_path):
        hub.pause, begun = 5.0, time.monotonic()

        def cancel(fraction: float) -> None:
            if hub.asked:
                raise Stop

        with pytest.raises(Stop):
            download("owner/name", "large.bin", tmp_path, cancel)
        hub.pause = 0.0
        assert download("owner/name", "large.bin", tmp_path, lambda fraction: None).read_bytes() == CONTENT
        assert time.monotonic() - begun < 4.5

    def test_the_cache_gets_the_file_where_the_hubs_library_looks(self, hub, tmp_path, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        blobs = tmp_path / "models--owner--name" / "blobs"
        interrupted(hub, None)
        (partial,) = blobs.glob("*.partial")
        there = partial.stat().st_size
        path = download("owner/name", "large.bin", None, lambda fraction: None)
        assert hub.asked == [there]
        assert path.read_bytes() == CONTENT
        assert loaded(blobs) == [hub.digest]
        assert path == local_file("owner/name", "large.bin", None)
        assert path == Path(hf_hub_download("owner/name", "large.bin"))
        assert hub.asked == [there]

    def test_a_file_of_the_cache_is_copied_to_the_folder(self, hub, tmp_path, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        download("owner/name", "large.bin", None)
        hub.asked.clear()
        path = download("owner/name", "large.bin", tmp_path / "models")
        assert path == tmp_path / "models" / "large.bin"
        assert path.read_bytes() == CONTENT
        assert hub.asked == []

    def test_a_full_disk_is_told_before(self, hub, tmp_path, monkeypatch):
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
        with pytest.raises(MissingFileError, match=r"OSError: 0\.003 GB are needed .* 0\.001 are free"):
            hub_download("owner/name", "large.bin", tmp_path)
        assert hub.asked == []

    def test_a_line_a_second_for_the_user(self, hub, tmp_path, monkeypatch):
        monkeypatch.setattr(measuring, "TELL_SECONDS", 0.1)
        hub.pause, lines = 0.02, []
        download("owner/name", "large.bin", tmp_path, lambda fraction: None, lines.append)
        assert len(lines) > 1
        assert "MB/s" in lines[0]
        assert lines[-1] == "large.bin is downloaded"

    def test_a_line_that_is_cut_for_good_is_told_and_its_part_stays(self, hub, tmp_path, monkeypatch):
        def http_get(url: str, file: object, **_: object) -> None:
            file.write(CONTENT[:1000])
            raise type("ReadError", (Exception,), {"__module__": "httpx"})("cut")

        monkeypatch.setattr("huggingface_hub.file_download.http_get", http_get)
        with pytest.raises(MissingFileError, match=r"large\.bin: could not be downloaded .*ReadError: cut"):
            hub_download("owner/name", "large.bin", tmp_path)
        (partial,) = tmp_path.glob("*.partial")
        assert partial.read_bytes() == CONTENT[:1000]

    def test_what_plain_requests_do_not_give_comes_by_the_library(self, hub, tmp_path, monkeypatch):
        def http_get(*_: object, **__: object) -> None:
            raise ValueError("The file is too large to be downloaded using the regular download method.")

        with monkeypatch.context() as patch:
            patch.setattr("huggingface_hub.file_download.http_get", http_get)
            with pytest.raises(ValueError, match="too large"):
                download("owner/name", "large.bin", tmp_path)
        monkeypatch.setattr(module, "fetch", http_get)
        assert download("owner/name", "large.bin", tmp_path).read_bytes() == CONTENT


class TestMeter:
    @pytest.fixture
    def clock(self, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(measuring.time, "monotonic", lambda: now[0])
        return now

    def test_it_counts_on_at_the_measured_speed_up_to_the_next_report(self, clock):
        meter = Meter("a", 10 * measuring.CHUNK)
        clock[0] += 10
        meter.add(measuring.CHUNK)
        assert meter.fraction() == pytest.approx(0.1)
        clock[0] += 5
        assert meter.fraction() == pytest.approx(0.15)
        clock[0] += 500
        assert meter.fraction() == pytest.approx(0.2)
        meter.add(measuring.CHUNK)
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
