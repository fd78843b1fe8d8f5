"""Losses: against the formula in loops, PyTorch and Keras; derivatives to order 2; shapes; extremes."""

import math
import os

import numpy as np
import pytest

import minideep
from minideep import losses, metrics

os.environ.setdefault("KERAS_BACKEND", "torch")


def _rng(seed=0):
    return np.random.default_rng(seed)


def _softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# ------------------------------------------------------------------------- values, from the formula

def _bce(y, p):
    return np.mean([-(a * math.log(q) + (1 - a) * math.log(1 - q)) for a, q in zip(y, p)])


def _huber(y, p, delta=1.0):
    e = [abs(a - b) for a, b in zip(y, p)]
    return np.mean([0.5 * v * v if v <= delta else delta * (v - delta / 2) for v in e])


FORMULAS = {
    "mse": lambda y, p: np.mean([(a - b) ** 2 for a, b in zip(y, p)]),
    "mae": lambda y, p: np.mean([abs(a - b) for a, b in zip(y, p)]),
    "huber": _huber,
    "smooth_l1": _huber,
    "binary_crossentropy": _bce,
    "categorical_crossentropy": lambda y, p: -sum(a * math.log(q / sum(p)) for a, q in zip(y, p)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_value_is_the_formula(name):
    rng = _rng()
    y, p = rng.random((6, 4)), rng.random((6, 4)) * (0.9 if "cross" in name else 4) + 0.05
    expected = [FORMULAS[name](a, b) for a, b in zip(y, p)]
    loss = losses.get(name)
    np.testing.assert_allclose(loss.function(y, minideep.tensor(p)).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(loss(y, minideep.tensor(p)).item(), np.mean(expected), rtol=1e-12)


@pytest.mark.parametrize("delta", [0.3, 1.0, 2.5])
def test_huber_and_smooth_l1_with_their_options(delta):
    rng = _rng(1)
    y, p = rng.standard_normal((5, 3)), rng.standard_normal((5, 3)) * 2
    expected = [_huber(a, b, delta) for a, b in zip(y, p)]
    np.testing.assert_allclose(losses.huber(y, p, delta).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(losses.smooth_l1(y, p, beta=delta).numpy(), np.array(expected) / delta)
    torch = pytest.importorskip("torch")
    peer = torch.nn.functional.smooth_l1_loss(torch.tensor(p), torch.tensor(y), beta=delta)
    np.testing.assert_allclose(losses.SmoothL1(beta=delta)(y, p).item(), peer.item(), rtol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_crossentropies_and_gradients_as_in_pytorch(seed):
    torch = pytest.importorskip("torch")
    rng = _rng(seed)
    n, c = rng.integers(1, 9), rng.integers(2, 7)
    z = rng.standard_normal((n, c)) * 10
    labels = rng.integers(0, c, n)
    soft, binary = _softmax(rng.standard_normal((n, c))), (rng.random((n, c)) > 0.5) * 1.0
    cases = [
        (losses.SparseCategoricalCrossentropy(from_logits=True), labels,
         lambda t: torch.nn.functional.cross_entropy(t, torch.tensor(labels))),
        (losses.CategoricalCrossentropy(from_logits=True), soft,
         lambda t: torch.nn.functional.cross_entropy(t, torch.tensor(soft))),
        (losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2), np.eye(c)[labels],
         lambda t: torch.nn.functional.cross_entropy(t, torch.tensor(labels), label_smoothing=0.2)),
        (losses.BinaryCrossentropy(from_logits=True), binary,
         lambda t: torch.nn.functional.binary_cross_entropy_with_logits(t, torch.tensor(binary))),
        (losses.get("mse"), soft, lambda t: torch.nn.functional.mse_loss(t, torch.tensor(soft))),
        (losses.get("l1"), soft, lambda t: torch.nn.functional.l1_loss(t, torch.tensor(soft))),
    ]
    for loss, y, peer in cases:
        ours, theirs = minideep.tensor(z, requires_grad=True), torch.tensor(z, requires_grad=True)
        a, b = loss(y, ours), peer(theirs)
        a.backward()
        b.backward()
        np.testing.assert_allclose(a.item(), b.item(), rtol=1e-10, atol=1e-12, err_msg=loss.name)
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-12,
                                   err_msg=loss.name)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight", None])
@pytest.mark.parametrize("weighted", [False, True])
def test_classes_and_reductions_as_in_keras(reduction, weighted):
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    rng = _rng(3)
    p = _softmax(rng.standard_normal((7, 5))).astype("float32")
    p[0] = [1, 0, 0, 0, 0]  # at the clipping
    labels, y = rng.integers(0, 5, 7), rng.random((7, 5)).astype("float32")
    weight = rng.random(7).astype("float32") if weighted else None
    for name, target in [("MeanSquaredError", y), ("MeanAbsoluteError", y), ("Huber", y),
                         ("BinaryCrossentropy", np.round(y)), ("CategoricalCrossentropy", y),
                         ("SparseCategoricalCrossentropy", labels)]:
        ours = getattr(losses, name)(reduction=reduction)(target, p, sample_weight=weight)
        theirs = getattr(keras.losses, name)(reduction=reduction)(target, p, sample_weight=weight)
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=3e-6, atol=1e-6, err_msg=name)


# ------------------------------------------------------------------------------------------- boxes

def _giou(a, b):
    inside = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inside / union, inside / union - (hull - union) / hull


def _boxes(rng, n):
    low = rng.random((n, 2)) * 4
    return np.concatenate([low, low + 0.2 + rng.random((n, 2)) * 3], axis=1)


def test_iou_and_giou_are_the_formula():
    rng = _rng(5)
    a, b = _boxes(rng, 60), _boxes(rng, 60)
    expected = np.array([_giou(p, q) for p, q in zip(a, b)])
    assert (expected[:, 0] == 0).any() and (expected[:, 0] > 0.3).any()
    np.testing.assert_allclose(losses.iou_loss(a, b).numpy(), 1 - expected[:, 0], atol=1e-12)
    np.testing.assert_allclose(losses.giou_loss(a, b).numpy(), 1 - expected[:, 1], atol=1e-12)
    np.testing.assert_allclose(losses.giou_loss(a, b[:, [2, 3, 0, 1]]).numpy(), 1 - expected[:, 1],
                               atol=1e-12)  # the other two corners first
    size = minideep.tensor(np.concatenate([a[:, :2], a[:, 2:] - a[:, :2]], axis=1))
    np.testing.assert_allclose(losses.xywh_to_corners(size).numpy(), a, atol=1e-12)


def test_degenerate_boxes_give_finite_losses_and_gradients():
    point, box = [1.0, 1, 1, 1], [0.0, 0, 2, 2]
    huge = [0.0, 0, 1e6, 1e6]
    for a, b in [(point, point), (point, box), (box, point), (box, box), (huge, point),
                 ([0, 0, 0, 2.0], [0, 0, 0, 2.0])]:
        for loss, top in (("iou_loss", 1), ("giou_loss", 2)):
            p = minideep.tensor([b], requires_grad=True)
            value = losses.get(loss)([a], p)
            value.backward()
            assert 0 <= value.item() <= top and np.isfinite(p.grad.numpy()).all(), (loss, a, b)
    assert losses.giou_loss([box], [box]).item() == 0
    far = minideep.tensor([[5.0, 5, 6, 6]], requires_grad=True)
    losses.GIoU()([box], far).backward()
    assert (far.grad.numpy()[0, :2] > 0).all()  # pulled towards the target though they do not touch


# -------------------------------------------------------------------------------------- derivatives

CROSS = ["binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy"]


@pytest.mark.parametrize("name, from_logits", [
    *((name, False) for name in ["mse", "mae", "huber", "smooth_l1", *CROSS, "iou_loss", "giou_loss"]),
    *((name, True) for name in CROSS)])
def test_first_and_second_derivatives(name, from_logits):
    rng = _rng(7)
    options = {}
    if "crossentropy" in name:
        options["from_logits"] = from_logits
        p = rng.standard_normal((4, 3)) if from_logits else 0.1 + 0.8 * rng.random((4, 3))
        y = rng.integers(0, 3, 4) if "sparse" in name else _softmax(rng.standard_normal((4, 3)))
    elif "iou" in name:
        y, p = _boxes(rng, 5), _boxes(rng, 5)
    else:
        y, p = rng.standard_normal((4, 3)), rng.standard_normal((4, 3)) * 3
    loss = type(losses.get(name))(**options)
    minideep.gradcheck(lambda q: loss(y, q, sample_weight=np.arange(1, len(y) + 1)), p, order=2)


# ------------------------------------------------------------------------------------------ extremes

def test_logits_of_any_size_give_finite_losses_and_right_gradients():
    z = minideep.tensor([[1e4], [-1e4], [1e4], [-1e4]], requires_grad=True)
    y = [[1.0], [0.0], [0.0], [1.0]]
    loss = losses.BinaryCrossentropy(from_logits=True, reduction="sum")(y, z)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    np.testing.assert_allclose(z.grad.numpy()[:, 0], [0, 0, 1, -1], atol=1e-6)
    z = minideep.tensor([[1e4, 0, -1e4]] * 3, requires_grad=True)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")([0, 1, 2], z)
    loss.backward()
    assert loss.item() == pytest.approx(3e4) and np.isfinite(z.grad.numpy()).all()


def test_probabilities_of_exactly_0_and_1_are_finite():
    for name in ("binary_crossentropy", "categorical_crossentropy"):
        p = minideep.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
        loss = losses.get(name)([[1.0, 0.0], [1.0, 0.0]], p)
        loss.backward()
        assert 0 < loss.item() < 17 and np.isfinite(p.grad.numpy()).all()


def test_float32_stays_float32():
    p = minideep.tensor(np.full((3, 4), 0.5, "float32"))
    for name in ("mse", "mae", "huber", "binary_crossentropy", "categorical_crossentropy", "giou_loss"):
        value = losses.get(name)(np.eye(4)[:3], p, sample_weight=np.ones(3))
        assert value.dtype == np.float32, name


# ------------------------------------------------------------------------------- shapes and arguments

def test_shapes_never_broadcast_silently():
    p = minideep.tensor(np.zeros((4, 1)))
    assert losses.mean_squared_error(np.ones(4), p).shape == (4,)  # not (4, 4)
    assert losses.get("mse")(np.arange(4.0), p).item() == pytest.approx(14 / 4)
    for name in ("mse", "mae", "huber", "binary_crossentropy"):
        for bad in (np.zeros((1, 4)), np.zeros(3), np.zeros((4, 2)), np.zeros((4, 1, 1, 1)), 0.0):
            with pytest.raises(ValueError, match=r"shape|dimension"):
                losses.get(name)(bad, p)
    with pytest.raises(ValueError, match="sample_weight has shape"):
        losses.get("mse")(np.zeros((4, 3, 2)), np.zeros((4, 3, 2)), sample_weight=np.ones(3))
    for labels in ([0.5], [-0.5], [np.nan]):
        with pytest.raises(ValueError, match="whole numbers"):
            losses.sparse_categorical_crossentropy(np.array(labels), np.ones((1, 3)))
    with pytest.raises(ValueError, match="class numbers want"):
        losses.get("sparse_categorical_crossentropy")(np.eye(3), np.eye(3))
    for labels in ([0, 1, -1], [0, 1, 3]):
        with pytest.raises(ValueError, match=r"0 \.\.\. 2"):
            losses.get("sparse_categorical_crossentropy")(labels, np.eye(3))
    with pytest.raises(ValueError, match="one class"):
        losses.get("categorical_crossentropy")(np.ones((4, 1)), p)


def test_names_functions_and_options():
    assert isinstance(losses.get("mse"), losses.MeanSquaredError)
    assert isinstance(losses.get("BinaryCrossentropy"), losses.BinaryCrossentropy)
    own = losses.get(lambda y, p: abs(p - y).sum(axis=-1))
    assert own(minideep.tensor(np.zeros((2, 3))), minideep.tensor(np.ones((2, 3)))).item() == 3
    with pytest.raises(ValueError, match="there is no loss 'msee'"):
        losses.get("msee")
    with pytest.raises(TypeError, match="from_logit"):
        losses.BinaryCrossentropy(from_logit=True)
    with pytest.raises(ValueError, match="reduction"):
        losses.Huber(reduction="average")


def test_masks_leave_values_out_of_sum_and_count():
    rng = _rng(9)
    y, p = rng.standard_normal((3, 5, 2)), rng.standard_normal((3, 5, 2))
    mask = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    p[0, 4] = np.nan  # what is masked may hold anything
    each = ((y - p) ** 2).mean(-1)
    assert losses.get("mse")(y, p, mask=mask).item() == pytest.approx(each[mask].mean())
    weight = rng.random(3)
    expected = (each * weight[:, None])[mask].sum() / mask.sum()
    assert losses.get("mse")(y, p, weight, mask).item() == pytest.approx(expected)
    assert losses.get("mse")(y, p, mask=np.zeros_like(mask)).item() == 0


# ------------------------------------------------------------------------------------------- metrics

def test_accuracy_is_resolved_by_shapes_as_in_keras():
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    rng = _rng(11)
    cases = [
        ((rng.random((9, 1)) > 0.5) * 1.0, rng.random((9, 1)), keras.metrics.BinaryAccuracy()),
        ((rng.random(9) > 0.5) * 1, rng.random((9, 1)), keras.metrics.BinaryAccuracy()),
        (rng.integers(0, 3, 9), rng.random((9, 3)), keras.metrics.SparseCategoricalAccuracy()),
        (rng.integers(0, 3, (9, 1)), rng.random((9, 3)), keras.metrics.SparseCategoricalAccuracy()),
        (np.eye(3)[rng.integers(0, 3, 9)], rng.random((9, 3)), keras.metrics.CategoricalAccuracy()),
        (rng.integers(0, 3, (4, 5)), rng.random((4, 5, 3)), keras.metrics.SparseCategoricalAccuracy()),
    ]
    for y, p, peer in cases:
        ours = metrics.get("accuracy")
        for part in (slice(0, 3), slice(3, None)):  # a running mean over unequal batches
            ours.update(y[part], p[part].astype("float32"))
            peer.update_state(y[part], p[part].astype("float32"))
        assert ours.result() == pytest.approx(float(peer.result()), abs=1e-6)


def test_accuracy_of_one_number_a_sample():
    metric = metrics.get("accuracy")
    metric.update(np.array([1, 0, 1, 1]), np.array([0.9, 0.2, 0.1, 0.8]))
    metric.update(np.array([1]), np.array([0.1]))
    assert metric.result() == pytest.approx(3 / 5)


def test_metrics_from_losses_and_functions():
    y, p = np.array([[1.0], [3.0]]), np.array([[2.0], [5.0]])
    for name, expected in (("mse", 2.5), ("mae", 1.5), ("mean_squared_error", 2.5)):
        metric = metrics.get(name)
        metric.update(y, p)
        assert metric.result() == expected and metric.name == name
        metric.reset()
        assert metric.result() == 0
    metric = metrics.get(metrics.BinaryAccuracy(threshold=3))
    metric.update([[1.0], [1.0]], p)
    assert metric.result() == 0.5
    with pytest.raises(ValueError, match="no metric 'precison'"):
        metrics.get("precison")
