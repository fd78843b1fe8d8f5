"""Layers with Keras's names, arguments, defaults, initialisers and numbers.

base           Layer: weights, calls, what a layer of one's own has to write
core           Dense, dropout, activations, shapes, masks
convolution    Conv2D, DepthwiseConv2D, Conv2DTranspose
pooling        maximum and mean, of windows or of the whole image
normalization  by batch, layer or group
recurrent      SimpleRNN, GRU, LSTM, their cells, both directions, layers at every time step
"""

from minideep.layers.base import *  # noqa: F401,F403
from minideep.layers.core import *  # noqa: F401,F403
from minideep.layers.convolution import *  # noqa: F401,F403
from minideep.layers.pooling import *  # noqa: F401,F403
from minideep.layers.normalization import *  # noqa: F401,F403
from minideep.layers.recurrent import *  # noqa: F401,F403
