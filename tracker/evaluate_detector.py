"""How well a detector finds the demo's objects: average precision on frames that it never saw.

    average_precision(found, truth)     # of one class over some frames
    evaluate_detector()                 # on bundled clips; `python -m tracker evaluate-detector`

The frames are those of clips/objects.json, on which all people and cups were noted by hand. They
come after those that the detector was trained on, but before the same camera and with the same cup:
they tell whether the demo's objects are found, not people and cups in general.
"""
from __future__ import annotations

import json as json_format
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tracker.boxes import iou
from tracker.demo import CLIPS
from tracker.files import write_json
from tracker.moving import MovingThings
from tracker.object_detector import CLASSES, SURE, ObjectDetector
from tracker.opencv import import_cv2
from tracker.sequences import VideoFrames

OVERLAP = .5            # IoU of a detection that is right
LEAST = .02             # score down to which detections count for the average precision


def average_precision(found, truth, hidden=None, sure=0.):
    """(AP, recall, precision): the area under the curve of precision over recall, all points
    (PASCAL VOC 2010 and after), at IoU .5; recall and precision of detections of scores >= `sure`.

    found: for each frame (boxes (D, 4), scores (D,)); truth: for each frame boxes (B, 4); hidden:
    for each frame boxes that to find is neither right nor wrong. From the highest score down, a
    detection is right if the object that it overlaps most (by OVERLAP or more) has not been found
    by a higher one. nan for an average over no objects."""
    hidden = [np.empty((0, 4))] * len(truth) if hidden is None else hidden
    right, scores = [], []
    for (boxes, values), true, either in zip(found, truth, hidden, strict=True):
        true, either = np.reshape(true, (-1, 4)), np.reshape(either, (-1, 4))
        objects, taken = np.concatenate([true, either]), set()
        for k in np.argsort(-np.asarray(values), kind="stable"):
            overlaps = iou(boxes[k], objects)
            best = int(overlaps.argmax()) if len(objects) else 0
            good = len(objects) > 0 and overlaps[best] >= OVERLAP
            if not (good and best >= len(true)):
                right.append(good and best not in taken)
                scores.append(values[k])
                taken.update([best] if good else [])
    total = sum(len(np.reshape(boxes, (-1, 4))) for boxes in truth)
    order = np.argsort(-np.array(scores), kind="stable")
    right, scores = np.array(right, bool)[order], np.array(scores)[order]
    precision = right.cumsum() / (1 + np.arange(len(right)))
    best = np.maximum.accumulate(precision[::-1])[::-1]     # the highest at this recall or more
    chosen = right[scores >= sure]
    return (float(best[right].sum() / total) if total else float("nan"),
            float(chosen.sum() / total) if total else float("nan"),
            float(chosen.mean()) if len(chosen) else float("nan"))


def read_objects(path=CLIPS / "objects.json"):
    """{clip: {frame: {class, or "hidden CLASS": boxes (B, 4)}}}"""
    notes = json_format.loads(Path(path).read_text(encoding="utf-8"))
    return {clip: {int(frame): {kind: np.array(boxes, float) for kind, boxes in kinds.items()}
                   for frame, kinds in notes[clip].items()} for clip in notes if clip != "about"}


def hog_people(frame, scale=2):
    """OpenCV's HOG and linear SVM for people (Dalal and Triggs, 2005), as OpenCV's sample uses it,
    on the frame twice as large, since it knows people of 96 pixels and more: boxes, scores."""
    cv2 = import_cv2()
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
    large = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    boxes, scores = hog.detectMultiScale(large, winStride=(8, 8), scale=1.05)
    boxes = np.reshape(boxes, (-1, 4)).astype(float) / scale
    boxes = boxes * [1, 1, .8, .8] + boxes[:, [2, 3, 2, 3]] * [.1, .07, 0, 0]   # they have rims
    return boxes, np.reshape(scores, -1)


def evaluate_detector(detector=None):
    """[{"detector", "class", "ap", "recall", "precision", "objects", "frames", "ms"}, ...]: the
    detector, and of people also what moves and, where this OpenCV has it, its HOG detector."""
    detector = ObjectDetector.load() if detector is None else detector
    clips, notes = read_objects(), []
    others = {"what moves": None}
    if hasattr(import_cv2(), "HOGDescriptor"):
        others["OpenCV's HOG"] = hog_people
    found, seconds = {name: [] for name in ("trained", *others)}, {}

    def look(name, function, *arguments):
        begun = time.perf_counter()
        found[name].append(function(*arguments))
        seconds[name] = seconds.get(name, []) + [time.perf_counter() - begun]

    for clip, noted in clips.items():
        moving = MovingThings()         # it wants all frames
        for number, frame in enumerate(VideoFrames(CLIPS / f"{clip}.webm")):
            if number not in noted:
                moving(frame)
                continue
            notes.append(noted[number])
            look("trained", detector.find, frame, LEAST)
            look("what moves", moving, frame)
            for name, function in others.items():
                if function is not None:
                    look(name, function, frame)

    def row(name, kind, pairs, sure):
        truth, hidden = ([note.get(k, np.empty((0, 4))) for note in notes]
                         for k in (kind, f"hidden {kind}"))
        ap, recall, precision = average_precision(pairs, truth, hidden, sure)
        return {"detector": name, "class": kind, "ap": ap, "recall": recall, "precision": precision,
                "objects": sum(map(len, truth)), "frames": len(notes),
                "ms": 1000 * float(np.median(seconds[name]))}

    rows = [row("trained", kind, [(boxes[classes == k], scores[classes == k])
                                  for boxes, scores, classes in found["trained"]], SURE)
            for k, kind in enumerate(CLASSES)]
    return rows + [row(name, "person", found[name], -np.inf) for name in others]


def evaluate_detector_command(json=None):
    """`python -m tracker evaluate-detector`."""
    rows = evaluate_detector()
    table = Table(title=f"{rows[0]['frames']} frames of the bundled clips, none of them trained on")
    for heading in ("class", "detector"):
        table.add_column(heading)
    for heading in ("AP at\nIoU .5", "recall", "precision", "objects", "ms a\nframe"):
        table.add_column(heading, justify="right")
    for r in rows:
        table.add_row(r["class"], r["detector"], *(f"{r[k]:.3f}" for k in (
            "ap", "recall", "precision")), str(r["objects"]), f"{r['ms']:.0f}")
    console = Console()
    console.print(table)
    console.print(f"recall and precision: of the trained detector at scores of {SURE} and more")
    if json:
        write_json(json, rows)
    return rows
