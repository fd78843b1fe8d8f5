"""Solutions of lesson 01."""


def divide(u, v):
    """u / v for two `Value`s of the lesson."""
    return type(u)(u.data / v.data, (u, v), lambda g: (g / v.data, -g * u.data / v.data**2))


def count_ways(n):
    """Visits of the first node of x, x², (x²)², ...: each squaring passes on twice."""
    return 1 if n == 0 else 2 * count_ways(n - 1)
