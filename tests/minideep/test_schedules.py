"""Learning-rate schedules: against Keras's, and inside an optimizer."""

import math
import os

import pytest

import minideep
from minideep import optimizers, schedules

os.environ.setdefault("KERAS_BACKEND", "torch")


@pytest.mark.parametrize("name, options", [
    ("PiecewiseConstantDecay", {"boundaries": [3, 7], "values": [1.0, 0.5, 0.1]}),
    ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 4, "decay_rate": 0.5}),
    ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 4, "decay_rate": 0.5,
                          "staircase": True}),
    ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 9, "alpha": 0.1}),
    ("CosineDecay", {"initial_learning_rate": 0.0, "decay_steps": 9, "warmup_target": 0.2,
                     "warmup_steps": 5, "alpha": 0.01}),
])
def test_every_step_as_in_keras(name, options):
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    ours = getattr(schedules, name)(**options)
    theirs = getattr(keras.optimizers.schedules, name)(**options)
    for step in range(18):
        assert ours(step) == pytest.approx(float(theirs(step)), rel=1e-5, abs=1e-8), step
        assert type(ours(step)) is float


def test_cosine_by_its_formula():
    schedule = schedules.CosineDecay(2.0, 10, alpha=0.25)
    for step in range(10):
        assert schedule(step) == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi * step / 10)))
    assert schedule(10) == schedule(99) == pytest.approx(0.5)


def test_warm_up_goes_before_any_schedule():
    schedule = schedules.WarmUp(4, schedules.ExponentialDecay(0.8, 1, 0.5))
    assert [schedule(i) for i in range(7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.4, 0.2])
    assert schedules.WarmUp(2, 0.5)(9) == 0.5


def test_an_optimizer_follows_its_schedule():
    w = minideep.tensor([0.0], requires_grad=True)
    optimizer = optimizers.SGD(schedules.PiecewiseConstantDecay([1], [1.0, 0.25]))
    seen = []
    for _ in range(4):
        before = w.item()
        optimizer.apply([minideep.tensor([-1.0])], [w])
        seen.append(w.item() - before)
    assert seen == [1, 1, 0.25, 0.25] and optimizer.learning_rate == 0.25
    with pytest.raises(TypeError, match="schedule"):
        optimizer.learning_rate = 0.1


def test_bad_arguments():
    with pytest.raises(ValueError, match="one value more"):
        schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="rising"):
        schedules.PiecewiseConstantDecay([2, 1], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="above 0"):
        schedules.CosineDecay(0.1, 0)
