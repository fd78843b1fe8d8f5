"""The online filter: what it must do exactly, a dense solve, plain loops; the colour histogram."""

import numpy as np
import pytest

from tracker import colour_histogram, correlation_filter
from tracker.colour_histogram import ColourHistogram, bin_numbers
from tracker.correlation_filter import CorrelationFilter, peak, soft_box


def samples(seed, count=1, n=8, channels=2):
    return np.random.default_rng(seed).standard_normal((count, n, n, channels))


def whole(filter):
    """The masked filter on all cells (n, n, C)."""
    spectrum = filter.filter_spectrum
    return np.fft.irfft2(spectrum, (filter.n, filter.n), axes=(0, 1))


def test_the_response_is_the_correlation():
    """r[s] = Σ x[u + s]·f[u], in loops."""
    filter = CorrelationFilter(samples(0), [1.], (4, 3), np.float64)
    f, x = whole(filter), samples(1)[0]
    expected = [[sum(x[(i + a) % 8, (j + b) % 8] @ f[i, j] for i in range(8) for j in range(8))
                 for b in range(8)] for a in range(8)]
    np.testing.assert_allclose(filter.respond(x[None])[0], expected, atol=1e-10)


def test_of_its_own_sample_it_makes_the_label(monkeypatch):
    """With all cells allowed and hardly a ridge, one sample is fitted exactly."""
    monkeypatch.setattr(correlation_filter, "RIDGE", 1e-12)
    monkeypatch.setattr(correlation_filter, "AT_FIRST", 500)
    x = samples(2)
    filter = CorrelationFilter(x, [1.], (30, 30), np.float64)      # a mask of ones
    label = peak(8, correlation_filter.PEAK * 30)
    np.testing.assert_allclose(filter.respond(x)[0], label, atol=1e-4)
    moved = np.roll(x, (2, -3), (1, 2))
    np.testing.assert_allclose(filter.respond(moved)[0], np.roll(label, (2, -3), (0, 1)), atol=1e-4)


@pytest.mark.parametrize("n", [8, 7])
def test_conjugate_gradients_reach_the_dense_solution(n, monkeypatch):
    """Against the normal equations as a matrix, solved by LAPACK."""
    monkeypatch.setattr(correlation_filter, "AT_FIRST", 400)
    monkeypatch.setattr(correlation_filter, "BARELY", 0)
    x, weights, size = samples(3, 3, n), np.array([.5, .3, .2]), (3, 4)
    filter = CorrelationFilter(x, weights, size, np.float64)
    label, mask = peak(n, correlation_filter.PEAK * 12 ** .5), soft_box(n, size)
    ridge = correlation_filter.RIDGE * (x[0] ** 2).sum()
    left, right = ridge * np.eye(n * n * 2), np.zeros(n * n * 2)
    for a, sample in zip(weights, x):
        rows = []       # of the matrix that makes responses of a filter: all shifts of the sample
        for s in range(n):
            for t in range(n):
                rows.append((np.roll(sample, (-s, -t), (0, 1)) * mask[..., None]).ravel())
        rows = np.array(rows)                                       # (n², n²·C)
        left += a * rows.T @ rows
        right += a * rows.T @ label.ravel()
    expected = np.linalg.solve(left, right).reshape(n, n, 2) * mask[..., None]
    np.testing.assert_allclose(whole(filter), expected, atol=1e-8 * np.abs(expected).max())


def test_single_precision_is_enough():
    x = samples(4, 2, 16, 20)
    double = CorrelationFilter(x, [.7, .3], (6, 5), np.float64)
    single = CorrelationFilter(x.astype("float32"), [.7, .3], (6, 5))
    np.testing.assert_allclose(single.respond(x), double.respond(x), atol=2e-3)
    assert single.respond(x).dtype == np.float32


def test_the_memory_keeps_the_first_and_forgets_the_rest():
    filter = CorrelationFilter(samples(5, 3), [.7, .2, .1], (4, 4))
    first = filter.memory[0].copy()
    for i in range(200):
        filter.remember(samples(100 + i)[0])
        np.testing.assert_allclose(filter.weights.sum(), 1, atol=1e-5)
    assert np.count_nonzero(filter.weights) == correlation_filter.MEMORY
    np.testing.assert_array_equal(filter.memory[0], first)
    assert .4 < filter.weights[0] < .6
    newest = filter.spectrum(samples(299)[0])
    assert any(np.array_equal(sample, newest) for sample in filter.memory)


def test_it_learns_what_it_is_shown():
    old, new = samples(6, 1, 16, 4), samples(7, 1, 16, 4)
    filter = CorrelationFilter(old, [1.], (6, 6))
    before = filter.respond(new)[0, 0, 0]
    for _ in range(30):
        filter.remember(new[0])
        filter.solve(5)
    assert filter.respond(new)[0, 0, 0] > .35 > .2 > before
    assert filter.respond(new)[0].argmax() == 0


def test_masks_and_labels_are_centred():
    mask = soft_box(9, (3, 5))
    np.testing.assert_allclose(mask, mask[::-1, ::-1])
    assert mask[4, 4] > .99 and mask[4, 2] > .8 and mask[2, 4] < .2 and mask[0, 0] < 1e-6
    label = peak(8, 1.2)
    assert label[0, 0] == 1 and np.isclose(label[1, 0], label[7, 0])
    assert np.isclose(label[0, 3], np.exp(-9 / 2.88))


def scene(at, side=64, size=20):
    crop = np.zeros((side, side, 3), "float32")
    crop[..., 0] = 200
    crop[at[0]:at[0] + size, at[1]:at[1] + size] = (10, 20, 220)
    return crop


def test_colours_find_the_target():
    colours = ColourHistogram(scene((22, 22)), (20, 20))
    for down, across in ((0, 0), (3, -2), (-4, 4)):
        scores = colours.respond(scene((22 + 4 * down, 22 + 4 * across)), 16)
        assert np.unravel_index(scores.argmax(), scores.shape) == (down % 16, across % 16)
        assert scores.max() > .95 and scores.min() < .05 and scores.dtype == np.float32


def test_scores_are_means_over_a_box():
    """The integral image against slices, of random likelihoods."""
    rng = np.random.default_rng(0)
    crop = rng.uniform(0, 255, (64, 64, 3)).astype("float32")
    colours = ColourHistogram(crop, (20, 28))
    colours.likelihood = rng.uniform(0, 1, 16 ** 3).astype("float32")
    pixels = colours.likelihood[colour_histogram.bin_numbers(crop)]         # (32, 32)
    scores = colours.respond(crop, 16)
    for i, j in ((0, 0), (3, 15), (8, 1)):
        y, x = (16 + 2 * ((k + 8) % 16 - 8) for k in (i, j))
        box = (slice(max(y - reach, 0), y + reach) for y, reach in ((y, 4.5), (x, 6.3)))
        rows, columns = (slice(max(round(s.start), 0), round(s.stop)) for s in box)
        np.testing.assert_allclose(scores[i, j], pixels[rows, columns].mean(), rtol=1e-5)


def test_colours_follow():
    colours = ColourHistogram(scene((22, 22)), (20, 20))
    green = scene((22, 22))
    green[22:42, 22:42] = (10, 220, 20)
    assert colours.respond(green, 16)[0, 0] < .6
    for _ in range(80):
        colours.learn(green)
    assert colours.respond(green, 16)[0, 0] > .9


def test_the_colours_of_bytes_are_those_of_the_same_numbers():
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    bins = bin_numbers(crop.astype(np.float32))
    np.testing.assert_array_equal(bin_numbers(crop.astype(np.uint8)), bins)
    level = crop.reshape(16, 2, 16, 2, 3).mean((1, 3)).astype(int) // 16
    np.testing.assert_array_equal(bins, level @ [256, 16, 1])
