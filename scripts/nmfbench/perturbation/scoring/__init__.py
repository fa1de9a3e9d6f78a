"""Scores of predicted cells: three scorers over one set of parts.

* ``house``: the real control cells as reference of both sides, one depth, mid-ranks, every metric.
* ``vcc``: cell-eval 0.8.2 to the letter.
* ``legacy``: the older published scorer.
"""
