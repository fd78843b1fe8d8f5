"""Runs the Numba CUDA rungs in Numba's simulator, against the formula: a program of its own, as
NUMBA_ENABLE_CUDASIM=1 must be set before Numba is imported.

    python simulate_cuda_numba.py FOLDER OP...     the ops' rungs, of the package in FOLDER/kernels

A thread takes about 1 ms, so the shapes are tiny: tiles that are not full, more than one tile where
that is cheap, and no images, samples or steps at all.
"""

import sys

import numpy as np

RUNG = "cuda_numba"


def cases(op):
    """Arguments of the op as its caller gives them, float64."""
    rng = np.random.default_rng(0)
    random = rng.standard_normal
    if op.startswith("conv2d"):
        from kernels.conv2d import output_shape

        for x_shape, w_shape, geometry in [
            ((1, 9, 8, 2), (3, 3, 2, 3), (1, "same", 1, 1)),  # two tiles of rows, two of depth
            ((2, 5, 4, 4), (3, 2, 2, 6), (2, 1, 1, 2)),
            ((1, 5, 5, 2), (2, 3, 2, 3), ((2, 1), ((1, 0), (2, 1)), (1, 2), 1)),
            ((0, 5, 5, 2), (2, 3, 2, 3), (1, 0, 1, 1)),
        ]:
            x, w = random(x_shape), random(w_shape)
            g = random(output_shape(x_shape, w_shape, *geometry))
            first = {"conv2d": (x, w), "conv2d_input_grad": (g, w, x_shape)}
            yield *first.get(op, (g, x, w_shape)), *geometry
    elif "pool2d" in op:
        import kernels
        from kernels.pool2d import output_shape

        for shape, window in [
            ((2, 5, 4, 2), (2,)),
            ((1, 5, 5, 2), (3, 2, 1)),
            ((1, 5, 4, 1), ((2, 3), 1, ((1, 0), (2, 1)))),
            ((1, 6, 5, 1), (2, 3)),  # pixels between the windows
            ((0, 4, 4, 2), (2,)),
        ]:
            x = rng.integers(0, 3, shape).astype(float)  # with ties, and NaN
            x[x == 0] = rng.choice([0, -np.inf, np.nan])
            g, u = random(output_shape(shape, *window)), random(shape)
            if op == "max_pool2d":
                yield x, *window
                yield x, *window, *(None, 0)[len(window) - 1:], True
                continue
            _, winners = kernels.max_pool2d(x, *window, keep=True)
            first = {
                "max_pool2d_grad": (g, winners, shape),
                "max_pool2d_pick": (u, winners),
                "avg_pool2d": (u,),
                "avg_pool2d_grad": (g, shape),
            }
            yield *first[op], *window
    else:
        import kernels

        for n, steps, units, masked, gate in [
            (2, 2, 17, True, (0.7, None)),
            (17, 1, 2, False, None),
            (0, 2, 3, False, None),
            (2, 0, 3, False, None),
        ]:
            xw, R = random((n, steps, 4 * units)), random((units, 4 * units))
            h0, c0 = random((n, units)), random((n, units))
            mask = rng.random((n, steps)) < 0.6 if masked else None
            if op == "lstm":
                yield xw, h0, c0, R, mask, gate
            else:
                states = kernels.lstm(xw, h0, c0, R, mask, gate)
                yield random(states.shape), states, xw, h0, c0, R, mask, gate


def main(names):
    from kernels import ladders

    for name in names:
        op = ladders()[name]
        count = 0
        for case in cases(name):
            arguments = op.contract(*case)
            reason = op.rungs[RUNG].refusal("cuda", arguments)
            assert reason is None, reason
            results, expected = op.rungs[RUNG](*arguments), op.rungs["formula"](*arguments)
            if not isinstance(results, tuple):
                results, expected = (results,), (expected,)
            for got, want in zip(results, expected, strict=True):
                assert got.dtype == want.dtype
                message = f"{name}, case {count}"
                np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10, err_msg=message)
            count += 1
        print(f"{name}: {count} cases equal the formula")


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main(sys.argv[2:])
