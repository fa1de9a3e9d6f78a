"""Functions on fitted models and on their parts: factors, uncertainty, loadings, inference of either side.

Everything is cells first, as NumPy arrays, or as detached tensors with ``return_tensor=True``. A model that
is not fitted is refused with scikit-learn's ``NotFittedError`` (a ``ValueError``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils.validation import check_array, check_is_fitted

from nmfbench.errors import InputError
from nmfbench.linalg import as_sorted_csr
from nmfbench.models.limits import one_of, real, seed_from
from nmfbench.models.pnmf.counts import Counts, counts_of, device_of
from nmfbench.models.pnmf.draws import generator
from nmfbench.models.pnmf.infer import infer_posterior
from nmfbench.models.pnmf.likelihood import MODES
from nmfbench.models.pnmf.prior import GaussianPrior, LatentPrior
from nmfbench.models.pnmf.start import poisson_update

if TYPE_CHECKING:
    from nmfbench.models.pnmf.estimator import PNMF


def log_factors(model: PNMF, coordinates: Any = None, groups: Any = None, *, return_tensor: bool = False):
    """Posterior means mu of the factors' logarithms, of shape (n, k).

    Parameters
    ----------
    model : PNMF
        Fitted.
    coordinates, groups
        Where to predict, for a spatial prior; the Gaussian one has the training cells alone.
    return_tensor : bool, default=False

    Examples
    --------
    >>> import numpy as np
    >>> from nmfbench.models import PNMF
    >>> X = np.random.default_rng(0).poisson(2.0, (30, 12))
    >>> model = PNMF(2, mode="lower-bound", max_iter=20, random_state=0).fit(X)
    >>> log_factors(model).shape
    (30, 2)
    >>> bool(np.allclose(get_factors(model), np.exp(log_factors(model))))
    True
    """
    return _give(_marginals(model, coordinates, groups)[0], return_tensor)


def get_factors(
    model: PNMF,
    use_mgf: bool = False,
    coordinates: Any = None,
    groups: Any = None,
    *,
    return_tensor: bool = False,
):
    """Factors ``exp(mu)``, the medians; with `use_mgf` their means ``exp(mu + sigma²/2)``; (n, k).

    Also under the name ``factors``.
    """
    mu, sigma = _marginals(model, coordinates, groups)
    return _give(_factors(mu, sigma, use_mgf), return_tensor)


factors = get_factors


def factor_uncertainty(
    model: PNMF,
    return_variance: bool = False,
    coordinates: Any = None,
    groups: Any = None,
    *,
    return_tensor: bool = False,
):
    """Standard deviations sigma of the factors' logarithms, or their squares; (n, k)."""
    sigma = _marginals(model, coordinates, groups)[1]
    return _give(sigma.square() if return_variance else sigma, return_tensor)


def factor_samples(
    model: PNMF,
    n_samples: int = 100,
    return_exp: bool = False,
    coordinates: Any = None,
    groups: Any = None,
    *,
    random_state: Any = None,
    return_tensor: bool = False,
):
    """Draws of the factors' logarithms (with `return_exp`, of the factors), of shape (n_samples, n, k).

    Examples
    --------
    >>> import numpy as np
    >>> from nmfbench.models import PNMF
    >>> X = np.random.default_rng(0).poisson(2.0, (30, 12))
    >>> model = PNMF(2, mode="lower-bound", max_iter=20, random_state=0).fit(X)
    >>> draws = factor_samples(model, n_samples=500, random_state=0)
    >>> draws.shape
    (500, 30, 2)
    >>> bool(np.allclose(draws.std(axis=0), factor_uncertainty(model), rtol=0.3))
    True
    """
    if not real(1, whole=True).admits(n_samples):
        raise InputError("factor_samples: n_samples", "a whole number from 1", repr(n_samples), "change it")
    mu, sigma = _marginals(model, coordinates, groups)
    source = generator(seed_from(random_state), device=mu.device)
    draws = torch.randn((n_samples, *mu.shape), generator=source, dtype=mu.dtype, device=mu.device)
    draws = draws.mul_(sigma).add_(mu)
    return _give(draws.exp_() if return_exp else draws, return_tensor)


def get_loadings(model: PNMF, *, return_tensor: bool = False):
    """Loadings W, of shape (d, k)."""
    check_is_fitted(model)
    return _give(torch.from_numpy(np.ascontiguousarray(model.components_.T)), return_tensor)


def get_prior(model: PNMF) -> LatentPrior:
    """The prior object that holds the posterior q."""
    check_is_fitted(model)
    return model.prior_


def log_factors_from_prior(prior: LatentPrior, *, return_tensor: bool = False):
    """mu of a prior object, of shape (n, k)."""
    return _give(_of(prior)[0], return_tensor)


def factors_from_prior(prior: LatentPrior, use_mgf: bool = True, *, return_tensor: bool = False):
    """Means ``exp(mu + sigma²/2)`` of a prior object's factors, or medians ``exp(mu)``; (n, k).

    The means are the default here, the medians in :func:`get_factors`, as in the reference.
    """
    return _give(_factors(*_of(prior), use_mgf), return_tensor)


def uncertainty_from_prior(prior: LatentPrior, return_variance: bool = False, *, return_tensor: bool = False):
    """sigma (or its square) of a prior object, of shape (n, k)."""
    sigma = _of(prior)[1]
    return _give(sigma.square() if return_variance else sigma, return_tensor)


def transform_F(
    X,
    W,
    n_components: int | None = None,
    mode: str = "expanded",
    E: int = 3,
    max_iter: int = 200,
    tol: float = 1e-6,
    learning_rate: float = 0.02,
    verbose: bool = False,
    device: str = "auto",
    return_prior: bool = False,
    *,
    random_state: Any = 0,
    return_tensor: bool = False,
):
    """The posterior of new cells' factors for fixed loadings.

    Coordinate ascent on the lower bound; in the other modes then `max_iter` steps of Adam on their own
    objective. The problem of a cell is concave in the first part, and its own.

    Parameters
    ----------
    X : CSR, CSC, dense or AnnData, of shape (n, d)
    W : array of shape (d, k)
    n_components : int or None
        Checked against W.
    mode : {"expanded", "simple", "lower-bound"}
    E : int
        Draws of a step of Adam.
    max_iter : int
        Sweeps at most, and steps of Adam.
    tol : float
        A cell is done once no mu of it moves by more.
    learning_rate : float
        Of Adam.
    verbose : bool
        Not used: it takes moments.
    return_prior : bool, default=False
        The prior object in place of the mean factors.

    Returns
    -------
    ndarray of shape (n, k), Tensor or GaussianPrior

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> W = rng.gamma(0.5, 2.0, (40, 2))
    >>> H = np.exp(rng.normal(size=(25, 2)))
    >>> found = transform_F(rng.poisson(H @ W.T), W, mode="lower-bound")
    >>> bool(np.corrcoef(np.log(found).ravel(), np.log(H).ravel())[0, 1] > 0.9)
    True
    """
    _check("transform_F", mode=(mode, one_of(*MODES)), E=(E, real(1, whole=True)))
    _check_iterations("transform_F", max_iter, tol, learning_rate)
    counts = _counts("transform_F", X, device)
    W = _matrix("transform_F", "W", W, counts, 1)
    _check_components("transform_F", n_components, W)
    state = infer_posterior(
        counts, W, mode, seed_from(random_state),
        polish_steps=max_iter, max_iter=max_iter, tol=tol, n_draws=E, rate=learning_rate,
    )  # fmt: skip
    prior = GaussianPrior.of(state.mu, state.sigma)
    return prior if return_prior else _give(state.mean_factors(), return_tensor)


def transform_W(
    X,
    F,
    W_init=None,
    n_components: int | None = None,
    max_iter: int = 100,
    tol: float = 1e-6,
    verbose: bool = False,
    device: str = "auto",
    *,
    loss: str = "poisson",
    mean_factors=None,
    return_tensor: bool = False,
):
    """Loadings for fixed factors, by multiplicative updates.

    ``W ← W (X / F Wᵀ)ᵀ F / Σ_n F_n`` never lowers the Poisson likelihood. The least-squares rule of the
    reference is `loss` ``"frobenius"``.

    Parameters
    ----------
    X : CSR, CSC, dense or AnnData, of shape (n, d)
    F : array of shape (n, k)
        Factors, not their logarithms.
    W_init : array of shape (d, k) or None
        None: every gene's mean, shared out evenly.
    n_components : int or None
        Checked against F.
    max_iter, tol
        Steps at most; the relative change of W that ends them.
    verbose : bool
        Not used.
    loss : {"poisson", "frobenius"}
    mean_factors : array of shape (n, k) or None
        ``exp(mu + sigma²/2)`` where the factors are uncertain and F is ``exp(mu)``: the denominator's.

    Returns
    -------
    ndarray of shape (d, k) or Tensor

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> W, F = rng.gamma(0.5, 2.0, (15, 2)), np.exp(rng.normal(size=(400, 2)))
    >>> found = transform_W(rng.poisson(F @ W.T), F)
    >>> bool(np.corrcoef(found.ravel(), W.ravel())[0, 1] > 0.99)
    True
    """
    _check("transform_W", loss=(loss, one_of("poisson", "frobenius")))
    _check_iterations("transform_W", max_iter, tol)
    counts = _counts("transform_W", X, device)
    F = _matrix("transform_W", "F", F, counts, 0)
    _check_components("transform_W", n_components, F)
    mean = F if mean_factors is None else _matrix("transform_W", "mean_factors", mean_factors, counts, 0)
    if W_init is None:
        share = counts.gene_sums() / counts.shape[0] / F.shape[1]
        W = share[:, None] / F.mean(dim=0).clamp(min=1e-30)
    else:
        W = _matrix("transform_W", "W_init", W_init, counts, 1)
        if W.shape[1] != F.shape[1]:
            raise InputError(
                "transform_W: W_init", f"{F.shape[1]} columns, as F", f"{W.shape[1]}", "give them alike"
            )
    step = _least_squares_step(counts, F) if loss == "frobenius" else None
    for _ in range(max_iter):
        new = poisson_update(counts, W, F, mean, smallest=0.0) if step is None else step(W)
        moved = float((new - W).abs().max())
        W = new
        if moved <= tol * float(W.max()):
            break
    return _give(W, return_tensor)


def _marginals(model: PNMF, coordinates: Any, groups: Any) -> tuple[torch.Tensor, torch.Tensor]:
    check_is_fitted(model)
    with torch.no_grad():
        return model.predict_factors(coordinates, groups)


def _of(prior: LatentPrior) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return prior.marginals()


def _factors(mu: torch.Tensor, sigma: torch.Tensor, use_mgf: bool) -> torch.Tensor:
    return torch.exp(mu + sigma.square() / 2) if use_mgf else torch.exp(mu)


def _give(values: torch.Tensor, return_tensor: bool):
    values = values.detach()
    return values if return_tensor else values.cpu().numpy()


def _least_squares_step(counts: Counts, F: torch.Tensor):
    product = sum(block.transposed(block.x, F[block.rows]) for block in counts.blocks)
    gram = F.T @ F
    return lambda W: W * product / (W @ gram + 1e-8)


def _counts(name: str, X, device: str) -> Counts:
    X = check_array(
        counts_of(X),
        accept_sparse="csr",
        dtype=[np.float64, np.float32],
        ensure_non_negative=True,
        input_name="X",
        estimator=name,
    )
    return Counts(as_sorted_csr(X), device_of(device))


def _matrix(function: str, name: str, values, counts: Counts, axis: int) -> torch.Tensor:
    """A given factor as a tensor, of which the first axis is the cells' (0) or the genes' (1)."""
    values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
    values = check_array(values, dtype=np.float64, ensure_non_negative=True, input_name=name)
    if len(values) != counts.shape[axis]:
        what = ("cells", "genes")[axis]
        raise InputError(
            f"{function}: {name}",
            f"a row for each of the {counts.shape[axis]} {what} of X",
            f"shape {values.shape}",
            f"give {name} of shape ({what}, factors)",
        )
    return torch.from_numpy(values).to(counts.device, counts.dtype)


def _check_components(function: str, n_components: int | None, values: torch.Tensor) -> None:
    if n_components is not None and n_components != values.shape[1]:
        raise InputError(
            f"{function}: n_components",
            f"{values.shape[1]}, the given columns",
            f"{n_components}",
            "leave it out",
        )


def _check_iterations(function: str, max_iter, tol, rate=1.0) -> None:
    _check(
        function,
        max_iter=(max_iter, real(1, whole=True)),
        tol=(tol, real(0)),
        learning_rate=(rate, real(0, above=True)),
    )


def _check(function: str, **parameters) -> None:
    for name, (value, limit) in parameters.items():
        if not limit.admits(value):
            raise InputError(f"{function}: {name}", limit.text, repr(value), f"set {name} accordingly")
