"""Compiled loops of the neighbour search and of the scores that read neighbours."""

from __future__ import annotations

import numpy as np

from nmfbench.compiled import compiled

_STRETCH = 64


@compiled(nogil=True, fastmath=True)
def _smallest(products, norms, begin, end):
    """Smallest squared distance in a stretch, less the row's own norm."""
    found = np.float32(3e38)
    for j in range(begin, end):
        value = norms[j] - np.float32(2.0) * products[j]
        found = value if value < found else found
    return found


@compiled(nogil=True)
def nearest_by_bound(products, row_norms, column_norms, first, candidates, bounds):
    """Offer a block of cells to each row's heap of candidates, the largest bound at its root.

    Parameters
    ----------
    products : ndarray of float32, shape (rows, columns)
        Scalar products of cells.
    row_norms, column_norms : ndarray of float32
        Squared norms, less what rounding may have added.
    first : int
        Number of the first cell of the columns.
    candidates, bounds : ndarray of shape (rows, n_candidates)
        Heaps, changed in place.
    """
    rows, columns = products.shape
    for i in range(rows):
        line = products[i]
        for begin in range(0, columns, _STRETCH):
            end = min(begin + _STRETCH, columns)
            # most stretches hold nothing near enough, which a few instructions tell
            if _smallest(line, column_norms, begin, end) < bounds[i, 0] - row_norms[i]:
                for j in range(begin, end):
                    bound = row_norms[i] + column_norms[j] - np.float32(2.0) * line[j]
                    if bound < bounds[i, 0]:
                        _replace_root(candidates[i], bounds[i], first + j, bound)


@compiled(nogil=True)
def _replace_root(candidates, bounds, candidate, bound):
    """Take the root out of a heap with its largest at the root, and put a smaller one in."""
    size = len(bounds)
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and bounds[child + 1] > bounds[child]:
            child += 1
        if bounds[child] <= bound:
            break
        bounds[place] = bounds[child]
        candidates[place] = candidates[child]
        place = child
    bounds[place] = bound
    candidates[place] = candidate


@compiled(nogil=True)
def _insert(indices, squares, length, index, square):
    """Insert into an ascending list of at most `len(indices)`, equal ones by index; the new length."""
    size = len(indices)
    if length == size and (
        square > squares[size - 1] or (square == squares[size - 1] and index > indices[size - 1])
    ):
        return length
    place = min(length, size - 1)
    while place > 0 and (
        squares[place - 1] > square or (squares[place - 1] == square and indices[place - 1] > index)
    ):
        squares[place] = squares[place - 1]
        indices[place] = indices[place - 1]
        place -= 1
    squares[place] = square
    indices[place] = index
    return min(length + 1, size)


@compiled(nogil=True)
def _squared_distance(X, a, b):
    total = 0.0
    for f in range(X.shape[1]):
        difference = np.float64(X[a, f]) - np.float64(X[b, f])
        total += difference * difference
    return total


@compiled(nogil=True)
def rank_exactly(X, start, candidates, bounds, indices, squares, proven):
    """Put each row's candidates in order by their distance in double precision, the cell itself first.

    `proven` says which rows are complete: the last neighbour is nearer than any cell that was not kept.
    """
    k = indices.shape[1]
    for i in range(candidates.shape[0]):
        cell = start + i
        indices[i, 0] = cell
        squares[i, 0] = 0.0
        length = 0
        for c in range(candidates.shape[1]):
            other = candidates[i, c]
            if other != cell:
                length = _insert(
                    indices[i, 1:], squares[i, 1:], length, other, _squared_distance(X, cell, other)
                )
        proven[i] = length == k - 1 and squares[i, k - 1] < bounds[i, 0]


@compiled(nogil=True)
def nearest_exactly(X, rows, indices, squares):
    """Search the neighbours of some cells among all, in double precision, the cell itself first."""
    for cell in rows:
        indices[cell, 0] = cell
        squares[cell, 0] = 0.0
        length = 0
        for other in range(X.shape[0]):
            if other != cell:
                length = _insert(
                    indices[cell, 1:], squares[cell, 1:], length, other, _squared_distance(X, cell, other)
                )


@compiled(nogil=True)
def vote(Z, codes, test, candidates, in_train, reach, votes, proven):
    """Count the classes of the nearest training cells, taken from a few candidates of each test cell.

    Parameters
    ----------
    Z : ndarray of float32, shape (n_cells, n_factors)
        Cells in the scaling of the fold.
    codes : ndarray of int64, shape (n_cells,)
        Class of each cell.
    test : ndarray of int64, shape (n_test,)
        Cells to predict.
    candidates : ndarray of int32, shape (n_cells, n_candidates)
        Cells that may be their neighbours; -1 for none.
    in_train : ndarray of bool, shape (n_cells,)
        Training cells of the fold.
    reach : ndarray of float64, shape (n_cells,)
        No other training cell is nearer than that.
    votes : ndarray of int64, shape (n_test, n_classes)
        Filled with the classes of the `votes` nearest; the sum of a row is their number.
    proven : ndarray of bool, shape (n_test,)
        Filled: whether these are the nearest, and no tie of different classes at the last of them.
    """
    size = candidates.shape[1]
    n_nearest = 15
    found = np.empty(size, dtype=np.int32)
    squares = np.empty(size, dtype=np.float64)
    for t in range(test.size):
        cell = test[t]
        length = 0
        for c in range(size):
            other = candidates[cell, c]
            if other >= 0 and in_train[other]:
                length = _insert(found, squares, length, other, _squared_distance(Z, cell, other))
        proven[t] = length >= n_nearest
        if not proven[t]:
            continue
        last = squares[n_nearest - 1]
        proven[t] = np.sqrt(last) < reach[cell]
        # scikit-learn rounds a squared distance by this much at most, and so may order two cells otherwise
        norm = 0.0
        for f in range(Z.shape[1]):
            norm += np.float64(Z[cell, f]) ** 2
        spread = 1e-6 * last + 1e-13 * (norm + last)
        for c in range(length):
            if c < n_nearest:
                votes[t, codes[found[c]]] += 1
            tied = abs(squares[c] - last) <= spread
            if tied and codes[found[c]] != codes[found[n_nearest - 1]]:
                for later in range(n_nearest, length):
                    if squares[later] - last <= spread:
                        proven[t] = False


@compiled(nogil=True)
def simpson(indices, distances, codes, n_labels, perplexity, tolerance, found):
    """Simpson index of the labels among each cell's neighbours, weighed to one perplexity, into `found`."""
    width = indices.shape[1]
    weights = np.empty(width)
    shares = np.empty(n_labels)
    target = np.log(perplexity)
    for cell in range(indices.shape[0]):
        if codes[cell] < 0:
            continue
        nearest = np.inf
        for j in range(width):
            if indices[cell, j] != cell and codes[indices[cell, j]] >= 0:
                nearest = min(nearest, distances[cell, j])
        if nearest == np.inf:
            continue
        beta, low, high = 1.0, 0.0, np.inf
        total = 0.0
        for step in range(51):
            total = 0.0
            mean = 0.0
            for j in range(width):
                weights[j] = 0.0
                if indices[cell, j] != cell and codes[indices[cell, j]] >= 0:
                    # from the nearest on: the same shares, and nothing vanishes
                    apart = distances[cell, j] - nearest
                    weights[j] = np.exp(-beta * apart)
                    total += weights[j]
                    mean += apart * weights[j]
            excess = np.log(total) + beta * mean / total - target
            if abs(excess) < tolerance or step == 50:
                break
            if excess > 0:
                low = beta
                beta = beta * 2.0 if high == np.inf else 0.5 * (beta + high)
            else:
                high = beta
                beta = 0.5 * (beta + low)
        shares[:] = 0.0
        for j in range(width):
            if weights[j] > 0.0:
                shares[codes[indices[cell, j]]] += weights[j] / total
        found[cell] = (shares * shares).sum()
