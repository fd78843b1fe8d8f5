"""The page of an evaluation: scores, plots, attributes, sequences, and the worst moments."""

import math
from html import escape
from itertools import groupby

import numpy as np

from tracker import State, attributes, metrics
from tracker.boxes import iou
from tracker.draw import annotate
from tracker.evaluate import BASELINES, COLUMNS
from tracker.files import write_text
from tracker.page import grid, page, picture, plot, series_label, table
from tracker.sequences import describe, pick

MOMENTS = 8                             # strips of pictures
OFFSETS = (-12, -4, 0, 6, 24)            # frames of a strip, from the one where the target is lost
TILE = 200                              # pixels, the height of a picture
FAILED = .2                             # the target counts as lost below this overlap
POINTS = 150                            # of a line of overlaps over time

RULES = {"lasot": "frames without the target are left out (LaSOT's rule)",
         "otb": "frames without the target count as failures (OTB's rule)"}


def write_page(report, path):
    """Write the page of an evaluate.Report to `path`, all of it or nothing."""
    ranked = sorted(report.outcomes, key=lambda name: -report.summary(name)["auc"])
    lead = f"{describe(report.sequences)}; {RULES[report.absent]}."
    sections = [("Scores", _scores(report, ranked)), ("Curves", _curves(report, ranked))]
    if report.attributes:
        sections.append(("By what is hard about a sequence", _attributes(report, ranked)))
    sections += [("By sequence", _sequences(report, ranked)),
                 ("Overlap over time", _timelines(report, ranked))]
    shown = next((name for name in report.outcomes if name not in BASELINES), None)
    if shown:
        sections.append((f"Worst moments of {shown}", _moments(report, shown)))
    sections.append(("What is measured", _notes(report)))
    write_text(path, page("Tracker evaluation", lead, sections))


def _scores(report, ranked):
    rows = []
    for number, name in enumerate(ranked):
        scores = report.summary(name)
        rows.append([series_label(number, name),
                     *(scores[key] if form == ".3f" else _number(scores[key], form)
                       for key, (_, form) in COLUMNS.items())])
    rows += [[name, *[None] * len(COLUMNS)] for name in report.missing]
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes())
    kept = sum(o.kept for outcomes in report.outcomes.values() for o in outcomes)
    if kept:
        notes += (f"<li>{kept} tracks were kept from earlier runs: their frames per second were "
                  "measured then.</li>")
    return (table(["tracker", *(heading for heading, _ in COLUMNS.values())], rows, range(6))
            + f"<ul class=note>{notes}</ul>" * bool(notes))


def _curves(report, ranked):
    kinds = (("success", "Success: part of the frames with an overlap above …",
              metrics.SUCCESS_THRESHOLDS, "overlap (IoU)", "auc"),
             ("precision", "Precision: part of the frames with the centre within …",
              metrics.PRECISION_THRESHOLDS, "pixels", "precision20"),
             ("normalised_precision", "Normalised precision: the same in sizes of the target",
              metrics.NORMALISED_THRESHOLDS, "sizes of the target", "normalised_auc"))
    parts = []
    for kind, title, thresholds, unit, score in kinds:
        curves = [(number, f"{name} {report.summary(name)[score]:.3f}", report.curve(name, kind))
                  for number, name in enumerate(ranked)]
        parts.append(plot(title, thresholds, curves, unit))
    return grid(parts, 320)


def _attributes(report, ranked):
    scores = {name: report.by_attribute(name) for name in ranked}
    rows = [[f"{attribute} ({len(masks)})", *(scores[name][attribute] for name in ranked)]
            for attribute, masks in report.attributes.items()]
    own = sum(not s.attributes for s in report.sequences)
    note = (f"<p class=note>Success AUC over the sequences (how many) with each. {own} of the "
            f"{len(report.sequences)} sequences have no attributes of their dataset: theirs are "
            f"computed.</p>" + f"<pre class=note>{escape(_rules())}</pre>" * bool(own))
    return table(["attribute", *ranked], rows, "row") + note


def _rules():
    lines = attributes.__doc__.splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    "))


def _sequences(report, ranked):
    columns = [report.outcomes[name] for name in ranked]
    rows = [[f"{sequence.name} ({len(sequence)})", *(o.one_pass.auc if not o.error else "failed"
                                                    for o in outcomes)]
            for sequence, *outcomes in zip(report.sequences, *columns)]
    return table(["sequence (frames)", *ranked], rows, "row")


def _timelines(report, ranked):
    shown = [(number, name) for number, name in enumerate(ranked) if name not in BASELINES][:5]
    parts = []
    for i, sequence in enumerate(report.sequences):
        blocks = np.array_split(np.arange(len(sequence)), min(POINTS, len(sequence)))
        curves = []
        for number, name in shown:
            overlaps = _overlaps(report.outcomes[name][i], sequence)
            curves.append((number, name, [metrics.finite_mean(overlaps[b]) for b in blocks]))
        parts.append(plot(sequence.name, np.arange(len(blocks)), curves, "", small=True))
    legend = "".join(f"<span>{series_label(*series)}</span>" for series in shown)
    return (f"<div class=legend>{legend}</div><p class=note>From 0 at the bottom to 1; a gap where "
            f"the target is absent.</p>{grid(parts, 240)}")


def _overlaps(outcome, sequence):
    """The overlap in every frame, (n,): nan where the target is absent, 0 where no box was said."""
    overlaps = np.nan_to_num(iou(outcome.track.boxes, sequence.boxes), nan=0.)
    return np.where(sequence.present, overlaps, np.nan)


def worst_moments(outcomes, sequences):
    """Where a tracker fails longest: [(frames that it costs, sequence, its Outcome, the frame where
    it begins)], one a sequence at most, the longest first."""
    found = []
    for outcome, sequence in zip(outcomes, sequences):
        failed, runs = _overlaps(outcome, sequence)[sequence.present] < FAILED, []
        frames = np.flatnonzero(sequence.present)
        for bad, group in groupby(range(len(failed)), lambda i: failed[i]):
            group = list(group)
            if bad and not outcome.error:
                runs.append((len(group), sequence, outcome, int(frames[group[0]])))
        found += [max(runs, key=lambda run: run[0])] if runs else []
    return sorted(found, key=lambda run: -run[0])


def _moments(report, name):
    moments = worst_moments(report.outcomes[name], report.sequences)
    if not moments:
        return f"<p>None: the overlap never falls below {FAILED} in any sequence.</p>"
    parts = []
    for cost, sequence, outcome, at in moments[:MOMENTS]:
        start, end = outcome.track.start, len(sequence) - 1
        numbers = sorted({min(max(at + offset, start), end) for offset in OFFSETS})
        frames = pick(sequence.frames, numbers)
        tiles = [picture(_tile(frames[i], outcome.track, sequence, i),
                         f"{sequence.name}, frame {i}") for i in numbers]
        parts.append(f"<figure class=moment><figcaption>{escape(sequence.name)}: from frame {at} "
                     f"on for {cost} frames</figcaption><div class=strip>{''.join(tiles)}</div>"
                     "</figure>")
    return ("<p class=note>The longest stretch of each sequence in which the overlap stays below "
            f"{FAILED}. Dashed: the truth; green with its confidence, or red: what the tracker "
            "said.</p>" + "".join(parts))


def _tile(frame, track, sequence, i):
    """The part of a frame around the true and the said box, or all of it where they are far from
    each other, TILE pixels high, with both drawn."""
    boxes = [b for b in (track.boxes[i], sequence.boxes[i]) if np.isfinite(b).all()]
    height, width = frame.shape[:2]
    x, y, w, h = 0, 0, width, height
    if boxes:
        low = np.min([b[:2] for b in boxes], 0)
        high = np.max([b[:2] + b[2:] for b in boxes], 0)
        side = int(max(1.4 * (high - low).max(), 90))
        if side < min(width, height):
            corner = np.clip((low + high) / 2 - side / 2, 0, (width - side, height - side))
            x, y = corner.astype(int)
            w = h = side
    move = np.array([x, y, 0, 0])
    confidence = track.confidence[i]
    state = State(tuple(track.boxes[i] - move), 0. if math.isnan(confidence) else float(confidence),
                  bool(track.lost[i]))
    return annotate(np.ascontiguousarray(frame[y:y + h, x:x + w]), state, i,
                    sequence.boxes[i] - move, scale=TILE / h)


def _notes(report):
    lines = (
        "AUC: the mean of the success curve over 21 overlaps from 0 to 1 (strictly above), then "
        "over the sequences; a perfect track has 20/21 (Wu, Lim, Yang 2013).",
        "Precision: the part of the frames whose centre is at most 20 pixels off. Normalised: "
        "divided by the target's width and height, the mean over 51 thresholds up to 0.5.",
        "AO: the mean overlap, SR: the part above 0.5 and 0.75, by GOT-10k's rules: the first "
        "frame left out, boxes clipped to the picture, frames of all sequences pooled.",
        "One pass from the first frame's true box. fps: frames per second inside "
        "update(), without each sequence's first.",
        "first: keeps the first box. velocity: goes straight on, with the first velocity as the "
        "truth has it.",
    )
    return "<ul class=note>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _number(value, form):
    return None if math.isnan(value) else format(value, form)
