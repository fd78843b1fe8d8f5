"""Roll-outs are kept, made once, and belong to their data."""

import json

import numpy as np
import pytest

from minideep.models import Model
from tracker.rollouts import photographs, train_on_rollouts, ways


class Nothing(Model):
    """A network that fit() gives."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight((2,), "zeros", "weight")


@pytest.fixture
def train(tmp_path):
    """train(resume, data, steps): the roll-outs a and b, of which the second stops while `broken`."""
    def train(resume=False, data="data", steps=100):
        def roll_out(name, count):
            train.made.append(name)
            if train.broken and name == "b":
                raise KeyboardInterrupt
            return {"x": np.arange(float(count)), "y": np.zeros((count, 3))}

        def fit(rolls, seed, steps, report):
            train.rolls, train.seed = rolls, seed
            for step in range(1, steps + 1):
                report(step, 1 / step)
            return Nothing()
        (tmp_path / data).mkdir(exist_ok=True)
        work = {name: lambda name=name, n=n: (name, n) for name, n in (("a", 2), ("b", 3))}
        return train_on_rollouts(tmp_path / data, tmp_path / "w.safetensors", tmp_path / "rolls", work,
                                 roll_out, fit, steps, 5, resume, None,
                                 {"about": "new", "data": {"scenes": 1}}, rows="boxes")
    train.made, train.broken = [], False
    return train


def test_what_is_there_is_not_made_again(train, tmp_path):
    train.broken = True
    with pytest.raises(KeyboardInterrupt):
        train()
    train.broken = False
    with pytest.raises(FileExistsError, match="--resume"):
        train()
    assert train.made == ["a", "b"]
    result = train(resume=True)
    assert train.made == ["a", "b", "b"] and result["boxes"] == 5 and train.seed == 5
    assert [len(roll["x"]) for roll in train.rolls] == [2, 3]
    with pytest.raises(ValueError, match=r"made from .*data, not from .*other: give another --output"):
        train(resume=True, data="other")


def test_the_card_is_measured_anew_and_keeps_the_rest(train, tmp_path):
    (tmp_path / "w.json").write_text(json.dumps({"about": "old", "weaknesses": ["many"], "steps": 7}))
    train(steps=100)
    card = json.loads((tmp_path / "w.json").read_text())
    assert [card[key] for key in ("about", "weaknesses", "steps", "weights")] == ["new", ["many"], 100, 2]
    assert card["data"] == {"roll-outs": 2, "boxes": 5, "scenes": 1, **{
        name: about for name, about in card["data"].items() if name in ("photos", "sequences")}}
    assert [point["step"] for point in card["curve"]] == [50, 60, 70, 80, 90, 100]
    assert card["curve"][0]["loss"] == round(np.mean([1 / k for k in range(1, 51)]), 4)


def test_every_second_photograph(tmp_path):
    cv2 = pytest.importorskip("cv2")
    for k in range(5):
        cv2.imwrite(str(tmp_path / f"a_{k}.png"), np.full((300, 400, 3), 10 * k, np.uint8))
    assert [photo.max() for photo in photographs(tmp_path, every=2)()] == [0, 20, 40]


def test_without_a_folder_there_are_no_sequences_and_procedural_photographs():
    assert ways(None) == [("", []), ("back-", [])]
    photos = photographs(None)
    assert len(photos()) == 40 and photos()[0].dtype == np.uint8
    np.testing.assert_array_equal(photos()[7], photographs(None)()[7])
