"""scikit-learn's NMF."""
