"""How good the tracks of many targets are: MOTA, IDF1, HOTA, switches and fragmentations.

A frame is (ids, boxes): (k,) integers, (k, 4) x, y, w, h; truth and tracks are lists of as many of
them (tracker.sequences.read_mot gives such a list). What is alike in a frame, the overlap of the
boxes, is all that counts.

    Bernardin, Stiefelhagen 2008: CLEAR MOT         MOTA = 1 - (misses + false positives + switches)
                                                           / boxes of the truth, from overlap .5 on
    Ristani et al. 2016: identity scores            IDF1 = 2 IDTP / (boxes of truth + of tracks),
                                                    with the best one-to-one pairing of identities
    Luiten et al., IJCV 2021: HOTA                  the mean over 19 overlaps α = .05 ... .95 of
                                                    √(DetA · AssA), see _hota()

Every assignment is SciPy's. The numbers are those of TrackEval 1.3.0 on the same input.
"""

import math

import numpy as np
from scipy.optimize import linear_sum_assignment

from tracker.boxes import iou

OVERLAP = .5                                # from which on a box counts as found: CLEAR and IDF1
ALPHAS = np.arange(1, 20) / 20
EPSILON = np.finfo(float).eps               # an overlap of exactly .5 counts


def mot_scores(truth, tracks):
    """All scores of tracks against the truth, two lists of frames (ids, boxes) -> dict:

    mota, motp, idf1, hota, deta, assa (nan where there is nothing to judge), and the counts
    switches, fragmentations, misses, false_positives, truth, tracks (boxes).
    Raises ValueError for lists of unequal length or a frame with an identity twice.
    """
    if len(truth) != len(tracks):
        raise ValueError(f"truth and tracks have a list entry for every frame, not {len(truth)} "
                         f"and {len(tracks)}")
    overlaps = []
    for number, ((ids, boxes), (said_ids, said)) in enumerate(zip(truth, tracks)):
        boxes, said = (np.asarray(b, float).reshape(-1, 4) for b in (boxes, said))
        overlaps.append(iou(boxes[:, None], said[None]))                # (k, l)
        for what, its, own in (("truth", ids, boxes), ("tracks", said_ids, said)):
            if len(set(map(int, its))) != len(own):
                raise ValueError(f"frame {number} of the {what} needs a different identity for "
                                 f"each of its {len(own)} boxes, got {list(map(int, its))}")
    return scores_of_overlaps([ids for ids, _ in truth], [ids for ids, _ in tracks], overlaps)


def scores_of_overlaps(truth_ids, track_ids, overlaps):
    """The same from identities and similarities: for each frame (k,), (l,) and (k, l) in [0, 1]."""
    truth_ids, n_truth = _from_zero(truth_ids)
    track_ids, n_tracks = _from_zero(track_ids)
    frames = list(zip(truth_ids, track_ids, overlaps))
    counts = np.zeros(n_truth), np.zeros(n_tracks)          # frames of each identity
    for ids, said, _ in frames:
        counts[0][ids] += 1
        counts[1][said] += 1
    return {**_clear(frames, n_truth), **_identity(frames, counts), **_hota(frames, counts),
            "truth": int(counts[0].sum()), "tracks": int(counts[1].sum())}


def _clear(frames, n_truth):
    """CLEAR MOT. Pairs of the frame before are kept where they still overlap enough; the others
    are the assignment of the largest overlap."""
    before = np.full(n_truth, -1)           # the track that each target had last, whenever
    present = np.full(n_truth, -1)          # ... and in the frame before
    matches = switches = misses = false = 0
    overlap, stretches = 0., np.zeros(n_truth)
    for ids, said, similar in frames:
        if not len(ids) or not len(said):   # as TrackEval: such a frame interrupts nothing
            misses, false = misses + len(ids), false + len(said)
            continue
        kept = said[None, :] == present[ids][:, None]                   # (k, l)
        value = np.where(similar >= OVERLAP - EPSILON, 1000. * kept + similar, 0)
        rows, columns = linear_sum_assignment(value, maximize=True)
        good = value[rows, columns] > EPSILON
        rows, columns = rows[good], columns[good]
        targets, found = ids[rows], said[columns]
        switches += int(((before[targets] >= 0) & (before[targets] != found)).sum())
        stretches[targets] += present[targets] < 0                      # begun in this frame
        before[targets] = found
        present[:] = -1
        present[targets] = found
        matches += len(rows)
        misses += len(ids) - len(rows)
        false += len(said) - len(rows)
        overlap += similar[rows, columns].sum()
    return {"mota": _ratio(matches - false - switches, matches + misses),
            "motp": _ratio(overlap, matches), "switches": switches, "misses": misses,
            "false_positives": false,
            "fragmentations": int((stretches[stretches > 0] - 1).sum())}


def _identity(frames, counts):
    """IDF1: the pairing of true and said identities that agrees in the most frames."""
    shared = np.zeros([len(c) for c in counts])             # frames in which a pair overlaps enough
    for ids, said, similar in frames:
        shared[np.ix_(ids, said)] += similar >= OVERLAP - EPSILON
    agreed = shared[linear_sum_assignment(shared, maximize=True)].sum()
    return {"idf1": _ratio(2 * agreed, counts[0].sum() + counts[1].sum())}


def _hota(frames, counts):
    """HOTA(α) = √(DetA(α) · AssA(α)), and the means over α of all three.

    TP, FN, FP: pairs, misses and false positives of overlap α and more, frame by frame, by the
    assignment that favours pairs that agree all the way. DetA = TP / (TP + FN + FP); AssA is the
    mean over the TP of A = TPA / (TPA + FNA + FPA): in how many of the frames that have this target
    or this track they are a pair.
    """
    # how well each identity fits each track over the whole of both: a Jaccard of soft counts
    soft = np.zeros([len(c) for c in counts])
    for ids, said, similar in frames:
        either = similar.sum(0)[None, :] + similar.sum(1)[:, None] - similar
        soft[np.ix_(ids, said)] += np.divide(similar, either, out=np.zeros_like(similar),
                                             where=either > EPSILON)
    fits = soft / np.maximum(counts[0][:, None] + counts[1][None, :] - soft, EPSILON)
    tp = np.zeros(len(ALPHAS))
    pairs = np.zeros((len(ALPHAS), *soft.shape))            # TPA of each pair of identities
    for ids, said, similar in frames:
        rows, columns = linear_sum_assignment(fits[np.ix_(ids, said)] * similar, maximize=True)
        good = similar[rows, columns][None, :] >= ALPHAS[:, None] - EPSILON     # (α, pairs)
        tp += good.sum(1)
        pairs[:, ids[rows], said[columns]] += good
    total = counts[0].sum() + counts[1].sum()
    detections = tp / np.maximum(total - tp, 1)             # TP + FN + FP = total - TP
    agreement = pairs / np.maximum(counts[0][:, None] + counts[1][None, :] - pairs, 1)
    association = (pairs * agreement).sum((1, 2)) / np.maximum(tp, 1)
    if not total:
        return dict.fromkeys(("hota", "deta", "assa"), math.nan)
    return {"hota": float(np.sqrt(detections * association).mean()),
            "deta": float(detections.mean()), "assa": float(association.mean())}


def _from_zero(frames):
    """Identities (any integers) of each frame as 0, 1, 2, ...; and how many there are."""
    names = {name: i for i, name in enumerate(sorted({int(n) for ids in frames for n in ids}))}
    return [np.array([names[int(n)] for n in ids], int) for ids in frames], len(names)


def _ratio(part, whole):
    return float(part / whole) if whole else math.nan
