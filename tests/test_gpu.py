"""On a real GPU: the array rungs, the engine and a training step give the CPU's numbers.

`make test-gpu` runs these; elsewhere they are skipped, which is not a pass.
"""

import numpy as np
import pytest

import kernels
import minideep
from kernels import backend
from minideep import layers, models, ops

try:
    backend.require_cuda()
    MISSING = None
except RuntimeError as error:
    MISSING = str(error)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


@pytest.mark.parametrize("function, shapes", [
    (lambda x, w: ops.conv2d(x, w, stride=2, padding="same"), [(2, 9, 8, 4), (3, 3, 4, 6)]),
    (lambda x, w: ops.conv2d(x, w, groups=4, dilation=2), [(2, 9, 8, 4), (3, 3, 1, 8)]),
    (lambda x: ops.max_pool2d(x, 3, 2, 1), [(2, 9, 8, 4)]),
    (lambda x: ops.avg_pool2d(x, 2), [(2, 9, 8, 4)]),
    (lambda x, h, c, r: ops.stack(ops.lstm(x, h, c, r)), [(2, 5, 12), (2, 3), (2, 3), (3, 12)]),
    (ops.rnn, [(2, 5, 3), (2, 3), (3, 3)]),
    (ops.gru, [(2, 5, 9), (2, 3), (3, 9), (9,)]),
    (lambda x: ops.irfft2(ops.rfft2(x), shape=(5, 6)), [(2, 5, 6)]),
    (ops.softmax, [(4, 7)]),
    (ops.gelu, [(4, 7)]),
    (lambda x, i: x[[0, 0, 1]] * i, [(3, 4), (1, 4)]),
])
def test_values_and_gradients_equal_the_cpu(function, shapes):
    arrays = [random(*shape) for shape in shapes]
    results = []
    for device in ("cpu", "cuda"):
        inputs = [minideep.tensor(a, requires_grad=True, device=device) for a in arrays]
        y = function(*inputs)
        assert y.device == device
        (y * y).sum().backward()
        results.append([y.numpy()] + [x.grad.numpy() for x in inputs])
    for cpu, cuda in zip(*results):
        np.testing.assert_allclose(cuda, cpu, rtol=1e-4, atol=1e-5)


def test_a_training_run_equals_the_cpu():
    x, y = random(32, 12, 12, 3), (random(32, 1) > 0).astype("float32")
    losses = []
    for device in ("cpu", "cuda"):
        minideep.seed(0)
        with minideep.device(device):
            model = models.Sequential([
                layers.Conv2D(8, 3, activation="relu"), layers.MaxPooling2D(2),
                layers.BatchNormalization(), layers.Flatten(), layers.Dense(1, activation="sigmoid")])
            model.compile(optimizer="adam", loss="binary_crossentropy")
            losses.append(model.fit(x, y, epochs=3, batch_size=8, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def test_every_array_rung_runs_on_the_gpu():
    x, w = (backend.to_device(a, "cuda") for a in (random(2, 6, 6, 4), random(3, 3, 4, 5)))
    assert kernels.explain("conv2d", x, w).chosen is not None
    np.testing.assert_allclose(backend.to_numpy(kernels.conv2d(x, w)),
                               kernels.conv2d(backend.to_numpy(x), backend.to_numpy(w)), rtol=1e-4,
                               atol=1e-5)
