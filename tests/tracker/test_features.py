"""The feature network: its shape, what it sees, its file, and PyTorch's numbers."""

import numpy as np
import pytest

from minideep import no_grad, seed, tensor
from minideep.serialization import save_arrays
from tracker.features import CHANNELS, SOFTNESS, FeatureNetwork, _equalise_in_ops, equalise


@pytest.fixture(scope="module")
def network():
    seed(0)
    return FeatureNetwork()


def features(network, crops):
    with no_grad():
        return network(tensor(np.asarray(crops, np.float32))).numpy()


def noise(n, side, number=0):
    return np.random.default_rng(number).integers(0, 256, (n, side, side, 3)).astype(np.float32)


def test_shapes_and_size(network):
    assert network.count_params() == 24352
    for side in (160, 120, 16):
        y = features(network, noise(2, side))
        assert y.shape == (2, side // 4, side // 4, CHANNELS) and y.dtype == np.float32
    with no_grad():
        from_bytes = network(noise(1, 16).astype(np.uint8)).numpy()
    np.testing.assert_array_equal(from_bytes, features(network, noise(1, 16)))


@pytest.mark.parametrize("shape", [(1, 18, 16, 3), (1, 16, 16, 4), (16, 16, 3)])
def test_other_crops_are_refused(network, shape):
    with pytest.raises(ValueError, match="multiples of 4"):
        features(network, np.zeros(shape))


def test_a_cell_sees_the_pixels_around_it(network):
    """Cell (i, j) depends on the pixels within 12 of (4 i + 1, 4 j + 1), and on no other."""
    crop = noise(1, 64)
    before = features(network, crop)[0, 8, 7]
    for axis, middle in ((1, 33), (2, 29)):
        for offset, seen in ((-13, False), (-12, True), (12, True), (13, False)):
            changed = crop.copy()
            line = (0, middle + offset) if axis == 1 else (0, slice(None), middle + offset)
            changed[line] = 255 - changed[line]
            difference = np.abs(features(network, changed)[0, 8, 7] - before).max()
            assert (difference > 1e-3) == seen, (axis, offset)      # rounding: 1e-6


def test_only_the_outer_three_cells_know_the_border(network):
    whole = noise(1, 96)
    inner = features(network, whole[:, 16:80, 16:80])
    np.testing.assert_allclose(inner[:, 3:-3, 3:-3], features(network, whole)[:, 7:17, 7:17],
                               atol=1e-5)


def test_vectors_are_about_equally_long(network):
    square = (features(network, noise(1, 64)) ** 2).mean(-1)
    assert square.max() < 1 and square.mean() > .5


def test_equalise_and_its_gradient():
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5))
    fused, composite = (tensor(x, "float64", True) for _ in range(2))
    y = equalise(fused)
    np.testing.assert_allclose(y.numpy(), x / np.sqrt((x ** 2).mean(-1, keepdims=True) + SOFTNESS))
    y.backward(tensor(g, "float64"))
    _equalise_in_ops(composite).backward(tensor(g, "float64"))
    np.testing.assert_allclose(fused.grad.numpy(), composite.grad.numpy(), atol=1e-13)


def test_weights_survive_a_file(network, tmp_path):
    network.save_weights(tmp_path / "a.safetensors")
    again = FeatureNetwork.load(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(features(again, noise(1, 32)), features(network, noise(1, 32)))
    with pytest.raises(FileNotFoundError, match="b.safetensors"):
        FeatureNetwork.load(tmp_path / "b.safetensors")
    save_arrays(tmp_path / "c.safetensors", {"conv1.kernel": np.zeros((3, 3, 3, 16), np.float32)})
    with pytest.raises(ValueError, match="missing: conv4.bias"):
        FeatureNetwork.load(tmp_path / "c.safetensors")


def test_pytorch_has_the_same_numbers(network):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def conv(x, layer, stride, padding):
        kernel = torch.from_numpy(layer.kernel.numpy().transpose(3, 2, 0, 1).copy())
        return functional.conv2d(functional.pad(x, padding), kernel,
                                 torch.from_numpy(layer.bias.numpy().copy()), stride)

    for layer in (network.conv1, network.conv4):            # else all biases are zero
        layer.bias.data = tensor(np.random.default_rng(1).normal(size=layer.bias.shape), "float32").data
    crops = noise(2, 40)
    x = torch.from_numpy(crops / 128 - 1).permute(0, 3, 1, 2)
    x = functional.relu(conv(x, network.conv1, 2, (1, 2, 1, 2)))
    x = functional.relu(conv(x, network.conv2, 2, (1, 1, 1, 1)))
    x = functional.relu(conv(x, network.conv3, 1, (1, 1, 1, 1)))
    x = conv(x, network.conv4, 1, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    expected = (x / torch.sqrt((x ** 2).mean(-1, keepdim=True) + SOFTNESS)).numpy()
    np.testing.assert_allclose(features(network, crops), expected, atol=2e-5)
