"""Solutions of lesson 12."""


def overlap(a, b):
    """Intersection over union of boxes x, y, w, h; 0 where they touch or are apart."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def first_lost(confidence, low, high):
    """Lost below `low` until above `high`, for each confidence in turn."""
    lost, said = False, []
    for c in confidence:
        lost = c < (high if lost else low)
        said.append(lost)
    return said
