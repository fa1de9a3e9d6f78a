"""Cards of the Bayesian models, and their sections of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nmfbench.models.card import CountModelSection, ModelCard, OnDevice, Resources
from nmfbench.renamed import Renamed, told_value
from nmfbench.section import Count, Fraction, one_message

Share = Annotated[float, Field(ge=0, lt=1)]


MAX_ITER = {"cavi": 200, "map": 200, "svi": 2000}


class Bayesian(CountModelSection):
    """What the two Bayesian models of counts share."""

    renamed: ClassVar[Mapping[str, Renamed]] = {
        "max_epochs": Renamed("max_iter", ("cavi", "map")),
        "num_steps": Renamed("max_iter", ("svi",)),
        "lr": Renamed("learning_rate"),
    }

    inference: Literal["cavi", "svi", "map"] = Field(
        "cavi",
        description="`cavi`: closed-form coordinate ascent, its ELBO never falls. `svi`: Pyro's stochastic "
        "gradients of a log-normal posterior. `map`: the most probable factors, no posterior; needs "
        "`learn_rates: fixed` (and `learn_shapes: fixed`, shapes of at least 1).",
    )
    batch_size: int | None = Field(None, ge=1, description="Cells in a minibatch; null: all at once.")
    max_iter: Annotated[
        Count | dict[Literal["cavi", "map", "svi"], Count] | None,
        one_message("a whole number of at least 1, or one for each inference: {cavi: 200, svi: 2000}"),
    ] = Field(
        None,
        description="At most this many iterations: passes over the cells (`cavi`, `map`), gradient steps "
        "(`svi`); a number, or one for each inference. null: `{cavi: 200, map: 200, svi: 2000}`.",
    )
    tol: Fraction = Field(
        1e-5,
        description="`cavi`: stop after `patience` passes that lower the objective by less than this share.",
    )
    patience: int = Field(3, ge=1, description="See `tol`.")
    forgetting: float = Field(
        0.5, gt=0, description="`cavi` by minibatches: step t moves the genes by (t + delay)^-forgetting."
    )
    delay: Fraction = Field(10.0, description="See `forgetting`.")
    local_steps: int = Field(
        5, ge=1, description="`cavi` by minibatches: updates of the batch's cells before the genes move."
    )
    learning_rate: float = Field(0.1, gt=0, description="`svi`: Adam's step.")
    clip_norm: float | None = Field(None, gt=0, description="`svi`: bound of each entry of the gradient.")
    param_P: bool = Field(
        True,
        description="`svi`: the cells' posterior as parameters written out; false: Pyro's AutoNormal, the "
        "same family.",
    )
    nb_probs: float = Field(
        0.5, gt=0, lt=1, description="p of the negative binomial, of mean theta p / (1 - p); or its start."
    )
    learn_probs: Literal["fixed", "all", "gene", "donor"] = Field(
        "fixed",
        description="Keep p, or learn one, one for each gene, or one for each donor. The default of "
        "`pyro_exponential` is `gene`.",
    )
    exposure: Literal["total"] | None = Field(
        None,
        description="`total`: theta of a cell is in proportion to its sum of counts, and its factors say "
        "what it is made of; null: they carry the depth too.",
    )
    init: Literal["random", "nndsvd"] = Field(
        "random",
        description="Start: random about the totals of cells and genes, or NNDSVD of the counts over what "
        "the totals let expect.",
    )
    learn_rates: Literal["pattern", "matrix", "fixed"] = Field(
        "matrix", description="Learn the priors' rates for each pattern (ARD), for each matrix, or keep them."
    )
    prior_rate: float = Field(1.0, gt=0, description="Rate of the priors, or its start.")
    use_pois: bool = Field(False, description="Add ten times the Poisson log-likelihood; needs p = 0.5.")
    use_chisq: bool = Field(False, description="`svi`: subtract chi-squared; needs p = 0.5.")
    fixed_genes: str | None = Field(
        None, description="Table of constant gene patterns: genes by name x patterns (.csv, or tabs)."
    )
    fixed_samples: str | None = Field(
        None,
        description="Table of constant cell patterns, cells by name x patterns; or `donors`: an additive "
        "profile for each donor.",
    )
    post_full_P_steps: int = Field(
        0, ge=0, description="At the end, this many updates of all cells given the genes; these are scored."
    )
    held_out_fraction: Share = Field(
        0.0,
        description="Share of the counts set aside by thinning; their log-likelihood per entry is in "
        "scores.tsv and chooses the best state.",
    )
    scored_patterns: Literal["all", "in_use"] = Field(
        "all",
        description="`in_use`: what is scored is 0 throughout for patterns that the prior has switched off "
        "or that tell no cells apart (reliability below a half, or less than a thousandth of the counts).",
    )
    marker_draws: int = Field(50, ge=0, description="Posterior draws behind the marker votes.")
    storage_device: Literal["auto", "cpu", "compute"] = Field(
        "auto", description="Where the cells' posterior lies; `auto`: the CPU with minibatches."
    )
    keep_on_cpu: bool = Field(False, description="Leave the counts on the CPU, copy each minibatch over.")

    def parameters(self) -> dict[str, Any]:
        found = super().parameters()
        if self.scored_patterns == "all":  # as before there was a choice: such fits are not run again
            del found["scored_patterns"]
        return found

    def passes(self) -> int:
        """Epochs, or steps of `svi`, at most."""
        return told_value(self.max_iter, self.inference, MAX_ITER[self.inference])

    @model_validator(mode="after")
    def _fits_together(self) -> Bayesian:
        if (self.use_pois or self.use_chisq) and (self.nb_probs != 0.5 or self.learn_probs != "fixed"):
            raise ValueError(
                "use_pois and use_chisq need nb_probs: 0.5 and learn_probs: fixed, not "
                f"{self.nb_probs:g} and {self.learn_probs}"
            )
        if self.use_chisq and self.inference != "svi":
            raise ValueError("use_chisq has no closed-form update: set inference: svi")
        if self.inference == "map":
            if self.scored_patterns == "in_use":
                raise ValueError("scored_patterns: in_use needs a posterior: not with inference: map")
            shapes = [getattr(self, f"prior_shape_{side}", 1.0) for side in "PA"]
            learnt = self.learn_rates, getattr(self, "learn_shapes", "fixed")
            if self.batch_size is not None or learnt != ("fixed", "fixed") or min(shapes) < 1:
                raise ValueError(
                    "inference: map needs batch_size: null, priors that are kept (learn_rates: fixed, "
                    "learn_shapes: fixed) and shapes of at least 1"
                )
        if self.mask_fraction and self.held_out_fraction:
            raise ValueError("mask_fraction and held_out_fraction exclude each other")
        if self.fixed_genes is not None and self.learn_probs == "gene":
            raise ValueError(
                "fixed_genes needs learn_probs: fixed, all or donor: a p by gene would bend the patterns"
            )
        if self.fixed_genes is not None and self.fixed_samples is not None:
            raise ValueError("fixed_genes and fixed_samples exclude each other")
        return self

    def pattern_files(self) -> list[str]:
        given = [self.fixed_genes, None if self.fixed_samples == "donors" else self.fixed_samples]
        return [path for path in given if path is not None]


class PyroExponential(Bayesian):
    """Negative binomial counts, exponential priors."""

    kind: Literal["pyro_exponential"] = "pyro_exponential"
    learn_probs: Literal["fixed", "all", "gene", "donor"] = Field(
        "gene",
        description="Keep p (`fixed`, as published), or learn one, one for each gene (the better one by "
        "held-out likelihood), or one for each donor.",
    )


class PyroGammaNB(Bayesian):
    """Negative binomial counts, gamma priors."""

    kind: Literal["pyro_gamma_nb"] = "pyro_gamma_nb"
    prior_shape_P: float = Field(1.0, gt=0, description="Shape of the cells' priors, or its start.")
    prior_shape_A: float = Field(0.3, gt=0, description="Shape of the genes' priors, or its start.")
    learn_shapes: Literal["fixed", "matrix", "pattern"] = Field(
        "matrix", description="Keep the shapes, or learn one for each matrix or each pattern."
    )


class Given(OnDevice):
    """What the estimators take otherwise than the config has it, and what it has not."""

    n_components: int = Field(
        80, ge=0, description="Number of learnt patterns k; 0 is for `fixed_genes` alone."
    )
    fixed_genes: Annotated[Any, "DataFrame, path or None"] = Field(
        None, description="Constant patterns of genes (genes x patterns), aligned by name."
    )
    fixed_samples: Annotated[Any, 'DataFrame, path, "donors" or None'] = Field(
        None,
        description="Constant patterns of cells (cells x patterns), aligned by name; `donors`: an additive "
        "profile of genes for each donor.",
    )


def _card(section: type[Bayesian], estimator: str, display_name: str, colour: str, marker: str) -> ModelCard:
    return ModelCard(
        section=section,
        estimator=estimator,
        display_name=display_name,
        colour=colour,
        marker=marker,
        revision=2,
        # the counts by cell and by gene, and those set aside
        resources=Resources(4000, 40, 60, 4),
        input="counts",
        conditional=True,
        needs=frozenset({"patterns", "names"}),
    )


CARDS = (
    _card(PyroGammaNB, "PyroGammaNB", "Pyro_GammaNB", "#4D4D4D", "*"),
    _card(PyroExponential, "PyroExponential", "Pyro_Exponential", "#F0E442", "X"),
)
