"""PNMF with a multiplier for every gene of every donor."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.errors import InputError
from nmfbench.models.labels import encode_conditions
from nmfbench.models.parameters import parameters
from nmfbench.models.pnmf import card
from nmfbench.models.pnmf.counts import Counts, counts_of, device_of
from nmfbench.models.pnmf.estimator import PNMF
from nmfbench.models.pnmf.masked import FittedCounts
from nmfbench.models.pnmf.scales import RateScales


@parameters(card.Details, card.PNMFDonor, card.PNMF, card.PNMFSpatial)
class PNMFDonor(PNMF):
    """PNMF with a multiplier for every gene of every donor: ``R_nd = s_n γ_bd Σ_l exp(F_nl) W_dl``.

    The multipliers γ, drawn towards 1 by a Gamma(κ, κ), take what a donor does to a gene in all its cells out
    of the factors: ``γ_bd = (κ + counts of d in b) / (κ + what the factors expect of d in b)``. Trained by
    coordinate ascent (and its polish) on all cells. `transform` uses γ = 1: new cells may be of new donors.
    So does what is scored, by default: q of a factor that a cell hardly uses follows from the prior and
    from Σ_d γ_bd W_dl alone, a number of its donor's, by which trees tell donors apart.

    {parameters}

    Attributes
    ----------
    multipliers_ : ndarray of shape (donors, d) or None
        γ; None where `conditions` were not given: all cells are then of one donor.
    conditions_ : Conditions
    factors_ : ndarray of shape (n, k)
        Means under the donors' own multipliers, which stay under the published key.
    """

    _conditional = True

    def transform(
        self, X, coordinates: Any = None, groups: Any = None, *, conditions=None, method="vi", layer=None
    ) -> np.ndarray:
        """As in :meth:`PNMF.transform`; `conditions` names the donors of the fit that the cells are of."""
        if conditions is None or self.multipliers_ is None:
            return super().transform(X, coordinates, groups, method=method, layer=layer)
        check_is_fitted(self)
        counts = Counts(self._check_input(counts_of(X, layer), reset=False), device_of(self.device))
        scales = RateScales.of(counts, self._exposure_of(counts))
        scales.donors = torch.as_tensor(self._known(conditions, counts.shape[0]), device=counts.device)
        scales.multipliers = torch.from_numpy(self.multipliers_).to(counts.device, counts.dtype)
        return self._embed(counts, scales, method)

    def _embed_anew(self, fitted: FittedCounts) -> None:
        if self._donors_part:
            scales = fitted.masked(super()._scales(fitted))
            self.embedding_ = self._embed(fitted.counts, scales, "vi")

    @property
    def _donors_part(self) -> str:
        return "_marginal" if self.donor_embedding == "marginal" and self.multipliers_ is not None else ""

    def _known(self, conditions: Any, n: int) -> np.ndarray:
        labels = np.asarray(conditions).astype(str).reshape(-1)
        categories = self.conditions_.categories[0]
        codes = np.searchsorted(categories, labels).clip(max=len(categories) - 1)
        unknown = categories[codes] != labels
        if len(labels) != n or unknown.any():
            got = f"{len(labels)} labels for {n} cells" if len(labels) != n else labels[unknown][0]
            raise InputError(
                "PNMFDonor.transform: conditions",
                f"a donor of the fit for each cell: {', '.join(categories)}",
                str(got),
                "leave conditions out for cells of other donors",
            )
        return codes.astype(np.int64)

    def _take_conditions(self, conditions: Any, n: int) -> None:
        self.conditions_ = encode_conditions(conditions, n)
        if self.conditions_.codes.shape[1] != 1:
            raise InputError(
                "PNMFDonor: conditions",
                "one column",
                f"{self.conditions_.codes.shape[1]} columns: {', '.join(self.conditions_.names)}",
                "give one condition column (the donor)",
            )

    def _conditions_text(self) -> str:
        return " " + hashlib.blake2b(self.conditions_.codes.tobytes(), digest_size=16).hexdigest()

    def _scales(self, fitted: FittedCounts) -> RateScales:
        if self.conditions_.size == 1:  # one donor for all: its multipliers are W's
            return super()._scales(fitted)
        codes = self.conditions_.codes[:, 0]
        exposure = self._exposure_of(fitted.counts, fitted.totals)
        return RateScales.of(fitted.counts, exposure, codes, self.donor_strength)
