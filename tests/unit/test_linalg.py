"""Sparse products: equal to SciPy's, in both precisions, whatever the threads, sorted or not."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from nmfbench.linalg import SparseRows, as_sorted_csr, even_cuts


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def block(request):
    X = sp.random_array(
        (40, 150), density=0.2, rng=np.random.default_rng(0), dtype=request.param, format="csr"
    )
    X = X.tolil()
    X[3] = 0  # a cell without a nonzero
    X[:, 10:20] = 0  # genes without one
    X = sp.csr_array(X)
    X.sort_indices()
    return X


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def factor(rows, dtype, k=11):
    return torch.from_numpy(np.random.default_rng(1).random((rows, k)).astype(dtype))


def test_times_is_close_to_scipy(block, threads):
    D = factor(150, block.dtype)
    np.testing.assert_allclose(SparseRows(block).times(D).numpy(), block @ D.numpy(), rtol=1e-5, atol=1e-6)


def test_times_as_scipy_is_equal_to_the_last_bit(block, threads):
    D = factor(150, block.dtype)
    assert np.array_equal(SparseRows(block).times(D, as_scipy=True).numpy(), block @ D.numpy())


def test_transposed_times_is_equal_to_the_last_bit(block, threads):
    H = factor(40, block.dtype)
    assert np.array_equal(SparseRows(block).transposed_times(H).numpy(), block.T @ H.numpy())


def test_transposed_times_writes_and_adds(block):
    H = factor(40, block.dtype)
    rows = SparseRows(block)
    plain = rows.transposed_times(H)
    out = torch.full_like(plain, 7)
    assert rows.transposed_times(H, out=out) is out
    assert torch.equal(out, plain)
    rows.transposed_times(H, out=out, accumulate=True)
    torch.testing.assert_close(out, 2 * plain)


def test_transposed_times_takes_any_layout(block):
    H = factor(40, block.dtype)
    assert torch.equal(
        SparseRows(block).transposed_times(H.T.contiguous().T), SparseRows(block).transposed_times(H)
    )


def test_group_sums(block):
    codes = np.random.default_rng(2).integers(3, size=40)
    out = torch.ones((3, 150), dtype=torch.float64)
    SparseRows(block).group_sums(codes, out)
    expected = 1 + np.stack([block[codes == c].astype(np.float64).sum(axis=0) for c in range(3)])
    np.testing.assert_allclose(out.numpy(), expected)


def test_subset_and_squared_norm(block):
    rows = np.array([5, 3, 17])
    D = factor(150, block.dtype)
    part = SparseRows(block).subset(rows)
    assert torch.equal(part.times(D), SparseRows(block).times(D)[rows])
    assert SparseRows(block).squared_norm() == pytest.approx((block.astype(np.float64) ** 2).sum())


def test_a_cell_has_the_same_product_in_any_block(block):
    D = factor(150, block.dtype)
    whole = SparseRows(block).times(D)
    apart = torch.cat([SparseRows(block[i : i + 7]).times(D) for i in range(0, 40, 7)])
    assert torch.equal(whole, apart)


def test_unsorted_indices_and_wide_integers_are_taken(block):
    wrong = sp.csr_array(block)
    for i in range(40):
        row = slice(wrong.indptr[i], wrong.indptr[i + 1])
        wrong.indices[row] = wrong.indices[row][::-1].copy()
        wrong.data[row] = wrong.data[row][::-1].copy()
    wrong.has_sorted_indices = False
    wrong.indices = wrong.indices.astype(np.int64)
    wrong.indptr = wrong.indptr.astype(np.int64)
    H = factor(40, block.dtype)
    assert np.array_equal(SparseRows(wrong).transposed_times(H).numpy(), block.T @ H.numpy())


def test_empty_blocks():
    none = SparseRows(sp.csr_array((0, 5), dtype=np.float32))
    assert none.times(factor(5, np.float32)).shape == (0, 11)
    blank = SparseRows(sp.csr_array((4, 5), dtype=np.float32))
    assert not blank.transposed_times(factor(4, np.float32)).any()
    assert not blank.times(factor(5, np.float32)).any()


def test_the_products_of_the_gpu_path(block):
    """torch's sparse products, as used on a GPU, here on the CPU."""
    rows = SparseRows(block)
    D, H = factor(150, block.dtype), factor(40, block.dtype)
    torch.testing.assert_close(torch.sparse.mm(rows._tensor(), D), rows.times(D))
    torch.testing.assert_close(torch.sparse.mm(rows._transposed_tensor(), H), rows.transposed_times(H))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu(block):
    cpu, gpu = SparseRows(block), SparseRows(block, "cuda")
    D, H = factor(150, block.dtype), factor(40, block.dtype)
    codes = np.arange(40) % 3
    torch.testing.assert_close(gpu.times(D.cuda()).cpu(), cpu.times(D))
    torch.testing.assert_close(gpu.transposed_times(H.cuda()).cpu(), cpu.transposed_times(H))
    sums = torch.zeros((3, 150), dtype=D.dtype)
    torch.testing.assert_close(
        gpu.group_sums(codes, sums.clone().cuda()).cpu(), cpu.group_sums(codes, sums.clone())
    )


def test_as_sorted_csr_copies_only_what_it_must(block):
    assert as_sorted_csr(block) is block
    doubled = sp.csr_array((np.ones(3), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 4))
    tidy = as_sorted_csr(doubled)
    assert tidy.indices.tolist() == [0, 2]
    assert tidy.data.tolist() == [1, 2]
    assert doubled.nnz == 3, "the input is left as it was"
    assert np.array_equal(as_sorted_csr(block.toarray()).toarray(), block.toarray())
    assert np.array_equal(as_sorted_csr(block.tocsc()).toarray(), block.toarray())


def test_even_cuts(threads):
    assert even_cuts(0).tolist() == [0, 0]
    assert even_cuts(10, smallest=100).tolist() == [0, 10]
    cuts = even_cuts(1000)
    assert (cuts[0], cuts[-1], len(cuts)) == (0, 1000, threads + 1)
