"""The features that the correlation tracker compares: a small CNN over a crop of the frame.

    network = FeatureNetwork.load()         # the weights that come with the package
    features = network(crops)               # (N, S, S, 3) of 0 to 255 -> (N, S/4, S/4, 32)

Four convolutions look at 25 x 25 pixels around each cell; two of them have stride 2, so a cell
stands for 4 x 4 pixels. At last each cell's vector is made about equally long: a filter over
the features then sees what is there, not how strong its contrast is. The weights are trained end to
end through a correlation filter (see tracker.correlation_training).
"""
from __future__ import annotations

from pathlib import Path

from kernels.backend import array_module
from kernels.hog import hog
from kernels.lab import lab
from minideep import layers, ops
from minideep.autograd import op
from minideep.mode import grad_enabled
from minideep.models import Model
from minideep.recompute import vjp_by_recomputing
from minideep.serialization import assign, load_arrays
from minideep.tensor import Tensor

STRIDE = 4          # pixels of the crop, each way, that a cell stands for
CHANNELS = 32       # numbers in each cell
LEARNED_WEIGHT = .14    # of the CNN's features beside HOG and Lab
GRAY = 128.         # pixels are (p - GRAY) / GRAY to the network: about -1 to 1
SOFTNESS = .05      # added to the mean square: a cell of weak contrast stays a short vector
WEIGHTS = Path(__file__).parent / "weights" / "correlation.safetensors"


def hand_made(crops):
    """HOG and Lab of crops (N, S, S, 3) of 0 to 255, BGR: (N, S/STRIDE, S/STRIDE, 31) and (..., 3)."""
    return hog(crops, STRIDE), lab(crops, STRIDE)


@op
def equalise(x):
    """y = x / √(mean(x²) + SOFTNESS), the mean over the last axis."""
    return x * _scale(x)


@equalise.joint_vjp
def _equalise_vjp(g, y, x):
    """dx = (g - y·mean(g·y)) / √(mean(x²) + SOFTNESS)"""
    if grad_enabled():
        return vjp_by_recomputing(_equalise_in_ops, (x,), g)[0]
    g, y, x = g.data, y.data, x.data
    return [Tensor((g - y * _mean_product(g, y)) * _scale(x))]


def _scale(x):
    return (_mean_product(x, x) + SOFTNESS) ** -.5


def _mean_product(a, b):
    return array_module(a).einsum("...c,...c->...", a, b)[..., None] * (1 / a.shape[-1])


def _equalise_in_ops(x):
    return x / ops.sqrt((x * x).mean(axis=-1, keepdims=True) + SOFTNESS)


class FeatureNetwork(Model):
    """Crops (N, H, W, 3), BGR, 0 to 255, to features (N, H/4, W/4, CHANNELS); 24,352 weights.

    H and W are multiples of 4 (ValueError otherwise). Cell (i, j) is centred at the pixel
    (4 i + 1, 4 j + 1). Beyond the crop the network sees gray; only the three outermost cells on each
    side know of it to any extent, and a window has to fade them out, or a filter locks onto them."""

    def __init__(self, **options):
        super().__init__(**options)
        he = {"kernel_initializer": "he_normal"}
        self.conv1 = layers.Conv2D(16, 5, 2, ((1, 2), (1, 2)), activation="relu", **he)
        self.conv2 = layers.Conv2D(32, 3, 2, 1, activation="relu", **he)
        self.conv3 = layers.Conv2D(32, 3, 1, 1, activation="relu", **he)
        self.conv4 = layers.Conv2D(CHANNELS, 3, 1, 1, **he)
        self.build((None, 4 * STRIDE, 4 * STRIDE, 3))

    def build(self, input_shape):
        size = input_shape
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            layer.build(size)
            size = layer.compute_output_shape(size)

    def call(self, crops):
        if crops.ndim != 4 or crops.shape[3] != 3 or any(s % STRIDE for s in crops.shape[1:3]):
            raise ValueError(f"crops have to be (N, H, W, 3) with H and W multiples of {STRIDE}, "
                             f"not {crops.shape}")
        x = self.conv1((crops - GRAY) * (1 / GRAY))                     # (N, H/2, W/2, 16)
        x = self.conv4(self.conv3(self.conv2(x)))                       # (N, H/4, W/4, CHANNELS)
        return equalise(x)

    @classmethod
    def load(cls, path=None):
        """The network with the weights in a safetensors file; None: those that come with it.
        Raises FileNotFoundError where there is none, ValueError for weights of something else."""
        network = cls()
        path = WEIGHTS if path is None else Path(path)
        assign(network.named_weights(), load_arrays(path)[0], str(path))
        return network
