"""Shapes of a window that slides over an image: shared by convolution, pooling and their layers."""

from __future__ import annotations

import functools
import operator
from math import gcd


def pair(value, name, minimum=1):
    """`value`, an integer or a pair (vertical, horizontal), as a pair of ints >= `minimum`."""
    try:
        values = value if isinstance(value, (tuple, list)) else (value, value)
        vertical, horizontal = (int(operator.index(v)) for v in values)  # int: of True too
    except (TypeError, ValueError):
        expected = f"{name} must be an integer or a pair of integers"
        raise ValueError(f"{expected}, got {value!r}") from None
    if vertical < minimum or horizontal < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return vertical, horizontal


def window(image, kernel, stride=1, padding=0, dilation=1):
    """Normal form of a sliding window, and the size of what it makes.

    image, kernel: (height, width). stride, dilation: an integer or a pair. padding: an integer, a
    pair, ((top, bottom), (left, right)), "valid" (none) or "same": as many as make the output
    ceil(image / stride), the odd one at the bottom and right (the rule of Keras and TensorFlow).

    Returns (stride, padding, dilation, output) as pairs; padding is a pair of pairs.
    Raises ValueError for anything else, and where the kernel is larger than the padded image.
    """
    try:
        check_key(stride, padding, dilation)
        return _window(image, kernel, stride, padding, dilation)
    except TypeError:
        return _window.__wrapped__(image, kernel, _tuple(stride), _tuple(padding), _tuple(dilation))


def check_key(stride, padding, dilation):
    """TypeError for pairs that are no key of a cache: of lists, and of numbers that are not whole.

    (1.0, 1) would be found as the (1, 1) of an earlier call, and be no error then. gcd takes whole
    numbers only, and nothing tells it in less time; single numbers are told apart by `typed`.
    """
    if isinstance(stride, tuple):
        gcd(*stride)
    if isinstance(dilation, tuple):
        gcd(*dilation)
    if isinstance(padding, tuple):
        if padding and isinstance(padding[0], tuple):
            for sides in padding:
                gcd(*sides)
        else:
            gcd(*padding)


@functools.lru_cache(maxsize=4096, typed=True)
def _window(image, kernel, stride, padding, dilation):
    stride = pair(stride, "stride")
    dilation = pair(dilation, "dilation")
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation))
    if min(kernel) < 1:
        raise ValueError(f"the window must be at least 1 x 1, got {kernel[0]} x {kernel[1]}")
    if padding == "same":
        total = [
            max((-(-size // s) - 1) * s + e - size, 0) for size, s, e in zip(image, stride, extent)
        ]
        padding = tuple((t // 2, t - t // 2) for t in total)
    elif padding == "valid":
        padding = ((0, 0), (0, 0))
    elif isinstance(padding, str):
        raise ValueError(f'padding must be "same", "valid" or integers, got {padding!r}')
    elif isinstance(padding, tuple) and any(isinstance(side, tuple) for side in padding):
        if len(padding) != 2:
            raise ValueError(
                f"padding must be a pair of pairs ((top, bottom), (left, right)), got {padding!r}"
            )
        padding = tuple(pair(side, "padding", minimum=0) for side in padding)
    else:
        padding = tuple((p, p) for p in pair(padding, "padding", minimum=0))
    padded = tuple(size + sum(sides) for size, sides in zip(image, padding))
    if min(image) < 1 or any(e > size for e, size in zip(extent, padded)):
        raise ValueError(
            f"a window of {extent[0]} x {extent[1]} (kernel {kernel[0]} x {kernel[1]}, dilation "
            f"{dilation}) does not fit into the image of {image[0]} x {image[1]}, padded to "
            f"{padded[0]} x {padded[1]}; use more padding or a smaller kernel"
        )
    output = tuple((size - e) // s + 1 for size, e, s in zip(padded, extent, stride))
    return stride, padding, dilation, output


def _tuple(value):
    return tuple(map(_tuple, value)) if isinstance(value, (list, tuple)) else value
