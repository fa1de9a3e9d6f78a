"""The second task: predict the cells of genetic perturbations that were not seen.

A screen (control cells and cells with one target each) is split, a predictor is fitted to the
training cells, cells are drawn from it, and what was drawn is scored against the cells held out.

* :mod:`~nmfbench.perturbation.screen`, :mod:`~nmfbench.perturbation.splits`,
  :mod:`~nmfbench.perturbation.sums`: from filtered counts to sums of groups of cells.
* :mod:`~nmfbench.perturbation.embeddings`: vectors of genes and of targets.
* :mod:`~nmfbench.perturbation.predictors`: baselines and the low-rank NB-GLM.
* :mod:`~nmfbench.perturbation.sampling`: cells from predicted rates.
* :mod:`~nmfbench.perturbation.scoring`: the scorers.
"""
