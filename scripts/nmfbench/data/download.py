"""Download a file once, whole and verified, and go on where a broken download stopped."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO
from urllib.parse import quote

from nmfbench.data.writer import disk_errors
from nmfbench.errors import InputError

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"  # in place of a checksum that nobody has published
CHUNK = 1 << 16  # bytes; what came of the one that a break falls into is lost
TIMEOUTS = (30.0, 60.0)  # seconds to connect, and to wait for the next bytes
LOG_EVERY = 30.0  # seconds


def fetch(
    url: str,
    sha256: str,
    path: str | Path,
    size: int | None = None,
    *,
    attempts: int = 4,
    pause: float = 2.0,
    terminal: TextIO | None = None,
) -> None:
    """Download `url` to `path` with :func:`pooch.retrieve`.

    The bytes collect in ``.{name}.part`` beside `path`; after a break the part stays and the next call
    asks the server for the rest. `path` appears when the file is whole and its checksum is right. A
    file that is already there with the right checksum is kept.

    Parameters
    ----------
    url
        An http or https address, or s3 of a public bucket (``s3://bucket/key``).
    sha256
        Checksum of the whole file, 64 hexadecimal digits. ``unknown`` checks nothing and logs it.
    path
        Where to put it.
    size
        Its length in bytes, when known: a changed file is then noticed before it is downloaded.
    attempts
        Tries in a row that bring nothing new before giving up.
    pause
        Seconds before the second try; longer before each further one.
    terminal
        Where a progress bar is drawn; standard error when that is a terminal, else nowhere.

    Raises
    ------
    InputError
        The address answers with an error, the connection breaks for good, the length or the checksum
        is wrong, or the disk is full.
    """
    import pooch

    path, url = Path(path), https_of(url)
    if not url.startswith(("http://", "https://")):
        raise InputError(
            f"{url}", "an http, https or s3 address", "something else", "mend datasets.<name>.url"
        )
    known = sha256 != UNKNOWN
    if known and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InputError(
            f"{url}: sha256", "64 hexadecimal digits", repr(sha256), "mend datasets.<name>.sha256"
        )
    downloader = ResumingDownloader(_part_of(path), size, attempts=attempts, pause=pause, terminal=terminal)
    try:
        with disk_errors(path, left="the part that came is kept and the next run goes on from it"):
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256.lower()}" if known else None,
                fname=path.name,
                path=path.absolute().parent,
                downloader=downloader,
            )
    except InputError:
        raise
    except ValueError as error:  # pooch found another checksum and has removed its file
        downloader.part.unlink(missing_ok=True)
        found = re.search(r"but got ['\"]?(?:sha256:)?([0-9a-f]{64})", str(error))
        raise InputError(
            f"{url} -> {path}",
            f"sha256 {sha256}",
            f"sha256 {found.group(1)}" if found else str(error),
            "the file at this address has changed or was damaged on the way (it was removed): run again; "
            "if the sum is the same then, compare with the publisher's and mend datasets.<name>.sha256",
        ) from error
    downloader.part.unlink(missing_ok=True)
    if not known:
        logger.warning("%s was not checked: its sha256 is %s; write it into the config", path, _sha256(path))


def https_of(url: str) -> str:
    """The address by which a public bucket gives a file away, for ``s3://bucket/key``; others as they are."""
    if not url.startswith("s3://"):
        return url
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return f"https://{bucket}.s3.amazonaws.com/{quote(key)}"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _part_of(path: Path) -> Path:
    return path.absolute().with_name(f".{path.name}.part")


class ResumingDownloader:
    """A downloader for pooch that keeps what came and asks for the rest.

    Parameters
    ----------
    part
        File in which the bytes collect.
    size
        Length the whole must have, or None.
    attempts, pause, terminal
        See :func:`fetch`.
    """

    def __init__(
        self, part: Path, size: int | None, *, attempts: int, pause: float, terminal: TextIO | None
    ) -> None:
        if part.is_symlink():
            part.unlink()  # never written through
        self.part = part
        self.size = size
        self.attempts = attempts
        self.pause = pause
        self.terminal = terminal or (sys.stderr if sys.stderr.isatty() else None)

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Fill the part file, then give it to pooch under the name `output_file`."""
        import requests

        failures, most = 0, self._have()
        while not self._is_whole():
            try:
                self._request(url)
                break
            except requests.exceptions.RequestException as error:
                failures = 0 if self._have() > most else failures + 1
                most = max(most, self._have())
                if failures >= self.attempts or not _may_pass(error):
                    raise self._broken(url, error) from error
                logger.warning("%s broke off after %d bytes (%s); trying again", url, self._have(), error)
                time.sleep(self.pause * max(failures, 1))
        self._check_size(url, self._have(), when="after the download")
        # A second name, so that a job killed while 20 GB are being checked has not lost them.
        os.unlink(output_file)
        try:
            os.link(self.part, output_file)
        except OSError:  # a file system without hard links
            os.replace(self.part, output_file)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _is_whole(self) -> bool:
        return self.size is not None and self._have() == self.size

    def _request(self, url: str) -> None:
        """One request for what is missing."""
        import requests

        have = self._have()
        # Compressed transfer would make the byte numbers of Range meaningless.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                if response.headers.get("Content-Range", "").removeprefix("bytes */") == str(have):
                    return
                self.part.unlink(missing_ok=True)
                raise requests.exceptions.ConnectionError("the part on disk does not fit the file")
            response.raise_for_status()
            start = _start_of(response)
            if start != have:
                logger.info("%s sends the file from byte %d, not %d", url, start, have)
                have = 0
            total = _total_of(response, start)
            if total is not None:
                self._check_size(url, total, when="announced by the server")
                self._check_room(url, total - have)
            with self.part.open("ab" if have else "wb") as stream:
                self._copy(response, stream, have, total)

    def _copy(self, response: requests.Response, stream: BinaryIO, have: int, total: int | None) -> None:
        """Pass the body on, with a bar on a terminal and a line now and then in a log."""
        from tqdm.std import tqdm

        due = time.monotonic() + LOG_EVERY
        hidden = self.terminal is None
        with tqdm(
            total=total, initial=have, unit="B", unit_scale=True, file=self.terminal, disable=hidden
        ) as bar:
            for chunk in response.iter_content(CHUNK):
                stream.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
                if time.monotonic() > due:
                    logger.info("%d of %s bytes", have, total or "unknown")
                    due += LOG_EVERY

    def _check_size(self, url: str, found: int, *, when: str) -> None:
        if self.size is not None and found != self.size:
            self.part.unlink(missing_ok=True)
            raise InputError(
                f"{url}",
                f"{self.size} bytes",
                f"{found} bytes {when}",
                "the file at this address has changed: take its new size and sha256 from the publisher "
                "(datasets.<name>.size, sha256), or the address of the old version",
            )

    def _check_room(self, url: str, needed: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if free < needed:
            raise InputError(
                f"{self.part.parent}",
                f"room for {needed / 1e9:.1f} GB of {url}",
                f"{free / 1e9:.1f} GB free",
                "free some space or run in a folder on a larger disk",
            )

    def _broken(self, url: str, error: requests.exceptions.RequestException) -> InputError:
        response = getattr(error, "response", None)
        have = self._have()
        if response is not None:
            return InputError(
                f"{url}",
                "a file to download",
                f"the answer {response.status_code} {response.reason}",
                "check datasets.<name>.url in a browser; publishers give a new address to each version",
            )
        kept = f"; {have} bytes are kept in {self.part.name}" if have else ""
        expected = f"{self.size} bytes" if self.size is not None else "the whole file"
        return InputError(
            f"{url}",
            expected,
            f"a connection that failed or broke off ({type(error).__name__}: {error}){kept}",
            "run again to go on from there; without internet, download the file elsewhere and give its "
            "place as datasets.<name>.path",
        )


def _may_pass(error: requests.exceptions.RequestException) -> bool:
    """Whether trying again makes sense: broken lines and overloaded servers, not a wrong address."""
    response = getattr(error, "response", None)
    return response is None or response.status_code >= 500 or response.status_code == 429


def _start_of(response: requests.Response) -> int:
    """First byte the answer holds; 0 from servers that ignore Range."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found.group(1)) if found and response.status_code == 206 else 0


def _total_of(response: requests.Response, start: int) -> int | None:
    """Length of the whole file, if the server says it."""
    with suppress(KeyError, ValueError):
        return start + int(response.headers["Content-Length"])
    return None
