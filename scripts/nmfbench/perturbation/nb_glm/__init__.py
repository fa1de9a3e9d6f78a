"""The low-rank negative binomial GLM of perturbation screens.

For a cell of size factor ``s`` with target ``p`` in phase ``c``:

    log mu = log mu_control + log s + Delta_p + cycle_c ,     y ~ NB(mu, theta)
    Delta_p = link( bias + f_G(G) K f_P(P_p)' ) + on_target * [gene is the target]

``G`` and ``P`` are given vectors of genes and targets. With linear maps and the identity as link the
model is convex and fitted by L-BFGS to sums of groups of cells (:mod:`.bilinear`); otherwise by AdamW
(:mod:`.network`, :mod:`.descent`).
"""
