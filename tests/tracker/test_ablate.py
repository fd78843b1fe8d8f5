"""The ablation: pieces, statistics against their formulas, rows, other libraries' features."""

import inspect
import json

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from tracker import ablate as a
from tracker import synthetic
from tracker.__main__ import app
from tracker.correlation import CELLS, CROP, CorrelationTracker
from tracker.sequences import ImageFrames, Sequence, find_sequences

cv2 = pytest.importorskip("cv2")


@pytest.fixture(autouse=True)
def cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDEEP_CACHE", str(tmp_path / "cache"))


def numbered(n, absent=()):
    boxes = np.tile([5., 10, 12, 10], (n, 1))
    boxes[list(absent)] = np.nan
    return Sequence("s", [np.full((48, 64, 3), t, np.uint8) for t in range(n)], boxes)


def rendered(folder, name, seed, n=7):
    """A textured square that moves over texture, in image files with a box file."""
    rng = np.random.default_rng(seed)
    background, piece = (synthetic.procedural_photo(rng, size) for size in (160, 100))
    piece = cv2.resize(piece, (30, 30), interpolation=cv2.INTER_AREA)
    (folder / name).mkdir(parents=True)
    for t in range(n):
        frame = background.copy()
        frame[50 + t:80 + t, 40 + 2 * t:70 + 2 * t] = piece
        cv2.imwrite(str(folder / name / f"{t}.png"), frame)
    np.savetxt(folder / name / "groundtruth.txt", [[40 + 2 * t, 50 + t, 30, 30] for t in range(n)])


def numbers(piece):
    return [int(frame[0, 0, 0]) for frame in piece.frames]


def test_pieces_are_spread_and_begin_where_the_target_is():
    assert [numbers(p) for p in a.pieces(numbered(20), 3, 5)] == [
        [0, 1, 2, 3, 4], [8, 9, 10, 11, 12], [15, 16, 17, 18, 19]]
    hidden = a.pieces(numbered(20, absent=(0, 1, 8, 9)), 3, 6)
    assert [numbers(p)[0] for p in hidden] == [2, 10, 14] and {len(p) for p in hidden} == {6}
    assert [numbers(p) for p in a.pieces(numbered(4), 3, 9)] == [[0, 1, 2, 3]]     # only once
    late = a.pieces(numbered(5, absent=(3, 4)), 2, 3)
    assert [numbers(p) for p in late] == [[0, 1, 2], [2, 3, 4]]
    for piece in hidden:
        np.testing.assert_array_equal(piece.boxes, hidden[0].boxes[:1].repeat(6, 0))


def test_of_image_files_only_the_wanted_ones_are_read():
    class Counted(ImageFrames):
        def __getitem__(self, index):
            read.append(index)
            return np.full((48, 64, 3), index, np.uint8)

    read = []
    given = numbered(20)
    last = a.pieces(Sequence("s", Counted(range(20)), given.boxes), 2, 3)[1]
    assert numbers(last) == read == [17, 18, 19]


def test_the_interval_is_the_percentile_bootstrap():
    gains = np.random.default_rng(5).normal(.01, .03, 24)
    theirs = stats.bootstrap((gains,), np.mean, method="percentile", n_resamples=20_000)
    assert a.bootstrap(gains) == pytest.approx(tuple(theirs.confidence_interval), abs=8e-4)
    assert a.bootstrap(np.full(5, .25)) == (.25, .25)


@pytest.mark.parametrize("shift", [-.02, 0, .001, .02])
def test_a_sequence_has_no_say_in_the_choice_that_is_tried_on_it(shift):
    gains = np.random.default_rng(2).normal(shift, .03, 9)
    won = [gains[i] if np.delete(gains, i).mean() > 0 else 0. for i in range(9)]
    held_out, chosen = a.cross_validated(gains)
    assert held_out == pytest.approx(np.mean(won)) and chosen == np.count_nonzero(won)


def row(adds, change, base=.5):
    """A judged row whose AUC is by `change` (n,) above that of the tracker as it is."""
    change = np.array(change)
    of = [a.Row(a.Variant("x", "the part", adds), auc, auc) for auc in (base + change,
                                                                       np.full(change.shape, base))]
    return a.judged(*of)


def test_what_is_said_of_a_part():
    better, worse = [.02, .03, .02, .04], [-.02, -.03, -.02, -.04]
    assert row(False, worse).worth == pytest.approx(.0275)     # the default has it, and is better
    assert row(True, better).worth == pytest.approx(.0275)
    for adds, change, verdict, end in [
            (False, worse, "pays", "; on by default"),
            (False, better, "does not pay", ", better off"),
            (True, worse, "does not pay", "; off by default"),
            (True, better, "pays", ", better on"),
            (False, [0., 0., 0.], "within noise", "; on by default, no difference held out"),
            (True, [0., 0., 0.], "within noise", "; off by default, no difference held out"),
            (True, [.01, -.012, .002, -.003], "within noise", "; off by default")]:
        text = row(adds, change).sentence()
        assert text.startswith(f"the part: {verdict}, ") and text.endswith(end), text
    assert "+0.028 AUC [+0.020, +0.035], +0.028 held out" in row(True, better).sentence()
    assert row(True, better).chosen == 4 and row(True, worse).held_out == 0


def test_every_switch_of_the_tracker_is_a_row_turned_the_other_way():
    parameters = inspect.signature(CorrelationTracker).parameters
    rows = {next(iter(v.options)): v for v in a.variants()
            if len(v.options) == 1 and v.network == "learned"}
    switches = {name for name, p in parameters.items() if isinstance(p.default, bool)}
    assert rows.pop("refine").make().refinement is None
    assert set(rows) == switches >= {"hand", "scale", "window", "histogram", "gate", "redetect"}
    for name, variant in rows.items():
        assert variant.options == {name: not parameters[name].default}
        assert variant.adds is variant.options[name]
    names = [v.name for v in a.variants()]
    assert names[0] == a.DEFAULT and len(set(names)) == len(names)


def test_features_of_the_rows():
    made = {v.name: v.make() for v in a.variants()
            if not v.peer and v.options in ({}, {"hand": False})}
    assert (made["HOG and Lab alone"].network, made["HOG and Lab alone"].hand) == (None, True)
    assert {name for name, t in made.items() if t.refinement} == {a.DEFAULT, "learned features alone"}
    assert not made["learned features alone"].hand and made["a random CNN, HOG and Lab"].hand
    weights = {name: t.network.conv1.get_weights()[0] for name, t in made.items() if t.network}
    assert np.array_equal(weights["a random CNN alone"], weights["a random CNN, HOG and Lab"])
    assert not np.array_equal(weights["a random CNN alone"], weights[a.DEFAULT])
    assert np.array_equal(weights["learned features alone"], weights[a.DEFAULT])


@pytest.mark.parametrize("peer", ["OpenCV", "scikit-image"])
def test_other_libraries_features_lie_in_their_cells(peer):
    try:
        made = a.PeerFeatures(peer)
    except ImportError as error:
        assert "make peers" in str(error) or "pip install scikit-image" in str(error)
        pytest.skip(str(error))
    crop = np.full((CROP, CROP, 3), 128, np.float32)
    crop[60:80, 100:] = (200, 40, 60)       # a blue bar, from row 15 to 19 and column 25 on
    made.window = np.ones((CELLS, CELLS, 1), np.float32)
    features = made.describe(crop[None])[0]
    assert features.shape == (CELLS, CELLS, 39) and features.dtype == np.float32
    edges, lab = features[..., :36].max(-1), features[..., 36:]
    assert edges[15, 30] > .1 and edges[17, 25] > .1       # upper edge, left edge
    assert edges[17, 32] == edges[5, 30] == edges[30, 17] == edges[25, 17] == 0
    gray, blue = lab[5, 5], lab[17, 30]
    assert abs(gray[1:]).max() < .01 and blue[2] < -.1 and -.5 < blue[0] < gray[0] < .5
    # directions: the upper edge's gradient is another one than the left edge's
    upper, left = (features[i, j, :36].reshape(4, 9).sum(0).argmax() for i, j in ((15, 32), (17, 25)))
    assert upper != left
    frame = synthetic.procedural_photo(np.random.default_rng(3), 200)
    made = a.PeerFeatures(peer)
    made.init(frame, (60, 70, 40, 40))
    state = made.update(np.roll(frame, (3, 5), (0, 1)))
    assert state.box[:2] == pytest.approx((65, 73), abs=2.5)


@pytest.mark.parametrize("peer", ["OpenCV", "scikit-image"])
def test_colours_have_names(peer):
    try:
        made = a.PeerFeatures(peer, "colour names")
    except ImportError as error:
        pytest.skip(str(error))
    made.window = np.ones((CELLS, CELLS, 1), np.float32)
    for number, (name, colour) in enumerate(a.NAMES.items()):
        crop = np.full((CROP, CROP, 3), colour[::-1], np.float32)
        features = made.describe(crop[None])[0]
        assert features.shape == (CELLS, CELLS, 36 + 11)
        said = features[20, 20, 36:] + 1 / 11
        assert said.argmax() == number and said[number] > .6, name
        assert said.sum() == pytest.approx(1, abs=1e-5)


def test_how_likely_a_colour_has_a_name():
    names = np.array([[50., 0, 0], [0, 60, 0], [90, 0, 0]])         # in Lab
    between = a.called(names[:2].mean(0), names[:2])
    np.testing.assert_allclose(between, .5)
    pixels = np.array([[[50., 0, 0], [70, 20, 0]]])                 # (1, 2, 3)
    parts = np.exp(-np.array([[0, 50 ** 2 + 60 ** 2, 40 ** 2],
                              [20 ** 2 + 20 ** 2, 70 ** 2 + 40 ** 2, 20 ** 2 + 20 ** 2]])
                   / (2 * a.LIKE ** 2))
    np.testing.assert_allclose(a.called(pixels, names)[0], parts / parts.sum(1, keepdims=True))


def test_the_command_makes_table_sentences_and_json(tmp_path, monkeypatch):
    for seed, name in enumerate("ab"):
        rendered(tmp_path / "data", name, seed)
    chosen = [v for v in a.variants() if v.name in (
        a.DEFAULT, "HOG and Lab alone", "without the scale search")]
    monkeypatch.setattr(a, "variants", lambda: chosen)
    call = ["ablate", str(tmp_path / "data"), "--starts", "2", "--frames", "4", "--json",
            str(tmp_path / "a.json")]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert "4 pieces of at most 4 frames, 16 frames" in result.output
    assert "the scale search: " in result.output and "colour names are of CSS's" in result.output
    content = json.loads((tmp_path / "a.json").read_text())
    assert list(content["rows"]) == [v.name for v in chosen]
    base, hand = (content["rows"][name] for name in (a.DEFAULT, "HOG and Lab alone"))
    assert .7 < base["auc"] <= 20 / 21 and set(base["sequences"]) == {"a", "b"}
    assert hand["worth"] == pytest.approx(base["auc"] - hand["auc"])
    again = CliRunner().invoke(app, call)
    assert "12 of 12 tracks were kept" in again.output
    assert json.loads((tmp_path / "a.json").read_text()) == content


def test_what_fails_or_is_not_installed_is_said(tmp_path, monkeypatch):
    def fail(*_):
        raise ArithmeticError("it broke")

    def absent():
        raise ImportError("no such library")

    monkeypatch.setattr(a, "skimage_parts", absent)
    monkeypatch.setattr(a.PeerFeatures, "__init__", lambda self, *names: a.skimage_parts())
    monkeypatch.setattr(CorrelationTracker, "update", fail)
    rendered(tmp_path, "s", 1)
    rows, notes = a.ablate(find_sequences(tmp_path), 1, 6, [
        a.Variant(a.DEFAULT, network="none"), a.Variant("theirs", peer="scikit-image")])
    assert [r.variant.name for r in rows] == [a.DEFAULT] and rows[0].auc.tolist() == [0]
    assert notes[0] == "theirs: not measured, no such library"
    assert "failed and scores 0 on s from frame 0, frame 1: ArithmeticError" in notes[1]


def test_different_rows_are_kept_apart_in_the_cache(monkeypatch):
    monkeypatch.setattr(a.cache, "fingerprint", lambda name, module: (name, module))
    made = [(v, v.make()) for v in a.variants()
            if not v.peer and not {"lead", "motion_gate"} & set(v.options)]
    keys = {v.fingerprint(t) for v, t in made}
    assert len(keys) == len(made) and {module for _, module in keys} == {"tracker.correlation"}
