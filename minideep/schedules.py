"""Learning rates that change with the step: schedule(step) -> float, step counted from 0.

Names, arguments and formulas of keras.optimizers.schedules; WarmUp goes in front of any of them.
"""

import math

from minideep.config import Configurable

__all__ = "CosineDecay ExponentialDecay PiecewiseConstantDecay WarmUp".split()


class PiecewiseConstantDecay(Configurable):
    """values[0] up to and including step boundaries[0], then values[1], ...; one value more."""

    def __init__(self, boundaries, values):
        if len(values) != len(boundaries) + 1 or list(boundaries) != sorted(boundaries):
            raise ValueError(f"{len(boundaries)} boundaries, rising, want one value more; got "
                             f"boundaries={boundaries} and values={values}")
        self.boundaries, self.values = list(boundaries), list(values)

    def __call__(self, step):
        return float(self.values[sum(step > b for b in self.boundaries)])


class ExponentialDecay(Configurable):
    """initial_learning_rate · decay_rate^(step / decay_steps); in steps if staircase=True."""

    def __init__(self, initial_learning_rate, decay_steps, decay_rate, staircase=False):
        self.initial_learning_rate, self.decay_rate = initial_learning_rate, decay_rate
        self.decay_steps, self.staircase = _positive(decay_steps), staircase

    def __call__(self, step):
        p = step / self.decay_steps
        return float(self.initial_learning_rate * self.decay_rate ** (
            math.floor(p) if self.staircase else p))


class CosineDecay(Configurable):
    """A linear warm-up to warmup_target in warmup_steps (where given), then half a cosine down to
    alpha times the top in decay_steps (Loshchilov & Hutter 2016, arXiv:1608.03983)."""

    def __init__(self, initial_learning_rate, decay_steps, alpha=0.0, warmup_target=None,
                 warmup_steps=0):
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, _positive(decay_steps)
        self.alpha, self.warmup_target, self.warmup_steps = alpha, warmup_target, warmup_steps

    def __call__(self, step):
        low, top = self.initial_learning_rate, self.warmup_target
        if top is None:
            top = low
        elif step < self.warmup_steps:
            return float(low + (top - low) * step / self.warmup_steps)
        else:
            step -= self.warmup_steps
        cosine = 0.5 * (1 + math.cos(math.pi * min(step / self.decay_steps, 1.0)))
        return float(top * ((1 - self.alpha) * cosine + self.alpha))


class WarmUp(Configurable):
    """A linear rise to `after` (a number or a schedule, which starts where this ends) in `steps`
    steps; the first step already has 1 / steps of it."""

    def __init__(self, steps, after):
        self.steps, self.after = _positive(steps), after if callable(after) else lambda step: after

    def __call__(self, step):
        if step < self.steps:
            return float(self.after(0) * (step + 1) / self.steps)
        return float(self.after(step - self.steps))


def _positive(steps):
    if steps <= 0:
        raise ValueError(f"a schedule wants a number of steps above 0; got {steps}")
    return steps
