"""Solutions of lesson 05."""


def parameters(size):
    """Weights of the network for pictures of size x size with three channels."""
    total, channels = 0, 3
    for filters in (32, 64, 128):
        total += 3 * 3 * channels * filters + filters
        size, channels = (size - 2) // 2, filters
    flat = size * size * channels
    return total + flat * 1024 + 1024 + 1024 * 1 + 1


def receptive_field(layers):
    """Pixels that one output sees: each layer adds (kernel - 1) steps of the strides before it."""
    seen, step = 1, 1
    for kernel, stride in layers:
        seen += (kernel - 1) * step
        step *= stride
    return seen
