"""A made-up atlas with known programs, cell types and donor effects, laid out as CELLxGENE does.

Expected counts of cell c of type t and donor d, over the genes g, with library size L:

    E[x_cg] = L_c ((1 - a_d) (h b_g + (1 - h) sum_k theta_ck P_dkg) + a_d A_dg)

* ``b``: profile all cells share, with weight h;
* ``P_dk``: program k as donor d has it: the common program times a log-normal factor for each of its
  genes (the donor's effect on loadings);
* ``theta_c``: use of the programs, Dirichlet around the mixture of its type, times the donor's habit;
* ``A_d``: the donor's ambient profile, with weight a_d (the donor's additive effect).

Types share programs and programs share genes. Counts are Poisson, or negative binomial.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from nmfbench.data.filtered import SPATIAL, normalise_block
from nmfbench.data.writer import whole_h5ad, write_sections
from nmfbench.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

BLOCK_BYTES = 32 * 2**20  # of the dense float64 rates of a block of cells
SHARED = 4  # programs beyond one per type
N_RARE = 6  # cells of the last type, too few for a split into five folds
CL_NAMES = (
    "CD4-positive, alpha-beta T cell", "B cell", "classical monocyte", "CD8-positive, alpha-beta T cell",
    "natural killer cell", "non-classical monocyte", "plasma cell", "plasmacytoid dendritic cell",
    "macrophage", "naive thymus-derived CD4-positive, alpha-beta T cell", "neutrophil", "mast cell",
    "regulatory T cell", "erythrocyte", "CD8-positive, alpha-beta memory T cell", "mature NK T cell",
    "hematopoietic stem cell", "conventional dendritic cell", "platelet", "gamma-delta T cell",
)  # fmt: skip


@dataclass(frozen=True)
class AtlasDesign:
    """What to simulate.

    Attributes
    ----------
    n_cells, n_genes, n_cell_types : int
        Sizes. The last type is rare (6 cells).
    n_donors : int
        Donors with at least `min_cells` cells.
    n_small_donors : int
        Further donors with fewer.
    min_cells : int
        The cell minimum the donors are made for.
    seed : int
        Everything follows from it.
    mean_counts : float
        Mean library size; log-normal with `library_spread` as standard deviation of its logarithm.
    ambient : float
        Mean share of a donor's ambient profile.
    donor_strength : float
        Standard deviation of the logarithm of the donors' factors on program genes; their habits in
        using programs have half of it.
    dispersion : float
        Negative binomial with variance ``mu + dispersion mu^2``; 0 is Poisson.
    spatial : bool
        Whether the cells have coordinates, in ``obsm["spatial"]``: every donor is a section of its own, in
        which each cell type fills a band, and cells lie about 1 apart. Nothing else is drawn differently.
    """

    n_cells: int = 3000
    n_genes: int = 1500
    n_cell_types: int = 8
    n_donors: int = 6
    n_small_donors: int = 2
    min_cells: int = 200
    seed: int = 0
    mean_counts: float = 1500.0
    library_spread: float = 0.35
    ambient: float = 0.1
    donor_strength: float = 0.35
    dispersion: float = 0.0
    spatial: bool = False

    def __post_init__(self) -> None:
        needed = self.all_donors * self.min_cells
        enough_donors = self.n_donors >= 1 and self.min_cells >= 1 and self.n_cells >= needed
        if not enough_donors or self.n_cell_types < 2 or self.n_genes < 20:
            raise InputError(
                "datasets.<name>.simulate",
                "2 cell types, 20 genes, a large donor, and min_cells cells for each donor",
                f"{self.n_cells} cells, {self.n_genes} genes, {self.n_cell_types} cell types, "
                f"{self.n_donors} large and {self.n_small_donors} small donors, minimum {self.min_cells}",
                f"raise n_cells to {needed} or more, or lower min_cells_per_donor or n_donors",
            )

    @property
    def all_donors(self) -> int:
        """Number of donors, large and small."""
        return self.n_donors + self.n_small_donors


@dataclass
class Atlas:
    """The drawn parameters of an atlas; the counts are drawn block by block from them.

    Attributes
    ----------
    base : numpy.ndarray, shape (genes,)
    programs : numpy.ndarray, shape (programs, genes)
        Common programs; rows sum to 1.
    usage : numpy.ndarray, shape (types, programs)
        Mixture of each type; rows sum to 1.
    donor_programs : numpy.ndarray, shape (donors, programs, genes), float32
    donor_usage : numpy.ndarray, shape (donors, programs)
    ambient_share : numpy.ndarray, shape (donors,)
    ambient_profiles : numpy.ndarray, shape (donors, genes)
    types, donors : numpy.ndarray, shape (cells,)
        Numbers of type and donor of each cell.
    """

    design: AtlasDesign
    base: np.ndarray = field(init=False)
    programs: np.ndarray = field(init=False)
    usage: np.ndarray = field(init=False)
    donor_programs: np.ndarray = field(init=False)
    donor_usage: np.ndarray = field(init=False)
    ambient_share: np.ndarray = field(init=False)
    ambient_profiles: np.ndarray = field(init=False)
    types: np.ndarray = field(init=False)
    donors: np.ndarray = field(init=False)

    shared_weight = 0.6  # h of the formula

    def __post_init__(self) -> None:
        design = self.design
        rng = np.random.default_rng([design.seed, 0])
        self.base = _shares(rng.lognormal(0.0, 2.0, design.n_genes))
        self.programs = _draw_programs(rng, design)
        self.usage = _draw_usage(rng, design)
        strength, n_programs = design.donor_strength, len(self.programs)
        factors = rng.lognormal(0.0, strength, (design.all_donors, *self.programs.shape)).astype(np.float32)
        self.donor_programs = _shares(factors * self.programs.astype(np.float32))
        self.donor_usage = rng.lognormal(0.0, strength / 2, (design.all_donors, n_programs))
        self.ambient_share = design.ambient * rng.uniform(0.5, 1.5, design.all_donors)
        self.ambient_profiles = _shares(
            self.base * rng.lognormal(0.0, 0.5, (design.all_donors, design.n_genes))
        )
        self.donors = rng.permutation(np.repeat(np.arange(design.all_donors), _donor_sizes(rng, design)))
        self.types = _draw_types(rng, design, self.donors)

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """Raw counts in blocks of cells, shape (rows, genes), float32; the same at every call."""
        step = max(1, BLOCK_BYTES // (8 * self.design.n_genes))
        for number, start in enumerate(range(0, self.design.n_cells, step)):
            rng = np.random.default_rng([self.design.seed, 1, number])
            yield self._draw(rng, slice(start, min(start + step, self.design.n_cells)))

    def _draw(self, rng: np.random.Generator, cells: slice) -> sparse.csr_matrix:
        """Counts of the cells `cells`."""
        design, donors = self.design, self.donors[cells]
        theta = rng.standard_gamma(8 * self.usage[self.types[cells]] + 0.01)
        theta = _shares(theta * self.donor_usage[donors])
        rates = np.empty((donors.size, design.n_genes))
        for donor in np.unique(donors):
            mine, share = donors == donor, self.ambient_share[donor]
            rates[mine] = (1 - share) * (1 - self.shared_weight) * (theta[mine] @ self.donor_programs[donor])
            rates[mine] += (1 - share) * self.shared_weight * self.base
            rates[mine] += share * self.ambient_profiles[donor]
        spread = asdict(design)["library_spread"]
        rates *= design.mean_counts * rng.lognormal(-(spread**2) / 2, spread, (donors.size, 1))
        if design.dispersion > 0:
            rates *= rng.standard_gamma(1 / design.dispersion, rates.shape) * design.dispersion
        return sparse.csr_matrix(rng.poisson(rates).astype(np.float32))

    def obs(self) -> pd.DataFrame:
        """Columns of the cells as CELLxGENE names them."""
        import pandas as pd

        design = self.design
        rng = np.random.default_rng([design.seed, 2])
        donor_names = np.array([f"SIM{number + 1}" for number in range(design.all_donors)])
        by_donor = {
            "tissue": np.array(["blood", "bone marrow"])[np.arange(design.all_donors) % 2],
            "sex": np.array(["female", "male"])[rng.integers(0, 2, design.all_donors)],
        }
        columns: dict[str, Any] = {
            "cell_type": np.array(type_names(design.n_cell_types))[self.types],
            "donor_id": donor_names[self.donors],
            "assay": np.where(rng.random(design.n_cells) < 0.85, "10x 3' v3", "10x 5' v2"),
            **{name: values[self.donors] for name, values in by_donor.items()},
            "disease": np.repeat("normal", design.n_cells),
            "suspension_type": np.repeat("cell", design.n_cells),
        }
        frame = pd.DataFrame({name: pd.Categorical(values) for name, values in columns.items()})
        frame["is_primary_data"] = True
        frame.index = [f"cell{number:07d}" for number in range(design.n_cells)]
        return frame


def simulate_counts(**parameters: Any) -> tuple[sparse.csr_matrix, pd.DataFrame, np.ndarray]:
    """An atlas in memory, for tests and benchmarks.

    Parameters
    ----------
    **parameters
        Those of :class:`AtlasDesign`.

    Returns
    -------
    counts : scipy.sparse.csr_matrix, shape (cells, genes), float32
    obs : pandas.DataFrame
    programs : numpy.ndarray, shape (programs, genes)
        The common programs, for tests of recovery.
    """
    atlas = Atlas(AtlasDesign(**parameters))
    return sparse.vstack(list(atlas.blocks()), format="csr"), atlas.obs(), atlas.programs


def simulate_atlas(path: str | Path, **parameters: Any) -> None:
    """Write an atlas in the CELLxGENE layout: counts in ``raw.X``, log1p of counts per 10,000 in ``X``.

    The truth is in ``uns["simulation"]``. Written block by block, so memory does not grow with the
    number of cells (apart from obs).

    Parameters
    ----------
    path
        The h5ad file to write.
    **parameters
        Those of :class:`AtlasDesign`.

    Raises
    ------
    InputError
        The numbers do not fit together, or the disk is full.
    """
    atlas = Atlas(AtlasDesign(**parameters))
    design, var = atlas.design, _make_var(atlas.design)
    with whole_h5ad(path) as file:
        # No more nonzeros than counts; twice the mean library size leaves ample room.
        most = int(design.n_cells * min(design.n_genes, 2 * design.mean_counts + 100))
        counts = file.csr("raw/X", design.n_genes, most)
        logged = file.csr("X", design.n_genes, most)
        for block in atlas.blocks():
            counts.append(block)
            logged.append(normalise_block(block))
        counts.finish()
        logged.finish()
        _write_raw_frame(file.hdf5["raw"], var.drop(columns="feature_is_filtered"))
        obsm = {"X_umap": _make_map(atlas)}
        if design.spatial:
            obsm[SPATIAL] = place_in_bands(atlas)
        write_sections(file.hdf5, {"obs": atlas.obs(), "var": var, "uns": _make_uns(atlas), "obsm": obsm})
    logger.info("simulated %d cells x %d genes, %d nonzeros", design.n_cells, design.n_genes, counts.nnz)


def type_names(count: int) -> list[str]:
    """Names of cell types: Cell Ontology names as long as they last."""
    return [CL_NAMES[i] if i < len(CL_NAMES) else f"simulated cell, type {i + 1}" for i in range(count)]


def _shares(values: np.ndarray) -> np.ndarray:
    """Values divided by their sum along the last axis."""
    return values / values.sum(axis=-1, keepdims=True)


def _draw_programs(rng: np.random.Generator, design: AtlasDesign) -> np.ndarray:
    """Programs of about 6 % of the genes; each shares some genes with the one before, and more by chance."""
    n_programs = design.n_cell_types + SHARED
    size = max(10, design.n_genes // 16)
    programs = np.zeros((n_programs, design.n_genes))
    before = np.empty(0, dtype=np.int64)
    for program in programs:
        own = rng.choice(design.n_genes, size, replace=False)
        genes = np.union1d(own, rng.choice(before, size // 3, replace=False) if before.size else before)
        program[genes] = rng.gamma(1.0, 1.0, genes.size) + 0.05
        before = own
    return _shares(programs)


def _draw_usage(rng: np.random.Generator, design: AtlasDesign) -> np.ndarray:
    """Type t uses program t most, some of the program of the next type, and one or two shared ones."""
    n_types = design.n_cell_types
    usage = np.zeros((n_types, n_types + SHARED))
    for number, row in enumerate(usage):
        shared = n_types + rng.choice(SHARED, 2, replace=False)
        row[[number, (number + 1) % n_types, *shared]] = rng.dirichlet([12.0, 10.0, 10.0, 8.0])
    return usage


def _donor_sizes(rng: np.random.Generator, design: AtlasDesign) -> np.ndarray:
    """Cells of each donor; the small ones come last."""
    n_small = design.n_small_donors
    small = (design.min_cells * np.linspace(0.4, 0.8, n_small)).astype(int)
    large = np.full(design.n_donors, design.min_cells)
    rest = design.n_cells - small.sum() - large.sum()
    large += rng.multinomial(rest, _shares(rng.uniform(0.5, 2.0, large.size)))
    return np.concatenate([large, small])


def _draw_types(rng: np.random.Generator, design: AtlasDesign, donors: np.ndarray) -> np.ndarray:
    """Type of each cell: unequal shares that differ a little between donors, and one rare type."""
    n_common = design.n_cell_types - 1
    shares = _shares(1.0 / np.arange(1, n_common + 1) ** 0.7)
    types = np.empty(design.n_cells, dtype=np.int64)
    for donor in range(design.all_donors):
        mine = np.flatnonzero(donors == donor)
        types[mine] = rng.choice(n_common, mine.size, p=rng.dirichlet(60 * shares))
    large = np.flatnonzero(donors < design.n_donors)
    types[rng.choice(large, min(N_RARE, large.size), replace=False)] = n_common
    return types


def _make_var(design: AtlasDesign) -> pd.DataFrame:
    """Genes: Ensembl-like ids, symbols that are not unique."""
    import pandas as pd

    symbols = [f"GENE{number}" for number in range(design.n_genes)]
    symbols[1::250] = symbols[0::250][: len(symbols[1::250])]
    index = [f"ENSG{90_000_000_000 + number}" for number in range(design.n_genes)]
    columns = {"feature_name": symbols, "feature_biotype": "gene", "feature_reference": "NCBITaxon:9606"}
    frame = pd.DataFrame(columns, index=index).astype("category")
    frame["feature_is_filtered"] = False
    return frame


def _make_uns(atlas: Atlas) -> dict[str, Any]:
    design = atlas.design
    return {
        "title": "Simulated atlas of nmfbench",
        "schema_version": "7.0.0",
        "citation": "simulated; no publication",
        "default_embedding": "X_umap",
        "simulation": {
            "parameters": asdict(design),
            "cell_types": np.array(type_names(design.n_cell_types), dtype=object),
            "programs": atlas.programs.astype(np.float32),
            "usage": atlas.usage,
            "base": atlas.base,
            "donor_usage": atlas.donor_usage,
            "ambient_share": atlas.ambient_share,
            "ambient_profiles": atlas.ambient_profiles.astype(np.float32),
        },
    }


def _make_map(atlas: Atlas) -> np.ndarray:
    """A stand-in for a published UMAP: types on a circle, shape (cells, 2)."""
    rng = np.random.default_rng([atlas.design.seed, 3])
    angle = 2 * np.pi * atlas.types / atlas.design.n_cell_types
    points = 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (points + rng.standard_normal(points.shape)).astype(np.float32)


def place_in_bands(atlas: Atlas) -> np.ndarray:
    """Coordinates of the cells, shape (cells, 2): a square for each donor, a band of it for each type."""
    rng = np.random.default_rng([atlas.design.seed, 4])
    sizes = np.bincount(atlas.types, minlength=atlas.design.n_cell_types) / atlas.types.size
    begins = np.cumsum(sizes) - sizes
    across, along = rng.random((2, atlas.types.size))
    side = np.sqrt(atlas.design.n_cells / atlas.design.all_donors)
    return side * np.stack([along, begins[atlas.types] + across * sizes[atlas.types]], axis=1)


def _write_raw_frame(raw: Any, var: pd.DataFrame) -> None:
    """Give the group raw its var and the mark by which anndata knows it."""
    from anndata.io import write_elem

    raw.attrs["encoding-type"] = "raw"
    raw.attrs["encoding-version"] = "0.1.0"
    write_elem(raw, "var", var)
    write_elem(raw, "varm", {})
