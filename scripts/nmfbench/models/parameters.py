"""The part of the estimators' docstrings that the autoencoders share."""

from __future__ import annotations

SHARED_PARAMETERS = """Parameters
    ----------
    n_components : int, default=80
        Number of factors k.
    solver : {"auto", "statistics", "minibatch"}, default="auto"
        ``statistics``: all cells at once, by coordinate descent (docs/solvers.md). ``minibatch``: Adam.
        ``auto``: what :mod:`nmfbench.models.autoencoder.solver_choice` estimates to be sooner at the same
        objective; ``minibatch`` with `row_norm` or ``init="uniform"``, which only it has.
    max_sweeps : int, default=500
        Sweeps over the genes, at most (statistics).
    solver_tol : float, default=1e-5
        Three sweeps in a row that lower the objective by less than this share end the fit (statistics).
    gram_memory_mb : float, default=6144
        Memory for Gram matrices, in MiB; where they need more, the nonzeros are used (statistics).
    max_epochs : int, default=100
        Passes over the cells, at most. This and all that follows, up to `tol`, is for ``minibatch`` alone,
        except the penalties and `init`.
    batch_size : int, default=512
        Cells in a minibatch, at most.
    learning_rate_W, learning_rate_U : float
        Adam's learning rates.
    learning_rate_schedule : {"constant", "cosine"}
        ``cosine``: the learning rates fall to zero along a half cosine over `max_epochs`.
    penalty_W, penalty_U : float
        Weights of the squared norms (lambda_W, lambda_U).
    row_norm : bool
        Bring the rows of W to unit norm after each step.
    init : {"nndsvd", "random", "uniform"}
        Start of W, see :func:`nmfbench.models.start.start_loadings`; ``uniform`` is the published one.
    batches : {"proportional", "round_robin", "random"} (and "by_condition", model 2)
        How minibatches are drawn, see :class:`nmfbench.rows.batches.Sampler`. The first two follow
        `strata` and are ``random`` without them.
    patience : int, default=6
        Epochs without a better objective after which training ends.
    tol : float, default=1e-6
        Better means lower by more than this share.
    random_state : int, RandomState, Generator or None
    device : {"auto", "cpu", "cuda", "mps"}, default="auto"
    verbose : int, default=0
        Above 0: a progress bar, whether or not stderr is a terminal."""
