"""Small h5ad files, good and bad, for the tests of the data layer."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

N_CELLS, N_GENES = 60, 20


def make_counts(n_cells: int = N_CELLS, n_genes: int = N_GENES, seed: int = 0) -> np.ndarray:
    """Dense whole numbers, float32, about half of them zero, no cell or gene all zero."""
    counts = np.random.default_rng(seed).poisson(0.8, (n_cells, n_genes)).astype(np.float32)
    counts[:, 0] += 1
    counts[0, :] += 1
    return counts


def make_obs(n_cells: int = N_CELLS) -> pd.DataFrame:
    """Two cell types; donors A (half of the cells), B (a third) and C (a sixth)."""
    donors = np.array(["A", "B", "A", "C", "A", "B"])[np.arange(n_cells) % 6]
    types = np.array(["B cell", "CD4-positive, alpha-beta T cell"])[np.arange(n_cells) % 2]
    index = [f"cell{number}" for number in range(n_cells)]
    return pd.DataFrame({"cell_type": pd.Categorical(types), "donor_id": pd.Categorical(donors)}, index=index)


def make_var(n_genes: int = N_GENES) -> pd.DataFrame:
    """Genes with an Ensembl-like index and a symbol."""
    symbols = [f"GENE{number}" for number in range(n_genes)]
    return pd.DataFrame({"feature_name": symbols}, index=[f"ENSG{number:011d}" for number in range(n_genes)])


def write(
    path: Path,
    X: Any = None,
    obs: pd.DataFrame | None = None,
    var: pd.DataFrame | None = None,
    raw: Any = None,
    layers: dict[str, Any] | None = None,
) -> Path:
    """Write an h5ad file; what is not given is made."""
    X = sparse.csr_matrix(make_counts()) if X is None else X
    obs = make_obs(X.shape[0]) if obs is None else obs
    var = make_var(X.shape[1]) if var is None else var
    adata = anndata.AnnData(X, obs=obs, var=var, layers=layers or {})
    if raw is not None:
        adata.raw = anndata.AnnData(raw, obs=obs, var=var)
    adata.write_h5ad(path)
    return path


def log_normalised(counts: np.ndarray) -> sparse.csr_matrix:
    """What a CELLxGENE file has in X: log1p of counts per 10,000."""
    return sparse.csr_matrix(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4))


class FileServer(http.server.BaseHTTPRequestHandler):
    """Serves one body, in the ways servers do it well and badly.

    Attributes
    ----------
    breaks : int
        Number of answers that end half-way through what is left.
    longest : int or None
        Bytes after which every answer breaks off.
    ranges : bool
        Whether Range is understood.
    status : int
        Status of every answer, if not 200.
    requests : list of (str or None)
        The Range header of each request.
    """

    body = b""
    breaks = 0
    longest: int | None = None
    ranges = True
    status = 200
    requests: list[str | None]

    def do_GET(self) -> None:
        """Answer a request."""
        settings = self.server.settings
        asked = self.headers.get("Range")
        settings["requests"].append(asked)
        if settings["status"] != 200:
            self.send_error(settings["status"])
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and settings["ranges"] else 0
        body = settings["body"]
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        left = body[start:]
        if settings["breaks"] > 0:
            settings["breaks"] -= 1
            left = left[: len(left) // 2]
        left = left[: settings["longest"]]
        self.wfile.write(left)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serve(body: bytes, **settings: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """A server on 127.0.0.1; gives its address and the settings, which may be changed meanwhile."""
    settings = {
        "body": body,
        "breaks": 0,
        "longest": None,
        "ranges": True,
        "status": 200,
        "requests": [],
    } | settings
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FileServer)
    server.settings = settings
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/atlas.h5ad", settings
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
