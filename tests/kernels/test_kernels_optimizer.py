"""The step of Adam: every rung against the formula, the formula against PyTorch's."""

import numpy as np
import pytest

from kernels import adam, ladders


def arguments(size, dtype=np.float64, rng=np.random.default_rng(0)):
    w, g, m = (rng.standard_normal(size).astype(dtype) for _ in range(3))
    return w, g, m, (rng.standard_normal(size) ** 2).astype(dtype)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 40, (3, 5, 7), 2**14 + 1, 2**16 + 37])
def test_every_rung_equals_the_formula(size, dtype, tolerance):
    numbers = arguments(size)
    expected = adam.rungs["formula"](*adam.contract(*(a.copy() for a in numbers), 0.1, 3))
    for name in ("array", "compiled"):
        ours = [a.astype(dtype) for a in numbers]
        normal = adam.contract(*ours, 0.1, 3)
        if adam.rungs[name].refusal("cpu", normal) is not None:
            continue
        results = adam.rungs[name](*normal)
        for got, same, want in zip(results, (ours[0], ours[2], ours[3]), expected):
            assert got is same
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=name)
        np.testing.assert_array_equal(ours[1], numbers[1].astype(dtype))


def test_arrays_of_any_alignment_change_only_themselves():
    for offset in (1, 3, 16):
        memory = [np.full(2**14 + 200, 7.0, np.float32) for _ in range(4)]
        inside = slice(offset, offset + 2**14 + 99)
        adam(*(a[inside] for a in memory), 0.1, 1)
        for array in memory:
            assert (array[: inside.start] == 7).all() and (array[inside.stop :] == 7).all()
            assert len(set(array[inside])) == 1


@pytest.mark.parametrize("name", ["formula", "array", "compiled"])
def test_a_weight_without_axes(name):
    w, m, v = (np.zeros((), np.float32) for _ in range(3))
    normal = adam.contract(w, np.float32(2), m, v, 0.1, 1)
    if adam.rungs[name].refusal("cpu", normal) is None:
        adam.rungs[name](*normal)
        np.testing.assert_allclose([w, m, v], [-0.1, 0.2, 0.004], rtol=1e-4)


def test_what_is_not_contiguous_is_changed_too():
    wide = arguments((6, 8))
    narrow = [a[:, ::2] for a in wide]
    expected = adam.rungs["formula"](*adam.contract(*(a.copy() for a in narrow), 0.1, 1))
    adam(*narrow, 0.1, 1)
    np.testing.assert_allclose(narrow[0], expected[0], rtol=1e-12)
    assert "contiguous" in (ladders()["adam"].rungs["compiled"].refusal(
        "cpu", adam.contract(*narrow, 0.1, 1)
    ))


def test_against_pytorch():
    torch = pytest.importorskip("torch")
    w, g, _, _ = arguments(50)
    theirs = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = torch.optim.Adam([theirs], lr=0.1, eps=0)
    m, v = np.zeros(50), np.zeros(50)
    for step in range(1, 6):
        theirs.grad = torch.from_numpy(g * step)
        optimizer.step()
        adam(w, g * step, m, v, 0.1, step, epsilon=0)
    np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-9)


def test_errors_say_what_is_wrong():
    w, g, m, v = arguments(3)
    with pytest.raises(ValueError, match=r"m must have the shape of w, \(3,\), got \(2,\)"):
        adam(w, g, m[:2], v, 0.1, 1)
    with pytest.raises(ValueError, match="step must be at least 1, got 0"):
        adam(w, g, m, v, 0.1, 0)
    with pytest.raises(TypeError, match="floating point"):
        adam(w, g, m, v.astype(int), 0.1, 1)
    with pytest.raises(TypeError, match="g must be an array, got list"):
        adam(w, [1.0] * 3, m, v, 0.1, 1)
