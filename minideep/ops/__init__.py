"""Every differentiable function. Each op stands beside its derivatives:

elementwise  arithmetic, powers, exponentials, comparisons that choose, nonlinearities
reduce       sum, mean, var, max, min, logsumexp
shape        reshape, transpose, indexing, joining, padding, gather and scatter
linear       matmul, einsum, rfft2, irfft2
conv         the convolution trio, transposed convolution, pooling, crop
normalization  softmax, cross-entropies, batch, group and layer normalisation
recurrent    whole sequences of RNN, GRU and LSTM, and the gradient gate
"""

from minideep.ops.elementwise import *  # noqa: F401,F403
from minideep.ops.reduce import *  # noqa: F401,F403
from minideep.ops.shape import *  # noqa: F401,F403
from minideep.ops.linear import *  # noqa: F401,F403
from minideep.ops.conv import *  # noqa: F401,F403
from minideep.ops.normalization import *  # noqa: F401,F403
from minideep.ops.recurrent import *  # noqa: F401,F403
