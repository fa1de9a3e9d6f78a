"""Downloads from a local server that answers well and badly."""

from __future__ import annotations

import hashlib
import logging
import socket

import numpy as np
import pytest

from data_files import serve
from nmfbench.data import download, fetch
from nmfbench.errors import InputError

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small pieces, so that a break in the middle leaves something; a quiet pooch."""
    monkeypatch.setattr(download, "CHUNK", 10_000)
    logging.getLogger("pooch").setLevel("ERROR")


def test_download(tmp_path):
    path = tmp_path / "new" / "atlas.h5ad"
    with serve(BODY) as (url, _):
        fetch(url, SHA256, path, size=len(BODY))
    assert path.read_bytes() == BODY
    assert list(path.parent.iterdir()) == [path]


def test_nothing_to_do(tmp_path):
    path = tmp_path / "atlas.h5ad"
    path.write_bytes(BODY)
    with serve(BODY) as (url, settings):
        fetch(url, SHA256, path)
    assert settings["requests"] == []


def test_breaks_are_mended_at_once(tmp_path):
    with serve(BODY, breaks=3) as (url, settings):
        fetch(url, SHA256, tmp_path / "atlas.h5ad", attempts=2, pause=0)
    assert (tmp_path / "atlas.h5ad").read_bytes() == BODY
    starts = [int(asked.split("=")[1].rstrip("-")) for asked in settings["requests"][1:]]
    assert len(starts) == 3
    assert starts == sorted(set(starts))


def test_break_for_good_keeps_the_part(tmp_path):
    path = tmp_path / "atlas.h5ad"
    with serve(BODY, breaks=1) as (url, settings):
        with pytest.raises(InputError) as caught:
            fetch(url, SHA256, path, size=len(BODY), attempts=0, pause=0)
        assert url in caught.value.thing
        assert caught.value.expected == f"{len(BODY)} bytes"
        assert "are kept in .atlas.h5ad.part" in caught.value.got
        assert "run again" in caught.value.remedy
        part = tmp_path / ".atlas.h5ad.part"
        assert list(tmp_path.iterdir()) == [part]
        have = part.stat().st_size
        assert 0 < have < len(BODY)

        fetch(url, SHA256, path, size=len(BODY))
        assert settings["requests"][-1] == f"bytes={have}-"
    assert path.read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [path]


def test_server_without_ranges_starts_again(tmp_path):
    with serve(BODY, breaks=1, ranges=False) as (url, settings):
        fetch(url, SHA256, tmp_path / "atlas.h5ad", pause=0)
    assert (tmp_path / "atlas.h5ad").read_bytes() == BODY
    assert len(settings["requests"]) == 2


def test_server_that_always_breaks_off_ends(tmp_path):
    with (
        serve(BODY, breaks=1000, ranges=False) as (url, settings),
        pytest.raises(InputError, match="broke off"),
    ):
        fetch(url, SHA256, tmp_path / "atlas.h5ad", attempts=3, pause=0)
    assert len(settings["requests"]) == 4
    assert not (tmp_path / "atlas.h5ad").exists()


@pytest.mark.parametrize("size", [None, len(BODY)])
def test_killed_after_the_last_byte(tmp_path, size):
    (tmp_path / ".atlas.h5ad.part").write_bytes(BODY)
    with serve(BODY) as (url, settings):
        fetch(url, SHA256, tmp_path / "atlas.h5ad", size=size)
    assert (tmp_path / "atlas.h5ad").read_bytes() == BODY
    assert len(settings["requests"]) == (1 if size is None else 0)


def test_part_longer_than_the_file(tmp_path):
    (tmp_path / ".atlas.h5ad.part").write_bytes(BODY + b"more")
    with serve(BODY) as (url, _):
        fetch(url, SHA256, tmp_path / "atlas.h5ad", pause=0)
    assert (tmp_path / "atlas.h5ad").read_bytes() == BODY


@pytest.mark.parametrize("resumed", [False, True])
def test_wrong_checksum(tmp_path, resumed):
    if resumed:
        (tmp_path / ".atlas.h5ad.part").write_bytes(b"x" * 1000)
    wrong = SHA256 if resumed else "0" * 64
    with serve(BODY) as (url, _), pytest.raises(InputError) as caught:
        fetch(url, wrong, tmp_path / "atlas.h5ad")
    assert url in caught.value.thing
    assert wrong in caught.value.expected
    assert (caught.value.got == f"sha256 {SHA256}") != resumed
    assert "sha256" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_wrong_checksum_keeps_the_old_file(tmp_path):
    path = tmp_path / "atlas.h5ad"
    path.write_bytes(b"old")
    with serve(BODY) as (url, _), pytest.raises(InputError):
        fetch(url, "0" * 64, path)
    assert path.read_bytes() == b"old"


def test_wrong_length(tmp_path):
    with serve(BODY) as (url, settings), pytest.raises(InputError) as caught:
        fetch(url, SHA256, tmp_path / "atlas.h5ad", size=17)
    assert caught.value.expected == "17 bytes"
    assert f"{len(BODY)} bytes" in caught.value.got
    assert "size" in caught.value.remedy
    assert len(settings["requests"]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 2)])
def test_status(tmp_path, status, requests):
    with serve(BODY, status=status) as (url, settings), pytest.raises(InputError) as caught:
        fetch(url, SHA256, tmp_path / "atlas.h5ad", attempts=2, pause=0)
    assert url in caught.value.thing
    assert str(status) in caught.value.got
    assert "datasets.<name>.url" in caught.value.remedy
    assert len(settings["requests"]) == requests
    assert list(tmp_path.iterdir()) == []


def test_no_server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/atlas.h5ad"
        with pytest.raises(InputError) as caught:
            fetch(url, SHA256, tmp_path / "atlas.h5ad", attempts=1, pause=0)
    assert "datasets.<name>.path" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_too_little_room(tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: download.shutil._ntuple_diskusage(9, 9, 0))
    with serve(BODY) as (url, _), pytest.raises(InputError, match="larger disk"):
        fetch(url, SHA256, tmp_path / "atlas.h5ad")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "sha256", "word"), [("ftp://x/y", SHA256, "url"), ("http://x/y", "abc", "sha256")]
)
def test_settings_that_cannot_work(tmp_path, url, sha256, word):
    with pytest.raises(InputError) as caught:
        fetch(url, sha256, tmp_path / "atlas.h5ad")
    assert f"datasets.<name>.{word}" in caught.value.remedy


@pytest.mark.parametrize("longest", [1_000_000, 70_000])
def test_a_line_that_breaks_again_and_again_costs_64_kib_each_time_and_ends(tmp_path, monkeypatch, longest):
    monkeypatch.undo()  # the pieces that users have
    assert download.CHUNK == 65536
    body = np.random.default_rng(0).bytes(3 * longest + 12_345)
    path = tmp_path / "atlas.h5ad"
    with serve(body, longest=longest) as (url, settings):
        fetch(url, hashlib.sha256(body).hexdigest(), path, attempts=1, pause=0)
    assert path.read_bytes() == body
    starts = [0, *(int(asked.split("=")[1].rstrip("-")) for asked in settings["requests"][1:])]
    lost = longest - np.diff(starts)
    assert lost.min() >= 0
    assert lost.max() < 65536
    assert len(starts) <= 1 + len(body) // (longest - 65535)


def test_a_line_that_never_brings_a_whole_piece_ends(tmp_path, monkeypatch):
    monkeypatch.undo()
    with serve(BODY, longest=50_000) as (url, settings), pytest.raises(InputError, match="broke off"):
        fetch(url, SHA256, tmp_path / "atlas.h5ad", attempts=3, pause=0)
    assert len(settings["requests"]) == 3
