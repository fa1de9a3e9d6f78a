"""What the factors of a fit are: their genes, their cells, their sets, and where else they are found.

A *factor* is one column of the embedding H (cells x k) with its column of the loadings W (genes x k). A
*program* is the same factor said in genes: its gene scores (:mod:`nmfbench.factors.scores`).

Everything here reads a result (``result.h5ad``) and, where counts are needed, the filtered counts in
blocks: never all at once. The results of every model are read alike.
"""
