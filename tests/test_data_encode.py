"""The bundled digits and the encoders."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms


def test_digits_are_the_uci_set_in_three_parts():
    parts = {name: ms.data.digits(name) for name in ms.data.SPLITS}
    assert {n: len(y) for n, (x, y) in parts.items()} == {"train": 1257, "validation": 180, "test": 360}
    images, labels = (np.concatenate(a) for a in zip(*parts.values(), strict=True))
    assert images.dtype == np.float32 and labels.dtype == np.int64 and images.shape == (1797, 64)
    assert images.min() == 0 and images.max() == 1 and np.array_equal(images * 16, np.round(images * 16))
    # Class sizes and the sum of all pixels as scikit-learn's load_digits has them.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (images * 16).sum(dtype=np.float64) == 561718
    assert len(np.unique(images, axis=0)) == 1797
    for _, y in parts.values():
        assert np.bincount(y).min() >= len(y) / 10 * 0.6


def test_a_nearest_mean_finds_the_digits():
    """Images and labels belong together."""
    (x, y), (u, v) = ms.data.digits("train"), ms.data.digits("test")
    means = np.stack([x[y == c].mean(axis=0) for c in range(10)])
    assert (((u[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == v).mean() > 0.85


def test_digits_as_maps_and_unknown_splits():
    flat, maps = ms.data.digits("test")[0], ms.data.digits("test", flat=False)[0]
    assert maps.shape == (360, 1, 8, 8) and np.array_equal(maps.reshape(360, 64), flat)
    with pytest.raises(ValueError, match="unknown split 'valid', expected one of 'train', 'validation', 'test'"):
        ms.data.digits("valid")


@given(steps=st.integers(1, 6), b=st.integers(1, 4), n=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_bernoulli_is_a_function_of_its_generator(steps, b, n, seed):
    images = np.random.default_rng(seed).random((b, n), dtype=np.float32)
    kept = images.copy()
    first, second = (ms.encode.bernoulli(images, steps=steps, rng=np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == (steps, b, n) and first.dtype == np.uint8 and set(np.unique(first)) <= {0, 1}
    assert np.array_equal(first, second) and np.array_equal(images, kept)
    assert np.array_equal(ms.encode.Bernoulli(steps)(images, np.random.default_rng(seed)), first)


def test_bernoulli_fires_with_the_probability_of_the_value():
    images = np.array([[0.0, 0.1, 0.5, 0.9, 1.0]])
    rate = ms.encode.bernoulli(images, steps=40_000, rng=np.random.default_rng(0)).mean(axis=0)
    assert rate[0, 0] == 0 and rate[0, 4] == 1 and np.allclose(rate, images, atol=0.01)


def test_constant_repeats():
    images = np.random.default_rng(0).random((2, 3, 4), dtype=np.float32)
    x = ms.encode.constant(images, steps=3)
    assert x.shape == (3, 2, 3, 4) and x.dtype == np.float32 and all(np.array_equal(step, images) for step in x)
    assert np.array_equal(ms.encode.Constant(3)(images, None), x)


@pytest.mark.parametrize(
    "encode", [lambda x, **k: ms.encode.bernoulli(x, rng=np.random.default_rng(0), **k), ms.encode.constant]
)
def test_bad_images_and_steps_are_explained(encode):
    good = np.zeros((2, 3))
    for bad in (good + 255, good - 0.1, good + np.nan, np.full((2, 3), 255, np.uint8)):
        with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
            encode(bad, steps=3)
    with pytest.raises(ValueError, match="divide by 255"):
        encode(good + 200, steps=3)
    with pytest.raises(ValueError, match="at least one sample"):
        encode(good[:0], steps=3)
    for steps in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="steps must be a whole number"):
            encode(good, steps=steps)


def test_bernoulli_wants_a_generator():
    with pytest.raises(TypeError, match="default_rng"):
        ms.encode.bernoulli(np.zeros((2, 3)), steps=2, rng=0)


# -- latency


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=20), steps=st.integers(1, 9))
def test_latency_fires_once_and_the_larger_the_earlier(values, steps):
    images = np.array([values], np.float32)
    spikes = ms.encode.latency(images, steps=steps)
    assert spikes.shape == (steps, *images.shape) and spikes.dtype == np.uint8
    assert np.array_equal(spikes.sum(axis=0), images > 0)
    first = np.where(images > 0, spikes.argmax(axis=0), steps)[0]
    assert (np.diff(first[np.argsort(-images[0], kind="stable")]) >= 0).all()
    assert (first[images[0] == 1] == 0).all()
    assert np.array_equal(ms.encode.Latency(steps)(images, None), spikes)
