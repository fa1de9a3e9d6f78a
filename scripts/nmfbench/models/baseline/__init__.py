"""The usual rivals: principal components, and Harmony on them."""
