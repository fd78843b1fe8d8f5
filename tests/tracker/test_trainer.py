"""What trainings share: the checkpoint, its options, and when it is written."""

import numpy as np
import pytest

from minideep import optimizers, tensor
from minideep.layers import Dense
from minideep.models import Sequential
from minideep.serialization import load_arrays, save_arrays
from tracker.trainer import CHECKPOINT, Trainer


class Line(Trainer):
    """Fits y = slope·x."""

    FILE, OPTIONS = "line.safetensors", ("slope",)

    def __init__(self, seed, steps, slope):
        super().__init__(seed, steps)
        self.slope = slope
        self.network = Sequential([Dense(1)])
        self.network(tensor(np.zeros((1, 1), "float32")))
        self.optimizer = optimizers.Adam(.1)

    def step_on(self, batch):
        x = tensor(batch)
        loss = ((self.network(x) - self.slope * x) ** 2).mean()
        loss.backward()
        self.optimizer.step(self.network.parameters())
        self.step += 1
        return {"loss": loss.item()}


def batches(first, end):
    return (np.random.default_rng(i).standard_normal((4, 1)).astype("float32")
            for i in range(first, end))


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path):
    whole = Line.begin(tmp_path / "whole", False, 3, 10, slope=2.).run(
        batches(0, 10), tmp_path / "whole", 60)
    Line.begin(tmp_path / "half", False, 3, 10, slope=2.).run(
        batches(0, 4), tmp_path / "half", 60)       # the batches end early: saved all the same
    rest = Line.begin(tmp_path / "half", True, 0, 0, slope=0.)
    assert (rest.seed, rest.steps, rest.step, rest.slope) == (3, 10, 4, 2.)
    rest.run(batches(4, 10), tmp_path / "half", 60)
    for name, weight in whole.weights.items():
        np.testing.assert_array_equal(rest.weights[name].numpy(), weight.numpy())
    told, about = load_arrays(tmp_path / "half" / "line.safetensors")
    assert about["step"] == 10 and set(told) == set(whole.weights)


def test_a_checkpoint_is_neither_written_over_nor_invented(tmp_path):
    Line(0, 1, 1.).save(tmp_path)
    with pytest.raises(FileExistsError, match="--resume"):
        Line.begin(tmp_path, False, 0, 1, slope=1.)
    with pytest.raises(FileNotFoundError, match="leave out --resume"):
        Line.begin(tmp_path / "nothing", True, 0, 1)


def test_it_is_saved_every_so_often_and_reports_each_step(tmp_path):
    told = []

    def report(trainer, figures):
        told.append((trainer.step, set(figures), (tmp_path / CHECKPOINT).exists()))

    Line(0, 3, 1.).run(batches(0, 3), tmp_path, save_every=0, report=report)
    assert told == [(1, {"loss"}, False), (2, {"loss"}, True), (3, {"loss"}, True)]


@pytest.mark.parametrize("about, says", [
    ({"trainer": "Curve", "seed": 0, "steps": 1, "step": 1, "slope": 1.},
     "written by the training of a Curve, not of a Line: give another --output"),
    ({"trainer": "Line", "seed": 0, "steps": 1, "step": 1}, "it does not say slope; give another"),
    ({}, "no checkpoint of a Line: it does not say seed, steps, step, slope; give another --output")])
def test_another_training_s_checkpoint_is_named(about, says, tmp_path):
    save_arrays(tmp_path / CHECKPOINT, {"a": np.zeros(1)}, **about)
    with pytest.raises(ValueError, match=says):
        Line.begin(tmp_path, True, 0, 1, slope=1.)
