"""Names under which a fit is kept, and what its attributes hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nmfbench.errors import InputError
from nmfbench.models.nb_hierarchical.kept import Kept
from nmfbench.models.nb_hierarchical.means import Means
from nmfbench.models.nb_hierarchical.posterior import Posterior
from nmfbench.models.nb_hierarchical.trace import summary_table, write_trace

EMBEDDING = "X_nbh"
SAID = ("preset", "engine", "priors", "dispersion", "param", "start")


class Results(Kept):
    """Attributes, published keys, and the files beside a result."""

    @property
    def embedding_key_(self) -> str:
        """The key of :meth:`embeddings` that is scored."""
        check_is_fitted(self)
        return EMBEDDING

    def embeddings(self) -> dict[str, np.ndarray]:
        """Arrays for obsm: the residuals' embedding (signed), and the cell effect as one column."""
        check_is_fitted(self)
        return {EMBEDDING: self.embedding_, "X_nbh_cell_effect": self.cell_effect_[:, None]}

    def loadings(self) -> dict[str, np.ndarray]:
        """Arrays for varm: loadings of the residuals (signed), and the covariates' effects."""
        check_is_fitted(self)
        found = {f"{EMBEDDING}_loadings": np.ascontiguousarray(self.components_.T)}
        if self.effects_:
            mean, sd = self.posterior_.effects().effect
            for key, values in (("nbh_covariate_mean", mean), ("nbh_covariate_sd", sd)):
                found[key] = np.zeros((self.n_features_in_, len(self.effects_)))
                found[key][self.genes_] = values.T
        return found

    def expected_values(self, X, rows: slice) -> np.ndarray:
        """Counts of mean ``alpha_g exp(t_i + c_g)``; see :meth:`Embedding.expected_values`.

        0 for genes that were not fitted, as those without a count are not.
        """
        check_is_fitted(self)
        sides = self.means_.c[self.group_[rows]] + self.means_.log_alpha
        found = np.zeros((len(sides), self.n_features_in_))
        found[:, self.genes_] = np.exp(self.t_[rows, None] + sides)
        return found

    def transform_state(self) -> dict[str, Any]:
        """The genes' effects and dispersions, and how a cell's depth and effect are taken."""
        return {
            "genes": self.genes_,
            "c": self.means_.c,
            "log_alpha": self.means_.log_alpha,
            "cell_scale": self.cell_scale_,
            "clip": self.clip_,
            "size_constant": self.size_constant_,
            "offset": str(self.settings_["offset"]),
            "n_effects": len(self.effects_),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.settings_, self.effects_ = {"offset": str(state["offset"])}, [""] * int(state["n_effects"])
        self._refuse_what_counts_do_not_tell()
        self.genes_ = np.asarray(state["genes"])
        c, log_alpha = (np.ascontiguousarray(state[key], dtype=np.float64) for key in ("c", "log_alpha"))
        self.means_ = Means(np.zeros(0), c, log_alpha, np.zeros(0, np.int64))  # of no cell yet
        self.cell_scale_, self.clip_ = float(state["cell_scale"]), float(state["clip"])
        self.size_constant_ = float(state["size_constant"])

    def _refuse_what_counts_do_not_tell(self) -> None:
        if self.effects_ or self.settings_["offset"] == "column":
            raise InputError(
                f"{type(self).__name__}: transform",
                "a model without covariates, and with a depth that counts alone tell",
                "covariates or offset='column'",
                "take embedding_, or fit without them",
            )

    def cell_columns(self) -> dict[str, np.ndarray]:
        """Columns for obs."""
        check_is_fitted(self)
        n = len(self.cell_effect_)
        fitted = np.zeros(n, dtype=bool)
        fitted[self.cells_] = True
        return {
            "nbh_cell_mean": self.cell_effect_,
            "nbh_cell_sd": self.cell_sd_,
            "nbh_log_size": self.size_,
            "nbh_cell_total": self.cell_effect_ + self.size_,
            "nbh_loglik_per_entry": self.cell_density_,
            "nbh_heldout_loglik_per_entry": self.cell_held_out_,
            "nbh_n_genes_used": np.full(n, len(self.genes_), dtype=np.int64),
            "nbh_fitted": fitted,
        }

    def gene_columns(self) -> dict[str, np.ndarray]:
        """Columns for var; NaN for genes that were not fitted."""
        check_is_fitted(self)
        used = np.zeros(self.n_features_in_, dtype=bool)
        used[self.genes_] = True
        return {
            "nbh_gene_mean": self.gene_total_,
            "nbh_gene_sd": self.gene_sd_,
            "nbh_log_alpha_mean": self.log_alpha_,
            "nbh_log_alpha_sd": self.log_alpha_sd_,
            "nbh_length_offset": self._of_genes(self.length_),
            "nbh_used": used,
            "nbh_ppc_zero_obs": self._of_genes(self.gene_checks_["zeros_observed"]),
            "nbh_ppc_zero_pred": self._of_genes(self.gene_checks_["zeros_predicted"]),
            "nbh_ppc_var_ratio": self._of_genes(
                self.gene_checks_["variance_ratio_observed"] / self.gene_checks_["variance_ratio_predicted"]
            ),
        }

    def unstructured(self, **preparation: Any) -> dict[str, Any]:
        """Entries for uns: what was learnt of all genes and cells together, and every setting."""
        check_is_fitted(self)
        shared = self.posterior_.globals()
        return {
            "model_name": "nb_hierarchical",
            "k_rank": self.n_components_,
            **preparation,
            "nb_hierarchical": {
                "parameters": list(shared),
                "mean": np.array([values[0] for values in shared.values()]),
                "sd": np.array([values[1] for values in shared.values()]),
                "elbo": np.array([row["elbo"] for row in self.history_]),
                "elbo_step": np.array([row["step"] for row in self.history_]),
                **self.said_(),
            },
        }

    def said_(self) -> dict[str, Any]:
        """What every output says of the fit: engine, offsets, forms, how it ended."""
        offsets = {key: value for key, value in self.record_.items() if key != "effects"}
        return {
            **{key: self.settings_[key] for key in SAID},
            "forms": ", ".join(
                f"{axis} {'centred' if self.posterior_.family.forms[axis] else 'non-centred'}"
                for axis in self.posterior_.family.axes
            ),
            "refined": ", ".join(self.posterior_.refined),
            **{key: ("" if value is None else value) for key, value in offsets.items()},
            "covariate_effects": ", ".join(self.effects_),
            "seed": self.seed_,
            "device": self.device_,
            "converged": bool(self.converged_),
            "stop_reason": self.stop_reason_,
            "n_steps": self.n_steps_,
            "seconds": self.seconds_,
            "elbo_last": self.elbo_,
            "elbo_se": self.elbo_se_,
            "final_slope": self.slope_,
            "pareto_k": self.pareto_k_,
            "correlation_cell_effect_log_total": self.depth_correlation_,
            "genes_with_large_zero_z": self.share_of_large_z_,
        }

    def outcome(self) -> dict[str, Any]:
        """Further entries of ``run.json``."""
        return {"nb_hierarchical": self.said_()}

    def write_files(self, folder: str | Path) -> None:
        """Write the files that the card names: summary, draws, held-out scores and checks."""
        import pandas as pd

        from nmfbench.tables.files import write_table

        check_is_fitted(self)
        folder = Path(folder)
        genes, cells = (
            np.asarray(names)[kept]
            for names, kept in zip(self.names_, (self.genes_, self.cells_), strict=True)
        )
        write_table(summary_table(self.posterior_, genes, self.effects_), folder / "posterior_summary.tsv")
        write_trace(
            folder / "trace.nc",
            self.posterior_,
            genes=genes,
            cells=cells,
            effects=self.effects_,
            history=self.history_,
            draws=self.draws,
            draws_mb=self.draws_mb,
            seed=self.seed_,
            attributes=self.said_(),
        )
        write_table(self.held_out_, folder / "held_out.tsv")
        write_table(pd.DataFrame({"gene": genes, **self.gene_checks_}), folder / "gene_checks.tsv")
        write_table(pd.DataFrame({"cell": cells, **self.cell_checks_}), folder / "cell_checks.tsv")

    def _describe(self, engine: Any, ready: Any) -> dict[str, Any]:
        """What a watcher is shown: the one factor that the mean has, in its natural unit."""
        found = Posterior(engine.problem.family, engine.loc, engine.log_sd).effects()
        cells, genes = np.exp(found.cell_centred[0]), np.exp(found.gene_total[0])
        n, p = self.n_cells_in_, self.n_features_in_
        described = {"cell_factors": np.ones((n, 1)), "gene_factors": np.zeros((1, p))}
        described |= {"cell_factors_sd": np.zeros((n, 1)), "gene_factors_sd": np.zeros((1, p))}
        described["cell_factors"][ready.cells, 0] = cells
        described["gene_factors"][0, ready.genes] = genes
        described["cell_factors_sd"][ready.cells, 0] = cells * found.cell_centred[1]
        described["gene_factors_sd"][0, ready.genes] = genes * found.gene_total[1]
        return described

    def _fingerprint(self, csr: Any, fingerprint: str | None, obs: Any, var: Any) -> str:
        """What tells the counts, and the columns beside them that are used, from others."""
        from nmfbench.rows.memory import InMemoryRows

        told = hashlib.blake2b(digest_size=8)
        for frame, columns in (
            (obs, [self.depth_column, *(self.covariates or [])]),
            (var, [self.length_column]),
        ):
            for column in columns:
                if column is not None and frame is not None and column in frame:
                    told.update("\0".join(map(str, frame[column])).encode())
        return InMemoryRows(csr, fingerprint).fingerprint() + told.hexdigest()
