"""Products shared out among our threads: the numbers, and OpenBLAS left as it was."""

import threading

import numpy as np
import pytest

import minisnn as ms
from minisnn.kernels import blas


def shapes():
    rng = np.random.default_rng(0)
    for rows, inner, columns in ((3, 5, 4), (700, 300, 90), (1024, 784, 64), (5, 2000, 1200), (2001, 130, 33)):
        yield rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products(dtype):
    for a, b in shapes():
        a, b = a.astype(dtype), b.astype(dtype)
        for left in (a, np.ascontiguousarray(a.T).T):  # as it lies, and as a transpose
            out = np.empty((len(a), b.shape[1]), dtype)
            blas.product(left, b, out)
            assert np.abs(out - a @ b).max() <= (1e-3 if dtype == "float32" else 1e-11)


def test_same_bits_for_any_number_of_threads():
    results = []
    try:
        for threads in (1, 2, 3):
            ms.set_threads(threads)
            run = []
            for a, b in shapes():
                out = np.empty((len(a), b.shape[1]))
                blas.product(a, b, out)
                run.append(out)
            results.append(run)
    finally:
        ms.set_threads(None)
    for run in results[1:]:
        assert all(np.array_equal(x, y) for x, y in zip(run, results[0], strict=True))


def test_openblas_has_its_threads_back():
    if blas._controls() is None:
        pytest.skip("NumPy's matrix library is not an OpenBLAS that can be found here")
    get, put = blas._controls()
    before = get()
    try:
        put(2)
        seen = []

        def work():
            for a, b in shapes():
                blas.product(a, b, np.empty((len(a), b.shape[1])))
                seen.append(blas._running)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 20 and blas._running == 0 and get() == 2
        with pytest.raises(ValueError):
            blas.product(np.ones((3000, 300)), np.ones((301, 200)), np.empty((3000, 200)))
        assert blas._running == 0 and get() == 2
    finally:
        put(before)
