"""Cell cycle phases from the counts, for screens without a column of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nmfbench.data.filtered import load_normalised
from nmfbench.errors import InputError

PHASES = ("G1", "S", "G2M")


def _names(text: str) -> list[str]:
    return text.split()


# Marker genes of Tirosh et al., Science 352:189 (2016), with the symbols that replaced three of them.
S_GENES = _names(
    """
    MCM5 PCNA TYMS FEN1 MCM2 MCM4 RRM1 UNG GINS2 MCM6 CDCA7 DTL PRIM1 UHRF1 MLF1IP CENPU HELLS RFC2 RPA2
    NASP RAD51AP1 GMNN WDR76 SLBP CCNE2 UBR7 POLD3 MSH2 ATAD2 RAD51 RRM2 CDC45 CDC6 EXO1 TIPIN DSCC1 BLM
    CASP8AP2 USP1 CLSPN POLA1 CHAF1B BRIP1 E2F8
    """
)
G2M_GENES = _names(
    """
    HMGB2 CDK1 NUSAP1 UBE2C BIRC5 TPX2 TOP2A NDC80 CKS2 NUF2 CKS1B MKI67 TMPO CENPF TACC3 FAM64A PIMREG
    SMC4 CCNB2 CKAP2L CKAP2 AURKB BUB1 KIF11 ANP32E TUBB4B GTSE1 KIF20B HJURP CDCA3 HN1 JPT1 CDC20 TTK
    CDC25C KIF2C RANGAP1 NCAPD2 DLGAP5 CDCA2 CDCA8 ECT2 KIF23 HMMR AURKA PSRC1 ANLN LBR CKAP5 CENPE CTCF
    NEK2 G2E3 GAS2L3 CBX5 CENPA
    """
)
LEAST = 5  # genes of each list below which a score is noise


def score_phases(path: str | Path, genes: np.ndarray) -> np.ndarray:
    """Phase of each cell of filtered counts by scanpy's scores of the two lists of symbols.

    Returns
    -------
    ndarray of shape (cells,), int8
        0, 1, 2 for G1, S, G2M.

    Raises
    ------
    InputError
        Too few of the genes are measured.
    """
    import warnings

    import anndata
    import pandas as pd
    import scanpy

    measured = set(genes)
    known = {"S": S_GENES, "G2M": G2M_GENES}
    lists = {phase: [gene for gene in markers if gene in measured] for phase, markers in known.items()}
    if short := [f"{len(found)} of {name}" for name, found in lists.items() if len(found) < LEAST]:
        raise InputError(
            f"{path}: var",
            f"at least {LEAST} marker genes of each of S and G2M, as symbols",
            f"{' and '.join(short)}",
            "set screen.score_phases: false, or name a column of phases in screen.phase_column",
        )
    X = load_normalised(path)
    cells = pd.DataFrame(index=[str(row) for row in range(X.shape[0])])
    data = anndata.AnnData(X, obs=cells, var=pd.DataFrame(index=genes.astype(str)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas' and anndata's of scanpy's inner ways
        scanpy.tl.score_genes_cell_cycle(data, s_genes=lists["S"], g2m_genes=lists["G2M"])
    return pd.Categorical(data.obs["phase"].astype(str), categories=list(PHASES)).codes.astype(np.int8)
