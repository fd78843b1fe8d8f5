"""What each part of the correlation tracker is worth: as it is, against one part changed.

Rows: the features (random, by hand, learned, both) and every switch of CorrelationTracker, turned
the other way. Each is started at several places of every sequence, for one lost clip moves a mean
by .02. What is compared is paired, by sequence:

    worth       of a part: the mean over sequences of (success AUC with it - without it)
    interval    in which 95 % of such means lie when sequences are drawn again with replacement
                (Efron's bootstrap)
    held out    the part is turned on or off for each sequence by what is better on the others; what
                that gains over "off" (cross-validation, one sequence left out at a time)

A part pays where its whole interval is above 0, does not pay where it is below, and is else within
noise. By default should be on what gains held out, and nothing else. Sequences that parts were
tuned on flatter them, and so does this table on them.

What helps after a loss (the gate, re-detection) shows in whole sequences only, where a loss lasts:
--starts 1 --frames 100000. In short pieces it costs what its false alarms cost, and gains little.
"""

import inspect
from dataclasses import dataclass, field, replace

import numpy as np
from rich.console import Console
from rich.table import Table

from minideep.utils import set_random_seed
from tracker import cache
from tracker.correlation import CROP, CorrelationTracker
from tracker.evaluate import Job, bar, found_sequences, judge, say, tracks
from tracker.features import STRIDE, FeatureNetwork
from tracker.files import write_json
from tracker.opencv import import_cv2
from tracker.sequences import describe

DEFAULT = "as it is"
DRAWS = 10_000          # of the bootstrap
LABELS = {"scale": "the scale search", "window": "the window", "histogram": "the colour histogram",
          "gate": "the update gate", "redetect": "re-detection",
          "lead": "the LSTM's motion", "motion_gate": "the LSTM's confidence"}


@dataclass(frozen=True)
class Variant:
    """The tracker with something changed."""

    name: str               # of the row
    part: str = ""          # what is measured, as a sentence says it
    adds: bool = False      # True: the variant has the part; False: the tracker as it is has it
    network: str = "learned"        # "learned", "random" or "none"
    options: dict = field(default_factory=dict)     # of CorrelationTracker
    peer: str = ""          # whose HOG and colours: "" ours, "OpenCV" or "scikit-image"
    colours: str = "Lab"    # of the peer's pixels: "Lab" or "colour names"

    def make(self):
        """The tracker. Raises ImportError where the peer is not installed, FileNotFoundError where
        there are no weights of what is to be turned on."""
        if self.peer:
            return PeerFeatures(self.peer, self.colours)
        options = self.options
        if self.network != "learned":           # no other features are known to what refines the box
            options = {**options, "refine": None}
        tracker = CorrelationTracker.load(**options)
        if {"lead", "motion_gate"} & set(self.options) and tracker.foresight is None:
            raise FileNotFoundError("there are no weights of the motion network")
        if self.network == "random":
            set_random_seed(0)
            tracker.network = FeatureNetwork()
        elif self.network == "none":
            tracker.network = None
        return tracker

    def fingerprint(self, tracker):
        """Decides whether a kept track of it is still good; tracker: one that make() made."""
        what = f"ablation, {self.network} {sorted(self.options.items())} {self.peer} {self.colours}"
        return cache.fingerprint(what + getattr(tracker, "version", ""), type(tracker).__module__)


def variants():
    """All rows, the tracker as it is first."""
    parameters = inspect.signature(CorrelationTracker).parameters.values()
    switches = {p.name: p.default for p in parameters
                if isinstance(p.default, bool) and p.name != "hand"}
    turned = [Variant(f"{'without' if on else 'with'} {LABELS.get(name, name)}",
                      LABELS.get(name, name), not on, options={name: not on})
              for name, on in switches.items()]
    if switches["gate"] is switches["redetect"]:        # each leans on the other: both at once
        on, both = switches["gate"], "the update gate and re-detection"
        turned.append(Variant(f"{'without' if on else 'with'} {both}", both, not on,
                              options={"gate": not on, "redetect": not on}))
    return [
        Variant(DEFAULT),
        Variant("learned features alone", "HOG and Lab", options={"hand": False}),
        Variant("HOG and Lab alone", "the CNN", network="none"),
        Variant("a random CNN, HOG and Lab", "training the CNN", network="random"),
        Variant("a random CNN alone", "training, HOG and Lab", network="random",
                options={"hand": False}),
        *(Variant(f"{peer}'s HOG and {colours} alone", f"all features but {peer}'s HOG and {colours}",
                  network="none", peer=peer, colours=colours)
          for peer in ("OpenCV", "scikit-image") for colours in ("Lab", "colour names")),
        *turned,
        Variant("without the refined box", "the refined box", options={"refine": None}),
    ]


# The eleven basic colour terms (Berlin and Kay, 1969) as CSS defines them, red, green, blue.
NAMES = {"black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128),
         "green": (0, 128, 0), "orange": (255, 165, 0), "pink": (255, 192, 203),
         "purple": (128, 0, 128), "red": (255, 0, 0), "white": (255, 255, 255), "yellow": (255, 255, 0)}
LIKE = 20.              # distance in Lab at which a pixel is called less by a name
NOTES = ("colour names are of CSS's eleven basic colours, by their distance in Lab: the table learned by "
         "van de Weijer et al. (2009) comes with no package",
         "the refined box needs the learned features and the histogram: a tracker without one of these "
         "is without it too")


class PeerFeatures(CorrelationTracker):
    """The same filter on HOG and colours as another library computes them.

    HOG after Dalal and Triggs (2005): 9 directions, cells of STRIDE pixels, blocks of 2 x 2 cells,
    L2-Hys. A cell keeps its histogram as each of its four blocks has normalised it.
    colours: "Lab", or "colour names": how likely each pixel is called by each of NAMES."""

    def __init__(self, peer, colours="Lab"):
        super().__init__()
        self.parts, self.version = {"OpenCV": opencv_parts, "scikit-image": skimage_parts}[peer]()
        self.named = {"Lab": False, "colour names": True}[colours]
        pixels = np.array([list(NAMES.values())], np.float32)[..., ::-1]        # (1, 11, 3) BGR
        self.names = self.parts(np.resize(pixels, (CROP, CROP, 3)))[1].reshape(-1, 3)[:len(NAMES)]

    def describe(self, crops):
        return self.window * np.stack([self._describe(crop) for crop in crops])

    def _describe(self, crop):
        blocks, colours = self.parts(crop)          # (n-1, n-1, 2, 2, 9), (S, S, 3)
        n = CROP // STRIDE
        cells = np.zeros((n, n, 2, 2, 9), np.float32)
        for i in (0, 1):
            for j in (0, 1):
                cells[i:n - 1 + i, j:n - 1 + j, i, j] = blocks[:, :, i, j]
        if self.named:
            colours = called(colours, self.names) - 1 / len(NAMES)
        else:
            colours = colours / (100, 255, 255) - (.5, 0, 0)
        colours = colours.reshape(n, STRIDE, n, STRIDE, -1).mean((1, 3))
        return np.concatenate([cells.reshape(n, n, -1), colours], -1).astype(np.float32)


def called(lab, names):
    """How likely each pixel (..., 3) in Lab is called by each of the names (k, 3): (..., k), whose
    sum is 1. A name's part falls with the square of its distance."""
    squares = ((lab[..., None, :] - names) ** 2).sum(-1) / (2 * LIKE ** 2)
    parts = np.exp(squares.min(-1, keepdims=True) - squares)
    return parts / parts.sum(-1, keepdims=True)


def opencv_parts():
    """(a function from a crop to its blocks of HOG and its pixels in Lab, the version)"""
    cv2 = import_cv2()
    if not hasattr(cv2, "HOGDescriptor"):
        raise ImportError(f"OpenCV {cv2.__version__} has its HOG in the wheel "
                          "opencv-contrib-python only: `make peers`")
    cell, n = (STRIDE, STRIDE), CROP // STRIDE
    descriptor = cv2.HOGDescriptor((CROP, CROP), (2 * STRIDE, 2 * STRIDE), cell, cell, 9)

    def parts(crop):
        blocks = descriptor.compute(np.clip(crop, 0, 255).astype(np.uint8))
        blocks = blocks.reshape(n - 1, n - 1, 2, 2, 9).transpose(1, 0, 3, 2, 4)    # columns first
        return blocks, cv2.cvtColor(np.float32(crop / 255), cv2.COLOR_BGR2LAB)

    return parts, cv2.__version__


def skimage_parts():
    """(a function from a crop to its blocks of HOG and its pixels in Lab, the version)"""
    try:
        import skimage
        from skimage.color import rgb2lab
        from skimage.feature import hog
    except ImportError as error:
        raise ImportError(f"scikit-image cannot be imported ({error}): pip install "
                          "scikit-image") from error

    def parts(crop):
        blocks = hog(crop, 9, (STRIDE, STRIDE), (2, 2), feature_vector=False, channel_axis=-1)
        return blocks, rgb2lab(crop[..., ::-1] / 255)

    return parts, skimage.__version__


def pieces(sequence, starts, frames):
    """Up to `starts` pieces of a Sequence, evenly spread, of `frames` frames each or fewer.

    Each begins where the target is present; starts on the same frame count once."""
    there = np.flatnonzero(sequence.present)
    last = max(len(sequence) - frames, there[0])
    wanted = np.linspace(there[0], last, starts).round()
    chosen = sorted({int(there[min(np.searchsorted(there, w), len(there) - 1)]) for w in wanted})
    return [replace(sequence.every(1, start), name=f"{sequence.name} from frame {start}").head(frames)
            for start in chosen]


@dataclass(frozen=True)
class Row:
    """A variant's scores, and the worth of its part (nan for the tracker as it is)."""

    variant: Variant
    auc: np.ndarray         # (sequences,), each the mean over its pieces
    precision: np.ndarray   # (sequences,)
    worth: float = np.nan
    interval: tuple[float, float] = (np.nan, np.nan)
    held_out: float = np.nan
    chosen: int = 0         # sequences for which the others would turn the part on

    @property
    def verdict(self):
        low, high = self.interval
        return "pays" if low > 0 else "does not pay" if high < 0 else "within noise"

    def sentence(self):
        """What was found out about the part."""
        v = self.variant
        now, better = not v.adds, self.held_out > 0
        tie = self.held_out == 0 <= self.worth      # 0 too where it costs, and is chosen nowhere
        text = (f"{v.part}: {self.verdict}, {signed(self.worth)} AUC "
                f"[{signed(self.interval[0])}, {signed(self.interval[1])}], "
                f"{signed(self.held_out)} held out; {'on' if now else 'off'} by default")
        if tie:
            return f"{text}, no difference held out"
        return text if now == better else f"{text}, better {'on' if better else 'off'}"


def ablate(sequences, starts, frames, rows=None, jobs=1, progress=None, fresh=False):
    """Measure Variants, the first of them the tracker as it is; None: variants().

    progress(what, kept before?) is called after each pass. Returns ([Row], [text about what failed
    or could not run here])."""
    rows = variants() if rows is None else rows
    notes, makers = [], {}
    for row in rows:
        try:
            makers[row.name] = row.make, row.fingerprint(row.make())
        except (ImportError, FileNotFoundError) as error:
            notes.append(f"{row.name}: not measured, {error}")
    cut = [pieces(sequence, starts, frames) for sequence in sequences]
    work, places = [], []
    for name, (make, fingerprint) in makers.items():
        for number, parts in enumerate(cut):
            for part in parts:
                work.append(Job(name, make, part, None, fingerprint))
                places.append(number)
    scores = {name: [[] for _ in sequences] for name in makers}
    for number, track, kept in tracks(work, jobs, fresh):
        job = work[number]
        outcome = judge(job, track, kept=kept)
        if outcome.error:
            notes.append(f"{job.tracker} failed and scores 0 on {outcome.error}")
        scores[job.tracker][places[number]].append(
            (outcome.one_pass.auc, outcome.one_pass.precision20))
        if progress:
            progress(f"{job.tracker}: {job.sequence.name}", kept)
    done = []
    for variant in rows:
        if variant.name in scores:
            means = np.array([np.mean(each, 0) for each in scores[variant.name]])
            row = Row(variant, means[:, 0], means[:, 1])
            done.append(judged(row, done[0]) if done else row)
    return done, notes


def judged(row, base):
    """The Row with its worth against that of the tracker as it is."""
    gains = row.auc - base.auc if row.variant.adds else base.auc - row.auc
    held_out, chosen = cross_validated(gains)
    return replace(row, worth=float(gains.mean()), interval=bootstrap(gains), held_out=held_out,
                   chosen=chosen)


def bootstrap(gains):
    """The interval that holds 95 % of the means of gains (n,) drawn again with replacement."""
    n = len(gains)
    drawn = gains[np.random.default_rng(0).integers(0, n, (DRAWS, n))].mean(1)
    return tuple(float(q) for q in np.quantile(drawn, (.025, .975)))


def cross_validated(gains):
    """(mean gain where the mean of the *other* gains is above 0 and 0 elsewhere, how many are)."""
    others = gains.sum() - gains                    # what their mean's sign is, too
    chosen = others > 0
    return float((gains * chosen).mean()), int(chosen.sum())


def signed(value):
    """+.012, as the tables have it."""
    return f"{value:+.3f}"


def ablate_command(data_folder, starts=3, frames=100, jobs=1, json=None, one_based=False,
                   fresh=False):
    """`python -m tracker ablate`: print the table and a sentence on each part -> [Row]."""
    console = Console()
    sequences = found_sequences(data_folder, console, None, one_based)
    cut = [pieces(sequence, starts, frames) for sequence in sequences]
    runs = sum(map(len, cut))
    say(console, f"{runs} pieces of at most {frames} frames, {sum(map(len, sum(cut, [])))} frames")
    with bar(console, runs * len(variants())) as step:
        rows, notes = ablate(sequences, starts, frames, jobs=jobs, progress=step, fresh=fresh)
    notes += NOTES
    console.print(_table(rows))
    for row in rows[1:]:
        say(console, row.sentence())
    for note in notes:
        say(console, note)
    if json:
        write_json(json, _content(rows, notes, sequences, starts, frames))
        say(console, f"written: {json}")
    return rows


def _table(rows):
    n = len(rows[0].auc)
    table = Table(title=f"What each part is worth: success AUC on {n} sequence{'s' * (n != 1)}")
    table.add_column("tracker")
    for heading in ("AUC", "precision\n@20 px", "worth of\nthe part", "95 % interval", "held out",
                    "on by\ndefault", "the part"):
        table.add_column(heading, justify="left" if heading == "the part" else "right")
    for row in rows:
        cells = [f"{row.auc.mean():.3f}", f"{row.precision.mean():.3f}"]
        if row is not rows[0]:
            low, high = map(signed, row.interval)
            cells += [signed(row.worth), f"{low} {high}", signed(row.held_out),
                      "no" if row.variant.adds else "yes", row.verdict]
        table.add_row(row.variant.name, *cells)
    return table


def _content(rows, notes, sequences, starts, frames):
    def of(row):
        each = {s.name: auc for s, auc in zip(sequences, row.auc.tolist())}
        found = {} if row is rows[0] else {
            "part": row.variant.part, "on_by_default": not row.variant.adds, "worth": row.worth,
            "interval": row.interval, "held_out": row.held_out, "chosen_on": row.chosen,
            "verdict": row.verdict, "sentence": row.sentence()}
        return {"auc": row.auc.mean(), "precision20": row.precision.mean(), **found,
                "sequences": each}

    return {"data": describe(sequences), "starts": starts, "frames": frames, "notes": notes,
            "rows": {row.variant.name: of(row) for row in rows}}
