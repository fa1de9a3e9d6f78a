"""Metrics of predicted profiles and of predicted DE genes, one value for each target."""

from __future__ import annotations

import numpy as np


def mean_absolute_error(predicted: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Mean over the genes of |predicted - real|, shape (targets,)."""
    return np.abs(predicted - real).mean(axis=1)


def pearson(predicted: np.ndarray, real: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
    """Pearson correlation over the genes of each row; 0 where a side does not vary.

    Parameters
    ----------
    predicted, real : ndarray of shape (targets, genes)
        Changes from a reference.
    kept : ndarray of shape (targets, genes), optional
        Genes that count.
    """
    weight = np.ones(predicted.shape) if kept is None else kept.astype(float)
    n = np.maximum(weight.sum(axis=1, keepdims=True), 1)
    x = (predicted - (weight * predicted).sum(axis=1, keepdims=True) / n) * weight
    y = (real - (weight * real).sum(axis=1, keepdims=True) / n) * weight
    spread = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    # what is left of a constant by rounding is no variation
    flat = (np.abs(x).max(axis=1) < 1e-10) | (np.abs(y).max(axis=1) < 1e-10)
    return np.where(flat, 0.0, (x * y).sum(axis=1) / np.where(spread > 0, spread, 1.0))


def distances(predicted: np.ndarray, real: np.ndarray, own_gene: np.ndarray, kind: str = "l1") -> np.ndarray:
    """Distance of each prediction to every real profile, the prediction's own target left out.

    Parameters
    ----------
    predicted, real : ndarray of shape (targets, genes)
    own_gene : ndarray of shape (targets,)
        Number of the gene that is the target; -1: none is left out.
    kind : {"l1", "cosine"}

    Returns
    -------
    ndarray of shape (targets, targets)
        Predictions in rows.
    """
    result = np.empty((len(predicted), len(real)))
    for row, (profile, gene) in enumerate(zip(predicted, own_gene, strict=True)):
        if kind == "l1":
            result[row] = np.abs(real - profile).sum(axis=1)
            if gene >= 0:
                result[row] -= np.abs(real[:, gene] - profile[gene])
            continue
        kept = np.ones(len(profile), dtype=bool)
        if gene >= 0:
            kept[gene] = False
        lengths = np.linalg.norm(real[:, kept], axis=1) * np.linalg.norm(profile[kept])
        result[row] = 1 - real[:, kept] @ profile[kept] / np.where(lengths > 0, lengths, 1.0)
        result[row, lengths == 0] = 1.0
    return result


def discrimination(distance: np.ndarray, ties: str = "middle") -> np.ndarray:
    """Perturbation discrimination score of each target: how many real profiles are nearer than its own.

    Parameters
    ----------
    distance : ndarray of shape (targets, targets)
    ties : {"middle", "strict", "position"}
        ``middle``: ``1 - (#closer + #ties / 2) / (N - 1)``, 0.5 for a prediction that knows nothing.
        ``strict``: ``1 - #closer / N``. ``position``: ``1 - rank / N`` with ties in the order of the
        targets.
    """
    n = len(distance)
    own = np.diag(distance)[:, None]
    # distances are sums over genes: what differs by rounding is equal
    equal = np.isclose(distance, own, rtol=1e-10, atol=1e-12)
    closer = ((distance < own) & ~equal).sum(axis=1)
    others = equal.sum(axis=1) - 1
    if ties == "middle":
        return 1 - (closer + others / 2) / max(n - 1, 1)
    if ties == "strict":
        return 1 - closer / n
    earlier = (equal & (np.arange(n)[None, :] < np.arange(n)[:, None])).sum(axis=1)
    return 1 - (closer + earlier) / n


def precision_at_n(real: np.ndarray, predicted: np.ndarray, real_change: np.ndarray) -> np.ndarray:
    """cell-eval's precision: of more real DE genes than predicted ones only the largest count; 0 for none."""
    found = np.zeros(len(real))
    for row, (mine, theirs, fold) in enumerate(zip(real, predicted, real_change, strict=True)):
        n_predicted = int(theirs.sum())
        if n_predicted:
            found[row] = theirs[_largest(mine, fold, n_predicted)].sum() / n_predicted
    return found


def _largest(mask: np.ndarray, change: np.ndarray, n: int) -> np.ndarray:
    """Numbers of at most `n` genes of a mask, those of largest change; ties in the order of the genes."""
    kept = np.flatnonzero(mask)
    return kept[np.argsort(-np.abs(change[kept]), kind="stable")[:n]] if len(kept) > n else kept


def overlap(
    real: np.ndarray, predicted: np.ndarray, change: np.ndarray, when_none: float
) -> dict[str, np.ndarray]:
    """Agreement of real and predicted DE genes, each value of shape (targets,).

    Parameters
    ----------
    real, predicted : ndarray of shape (targets, genes)
        Masks of the DE genes.
    change : ndarray of shape (targets, genes)
        Predicted log2 fold changes: of more predicted genes than real ones, the largest are kept.
    when_none : float
        DES of a target without a real DE gene; nan leaves it out.
    """
    rows = []
    for mine, theirs, fold in zip(real, predicted, change, strict=True):
        n_real, n_predicted = int(mine.sum()), int(theirs.sum())
        kept = _largest(theirs, fold, n_real)
        both = int((mine & theirs).sum())
        union = n_real + n_predicted - both
        rows.append(
            (
                mine[kept].sum() / n_real if n_real else when_none,
                both / n_predicted if n_predicted else np.nan,
                both / n_real if n_real else np.nan,
                both / union if union else np.nan,
                n_real,
                n_predicted,
            )
        )
    names = ("DES", "DE_precision", "DE_recall", "DE_jaccard", "n_DE_real", "n_DE_predicted")
    columns = np.array(rows, dtype=float).reshape(-1, len(names)).T
    return dict(zip(names, columns, strict=True))


def direction(real: np.ndarray, real_change: np.ndarray, predicted_change: np.ndarray) -> np.ndarray:
    """Share of the real DE genes whose predicted change has the right sign; nan without a DE gene."""
    right = (np.sign(real_change) == np.sign(predicted_change)) & real
    n = real.sum(axis=1)
    return np.divide(right.sum(axis=1), n, out=np.full(len(real), np.nan), where=n > 0)


def top_genes(change: np.ndarray, n: int = 20) -> np.ndarray:
    """Mask of the `n` genes of largest real change of each target."""
    order = np.argsort(-np.abs(change), axis=1, kind="stable")[:, :n]
    mask = np.zeros(change.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask


def log_likelihood(
    log_rate: np.ndarray, theta: np.ndarray, counts: np.ndarray, size: np.ndarray, size_squared: np.ndarray
) -> np.ndarray:
    """Mean over the genes of the log-likelihood of the sums of the real cells, shape (targets,).

    A sum of negative binomial cells of size factors s is one of mean ``S mu`` and size
    ``theta S^2 / sum s^2``, by its first two moments.
    """
    from scipy.special import gammaln

    r = theta * (size**2 / size_squared)[:, None]
    log_mu = log_rate + np.log(size)[:, None]
    log_both = np.logaddexp(log_mu, np.log(r))
    terms = gammaln(counts + r) - gammaln(r) - gammaln(counts + 1)
    return (terms + counts * (log_mu - log_both) + r * (np.log(r) - log_both)).mean(axis=1)


def spearman_brown(value: np.ndarray | float) -> np.ndarray | float:
    """What a score between two halves is expected to be between two wholes."""
    return 2 * value / (1 + value)
