"""Training learns, feeds the network's own boxes back, and resumes to the bit."""

import json

import numpy as np
import pytest

from minideep import no_grad, tensor
from tracker import synthetic, training
from tracker.recurrent import PLACES, SCALES, Network, around, to_boxes

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with three photos and a sequence of eight frames."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name in "abc":
        cv2.imwrite(str(folder / "photos" / f"{name}.png"), synthetic.procedural_photo(rng, 300))
    images = folder / "train" / "square" / "img"
    images.mkdir(parents=True)
    boxes = []
    for t in range(8):
        frame = synthetic.procedural_photo(np.random.default_rng(1), 160)
        frame[40:80, 30 + 4 * t:70 + 4 * t] = (20, 200, 240)
        cv2.imwrite(str(images / f"{t:04d}.png"), frame)
        boxes.append(f"{30 + 4 * t},40,40,40")
    (images.parent / "groundtruth_rect.txt").write_text("\n".join(boxes) + "\n")
    return folder


@pytest.fixture(scope="module")
def source(data):
    return training.Source(data)


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name))
               for name in ("frames", "origins", "boxes", "visible"))


def test_the_same_step_has_the_same_clips(source):
    a, b = source.batch(7, 3, 2, 4), source.batch(7, 3, 2, 4)
    assert a.frames.shape == (4, 4, synthetic.SIDE, synthetic.SIDE, 3) and same(a, b)
    assert not same(a, source.batch(7, 4, 2, 4)) and not same(a, source.batch(8, 3, 2, 4))


def test_the_loss_falls(source):
    trainer = training.RecurrentTrainer(seed=0, steps=4000)
    trainer.optimizer.learning_rate = lambda step: 1e-3
    batch = source.batch(0, 0, 2, 6)
    losses = []
    for _ in range(16):
        trainer.step = 0                            # the same crops every time
        losses.append(trainer.step_on(batch)["loss"])
    assert losses[-1] < .75 * losses[0]


def test_every_weight_gets_a_gradient(source):
    network = Network().build_now()
    loss, _ = training.unrolled_loss(network, source.batch(0, 1, 2, 4),
                                     np.random.default_rng(0), .5)
    loss.backward()
    for name, weight in network.named_weights().items():
        assert weight.grad is not None and np.abs(weight.grad.numpy()).max() > 0, name


def test_resume_is_the_same_to_the_bit(source, tmp_path):
    batches = [source.batch(5, step, 2, 4) for step in range(4)]
    whole = training.RecurrentTrainer(seed=5, steps=10)
    for batch in batches:
        whole.step_on(batch)
    half = training.RecurrentTrainer(seed=5, steps=10)
    for batch in batches[:2]:
        half.step_on(batch)
    half.save(tmp_path)
    del half
    rest = training.RecurrentTrainer.resume(tmp_path / "checkpoint.safetensors")
    assert (rest.step, rest.steps, rest.seed) == (2, 10, 5)
    for batch in batches[2:]:
        rest.step_on(batch)
    for (name, a), b in zip(whole.network.named_weights().items(), rest.network.parameters()):
        assert np.array_equal(a.numpy(), b.numpy()), name
    ours, theirs = whole.optimizer.state_dict(), rest.optimizer.state_dict()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


class _Pointer:
    """A stand-in for the network that always says the same corners."""

    def __init__(self, corners):
        self.corners = np.array(corners, "float32")

    def template(self, crops):
        return crops

    def start(self, n):
        return []

    def __call__(self, crops, state):
        n = len(crops[2])
        return (tensor(np.tile(self.corners, (n, 1))), tensor(np.zeros(n, "float32")),
                tensor(np.full((n, PLACES ** 2, len(SCALES)), -5, "float32")), state)


@pytest.mark.parametrize("feedback", [0., 1.])
def test_own_boxes_really_are_fed_back(source, monkeypatch, only_right_clips, feedback):
    """With feedback the second step looks around the box that the network said in the first."""
    regions = []
    real = training.cut
    monkeypatch.setattr(training, "cut",
                        lambda b, k, r: regions.append(r.copy()) or real(b, k, r))
    batch = source.batch(1, 0, 2, 6)
    pointer = _Pointer([3.3, 3., 7.2, 6.6])
    with no_grad():
        training.unrolled_loss(pointer, batch, np.random.default_rng(0), feedback)
    last1, now1, last2, now2 = regions[-4:]         # before them come the template's
    assert np.array_equal(last1, now1) and np.array_equal(last2, now2)
    said = to_boxes(np.tile(pointer.corners, (6, 1)), now1)
    said = training.limited(said, batch.boxes[:, 2].astype(float))
    expected = around(training.in_sight(said, batch.boxes[:, 3].astype(float)))
    assert np.allclose(now2, expected) == bool(feedback)


@pytest.fixture
def only_right_clips(monkeypatch):
    monkeypatch.setattr(training, "WRONG", 0.)
    monkeypatch.setattr(training, "GONE", 0.)


def test_a_perfect_answer_costs_next_to_nothing(source, only_right_clips):
    batch = source.batch(2, 0, 1, 5)
    batch.visible[...] = 1
    truth = batch.boxes[:, 2].astype(float)

    class Oracle(_Pointer):
        def __init__(self):
            pass

        def __call__(self, crops, state):
            region = around(training.in_sight(seen[0], truth))
            corners = np.concatenate([truth[:, :2] - region[:, :2],
                                      truth[:, :2] + truth[:, 2:] - region[:, :2]], 1)
            corners = (10 * corners / np.tile(region[:, 2:], 2)).astype("float32")
            return (tensor(corners), tensor(np.full(5, 30., "float32")),
                    tensor(np.zeros((5, PLACES ** 2, len(SCALES)), "float32")), state)

    seen = []
    real = training.shaken
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "shaken", lambda *a: seen.append(real(*a)) or seen[-1])
        loss, figures = training.unrolled_loss(Oracle(), batch, np.random.default_rng(0), 0.)
    assert loss.item() < 1e-4 and figures["iou"] > .999 and figures["presence"] == 1


def test_place_target_is_a_hill_at_the_shift_and_size():
    # half a target to the right and a third up: 3 and -2 of the 11 x 11 cells from the middle
    shift = np.array([.5, -1 / 3]) * 6 / 16
    corners = np.array([.3125, .3125, .6875, .6875]) + np.tile(shift, 2)
    far = corners + [.6, 0, .6, 0]
    large = corners + .14 * 6 / 16 * np.array([-1, -1, 1, 1])       # 1.28 times as large
    place, reachable = training.place_target(np.stack([corners, far, large]).astype("float32"))
    np.testing.assert_allclose(place.sum((1, 2)), 1, rtol=1e-5)
    for i, scale in ((0, 1), (2, 2)):
        best = np.unravel_index(place[i].argmax(), (PLACES, PLACES, len(SCALES)))
        assert best == (5 - 2, 5 + 3, scale)
    assert reachable.tolist() == [1, 0, 1]


def test_in_sight_and_limited():
    truth = np.array([[100., 100, 20, 10]] * 2)
    box = np.array([[102., 101, 22, 12], [300, 100, 20, 10]])
    near = training.in_sight(box, truth)
    assert np.array_equal(near[0], box[0])
    np.testing.assert_allclose(near[1], [100 + .85 * 20, 100, 20, 10])
    np.testing.assert_allclose(training.limited(np.array([[90., 95, 40, 50]] * 2), truth)[0],
                               [90, 110, 40, 20])


def test_stages_cover_all_steps():
    assert training.stage(0, 1000)[0] == 2 and training.stage(999, 1000)[0] == 16
    assert training.stage(0, 1000)[2] == 0 and training.stage(600, 1000)[2] == training.FEEDBACK
    unrolls = [training.stage(step, 1000)[0] for step in range(1000)]
    assert unrolls == sorted(unrolls)


def test_missing_data_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="photos.*train"):
        training.train(tmp_path / "nowhere", tmp_path / "out")


def test_without_photos_scenes_are_made_of_noise(tmp_path, data):
    (tmp_path / "train").symlink_to(data / "train")
    source = training.Source(tmp_path)
    assert len(source.photos) >= 100 and source.sequences
    assert source.batch(0, 0, 1, 2).frames.std() > 5


def test_train_command_writes_weights_and_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STAGES", ((1., 1, 2),))      # read by this process alone
    monkeypatch.setattr(training, "WARM_UP", 1)
    out = tmp_path / "out"
    result = training.train_command(data, out, steps=3, json=tmp_path / "r.json")
    assert result["steps"] == 3
    assert json.loads((tmp_path / "r.json").read_text())["steps"] == 3
    assert (out / "log.csv").read_text().startswith("step,")
    network = Network().build_now()
    from minideep.serialization import assign, load_arrays
    assign(network.named_weights(), load_arrays(out / "recurrent.safetensors")[0])
    with pytest.raises(FileExistsError, match="--resume"):
        training.train(data, out)
    assert training.train(data, out, resume=True).step == 3     # nothing left to do


def test_another_clips_template_is_not_the_target(source, monkeypatch):
    """With every template wrong only presence counts, and its right answer is no."""
    monkeypatch.setattr(training, "WRONG", 1.)
    batch = source.batch(3, 0, 1, 4)
    pointer = _Pointer([0, 0, 1, 1])
    loss, figures = training.unrolled_loss(pointer, batch, np.random.default_rng(0), 0.)
    np.testing.assert_allclose(loss.item(), .3 * np.log(2), rtol=1e-5)      # of the logit 0
    assert figures["presence"] == 1


def test_shaken_boxes_are_moved_and_stretched_both_ways():
    boxes = np.tile([100., 100, 20, 40], (4000, 1))
    n = np.ones((4000, 1))
    same = training.shaken(np.random.default_rng(0), boxes, 0 * n, 0 * n)
    np.testing.assert_allclose(same, boxes)
    moved = training.shaken(np.random.default_rng(0), boxes, .1 * n, .1 * n)
    stretch = np.log(moved[:, 2:] / boxes[:, 2:])
    assert abs(np.median(stretch)) < .01 and .1 < np.abs(stretch).mean() < .2
    assert np.abs(stretch).max() <= .6 + 1e-9
    shift = (moved[:, :2] + moved[:, 2:] / 2 - [110, 120]) / [20, 40]
    np.testing.assert_allclose(np.abs(shift).mean(0), .1, rtol=.1)      # Laplace's scale


def test_nothing_of_it_needs_numpy_arrays(source, tmp_path):
    """Training, checkpoint and tracking on a device whose arrays refuse NumPy, as a GPU's do."""
    import minideep
    import strict_array
    from tracker.recurrent import RecurrentTracker
    strict_array.install()
    with minideep.device("strict"):
        trainer = training.RecurrentTrainer(0, 10)
        trainer.step_on(source.batch(0, 0, 2, 3))
        trainer.save(tmp_path)
        trainer = training.RecurrentTrainer.resume(tmp_path / "checkpoint.safetensors")
        trainer.step_on(source.batch(0, 1, 2, 3))
    frames = np.random.default_rng(0).integers(0, 256, (3, 150, 200, 3), dtype=np.uint8)
    boxes = []
    for device in ("strict", "cpu"):
        with minideep.device(device):
            tracker = RecurrentTracker.load(tmp_path / "recurrent.safetensors")
            tracker.init(frames[0], (70, 30, 90, 80))
            boxes.append([tracker.update(frame).box for frame in frames[1:]])
    np.testing.assert_allclose(boxes[0], boxes[1], atol=.01)
