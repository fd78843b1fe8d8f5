"""How good a track is: the measures of OTB, LaSOT and GOT-10k.

Every function takes predicted and true boxes (n, 4), x, y, w, h in pixels, one row a frame, row 0
the frame that the tracker was started on (it counts in one-pass evaluation, as ground truth, and
is left out by GOT-10k's rules). A prediction that is not finite is a failure.

The target is absent where the true box has a nan or no area. Two rules for such frames:

    "lasot"   they are left out (Fan et al. 2019): one cannot find what is not there
    "otb"     they count as failures (the GOT-10k toolkit's OTB evaluation does this)

    Wu, Lim, Yang: Online Object Tracking: A Benchmark (CVPR 2013), success and precision
    Mueller et al.: TrackingNet (ECCV 2018), normalised precision
    Huang, Zhao, Huang: GOT-10k (TPAMI 2019), AO and SR
"""

import math
from dataclasses import dataclass

import numpy as np

from tracker.boxes import centre, centre_distance, iou

ABSENT_RULES = ("lasot", "otb")
SUCCESS_THRESHOLDS = np.linspace(0, 1, 21)          # IoU
PRECISION_THRESHOLDS = np.arange(51)                # pixels
NORMALISED_THRESHOLDS = np.linspace(0, 0.5, 51)     # sizes of the target


@dataclass(frozen=True)
class OnePass:
    """One-pass evaluation of one sequence."""

    success: np.ndarray                 # (21,) fraction of frames with IoU > t
    precision: np.ndarray               # (51,) fraction with centre error <= t pixels
    normalised_precision: np.ndarray    # (51,) the same, error / (w, h) of the target

    @property
    def auc(self):
        """Mean of the success curve. A perfect track scores 20/21: no IoU is above 1."""
        return float(self.success.mean())

    @property
    def precision20(self):
        """Fraction of frames whose centre is at most 20 pixels off."""
        return float(self.precision[20])

    @property
    def normalised_auc(self):
        """Mean of the normalised precision curve."""
        return float(self.normalised_precision.mean())


def one_pass(predicted, truth, absent="lasot"):
    """Success and precision of one sequence: (n, 4), (n, 4) -> OnePass.

    Raises ValueError for an unknown rule, for unequal shapes, or if no frame is left to judge.
    """
    if absent not in ABSENT_RULES:
        raise ValueError(f"the rule for absent frames is one of {ABSENT_RULES}, not {absent!r}")
    predicted, truth, present = _aligned(predicted, truth)
    if absent == "lasot":
        predicted, truth = predicted[present], truth[present]
    with np.errstate(invalid="ignore"):                     # comparisons with nan are failures
        relative = (centre(predicted) - centre(truth)) / truth[:, 2:]           # (n, 2)
        return OnePass(
            success=(iou(predicted, truth)[:, None] > SUCCESS_THRESHOLDS).mean(0),
            precision=(centre_distance(predicted, truth)[:, None] <= PRECISION_THRESHOLDS).mean(0),
            normalised_precision=(np.hypot(*relative.T)[:, None] <= NORMALISED_THRESHOLDS).mean(0))


def got10k_overlaps(predicted, truth, width, height):
    """The IoU of every frame that GOT-10k judges: (n, 4), (n, 4) -> (m,), m < n.

    Row 0 and absent frames are left out; boxes are clipped to the image of width x height pixels.
    Concatenate the results of all sequences: GOT-10k pools frames, long sequences weigh more.
    """
    predicted, truth, present = _aligned(predicted, truth)
    judged = present.copy()
    judged[0] = False
    predicted, truth = (_got10k_clip(b[judged], width, height) for b in (predicted, truth))
    return np.nan_to_num(iou(predicted, truth), nan=0.0)


def got10k_scores(overlaps):
    """GOT-10k's three numbers from pooled overlaps (m,): AO (mean IoU), SR.50 and SR.75."""
    overlaps = np.asarray(overlaps, np.float64)
    if not overlaps.size:
        raise ValueError("no frame to judge: GOT-10k leaves out each sequence's first frame")
    return {"ao": float(overlaps.mean()),
            "sr50": float((overlaps > 0.5).mean()),
            "sr75": float((overlaps > 0.75).mean())}


def finite_mean(values):
    """The mean of those of the values (m,) that are finite; nan if none is."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else math.nan


def _aligned(predicted, truth):
    """Both as float64 (n, 4) with nan rows where not usable, and where the target is present."""
    predicted, truth = np.array(predicted, np.float64), np.array(truth, np.float64)
    if predicted.shape != truth.shape or truth.ndim != 2 or truth.shape[1] != 4:
        raise ValueError("predicted and true boxes have the same shape (frames, 4), not "
                         f"{predicted.shape} and {truth.shape}")
    present = np.isfinite(truth).all(1) & (truth[:, 2:] > 0).all(1)
    if not present.any():
        raise ValueError(f"the target is absent in all of the {len(truth)} frames: nothing to "
                         "judge")
    truth[~present] = np.nan
    predicted[~np.isfinite(predicted).all(1)] = np.nan
    return predicted, truth, present


def _got10k_clip(boxes, width, height):
    # As the toolkit does it, for numbers that compare with published ones: a corner beyond the
    # left or top border moves onto it and the box keeps its size (tracker.boxes.clip cuts).
    corner = np.clip(boxes[:, :2], 0, (width, height))
    return np.concatenate([corner, np.clip(boxes[:, 2:], 0, (width, height) - corner)], 1)
