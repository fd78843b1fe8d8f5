"""How well many targets are followed: MOTA, IDF1 and HOTA on rendered scenes or MOTChallenge data.

There are two ways to start:

    boxes         the true box of every target in the first frame in which it is seen is given, and
                  no more
    detections    a detector's boxes are given in every frame, and no more: those in det/det.txt, or,
                  for rendered scenes, the true ones with errors (see flawed())
"""
from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tracker.evaluate import say
from tracker.files import write_json
from tracker.mot_metrics import mot_scores
from tracker.multi import MultiTracker
from tracker.scenes import render
from tracker.sequences import IMAGE_TYPES, ImageFrames, natural_order, read_mot

SHOWN = {"mota": "MOTA", "idf1": "IDF1", "hota": "HOTA", "switches": "switches", "misses": "misses",
         "false_positives": "false"}
START = {"boxes": "each target's first box is given", "detections": "a detector's boxes are given"}


@dataclass(frozen=True)
class Crowd:
    """A video with many targets: frames, anything with len() and [i]; truth, a list with (ids, boxes)
    of each frame; detections, a list with boxes (D, 4) of each frame, or None."""
    name: str
    frames: Any
    truth: list
    detections: list | None


def rendered(number, frames=120):
    """Rendered scene `number`: four targets that cross, two occluders, one target that leaves and
    comes back, and a double of one of them."""
    scene = render(number, frames, (480, 360), 4, occluders=2, leaving=1, lookalikes=1)
    truth = scene.truth()
    return Crowd(f"scene {number}", scene, truth, flawed(truth, number))


def flawed(truth, seed, missed=.1, error=.04, false=.1):
    """What a fair detector says: each target is missed with that probability, its box is off by a
    deviation of so much of its size, and in that part of the frames something is invented."""
    rng, detections = np.random.default_rng(seed), []
    for _, boxes in truth:
        found = boxes[rng.random(len(boxes)) >= missed]
        found = found + rng.normal(0, error, found.shape) * found[:, [2, 3, 2, 3]]
        if rng.random() < false:
            found = np.vstack([found, [*rng.uniform(0, 300, 2), *rng.uniform(30, 70, 2)]])
        detections.append(found)
    return detections


def find_crowds(folder):
    """Every sequence in MOTChallenge's layout in a folder: NAME/img1/*.jpg, NAME/gt/gt.txt, and
    NAME/det/det.txt where there are detections. Raises ValueError where there is none."""
    folder = Path(folder)
    files = sorted([*folder.glob("gt/gt.txt"), *folder.glob("*/gt/gt.txt"),
                    *folder.glob("*/*/gt/gt.txt")])
    if not files:
        raise ValueError(f"no sequence in {folder}: expected MOTChallenge's layout, that is "
                         "NAME/img1/000001.jpg, ... and NAME/gt/gt.txt")
    return [_crowd(file.parent.parent) for file in files]


def _crowd(folder):
    images = sorted((p for p in (folder / "img1").glob("*") if p.suffix.lower() in IMAGE_TYPES),
                    key=natural_order)
    if not images:
        raise ValueError(f"no images in {folder / 'img1'}")
    detections, file = None, folder / "det" / "det.txt"
    if file.exists():
        try:        # frame, -1, x, y, w, h, ...: all with the same identity
            table = np.loadtxt(file, delimiter=",", ndmin=2, usecols=(0, 2, 3, 4, 5))
        except (ValueError, IndexError) as error:
            raise ValueError(f"{file}: expected frame,-1,x,y,w,h,... in every line: {error}") from None
        detections = [table[table[:, 0] == t + 1, 1:] - [1, 1, 0, 0] for t in range(len(images))]
    return Crowd(folder.name, ImageFrames(images), read_mot(folder / "gt" / "gt.txt", len(images)),
                 detections)


def follow(crowd, make, start, max_frames=None, progress=None):
    """Follow a Crowd's targets by make(detect=...), a MultiTracker.

    start: "boxes" or "detections". -> (tracks, a list with (ids, boxes) of each frame, without
    targets while they are lost; seconds for all frames)."""
    count = min(len(crowd.frames), max_frames or len(crowd.frames))
    now, known, tracks, seconds = 0, set(), [], 0.

    def detect(frame):
        boxes = crowd.detections[now]
        return boxes, np.ones(len(boxes))

    tracker = make(detect=None if start == "boxes" else detect)
    for now in range(count):
        frame = crowd.frames[now]
        began = time.perf_counter()
        states = tracker.update(frame) if tracker.targets is not None else []
        given = []
        if start == "boxes":
            ids, boxes = crowd.truth[now]
            given = [box for i, box in zip(ids, boxes) if i not in known]
            known.update(ids)
        if tracker.targets is not None:
            numbers = [tracker.add(frame, box) for box in given]
        elif given or start == "detections":
            numbers = tracker.init(frame, given)
        else:                                   # nobody is there yet
            numbers = []
        seconds += time.perf_counter() - began
        seen = [(n, s.box) for n, s in states if not s.lost] + list(zip(numbers, given))
        tracks.append((np.array([n for n, _ in seen], int),
                       np.array([box for _, box in seen], float).reshape(-1, 4)))
        if progress:
            progress()
    return tracks, seconds


def evaluate_many(crowds, make=MultiTracker.load, max_frames=None, progress=None):
    """{start: {name: scores}}: those of tracker.mot_metrics.mot_scores(), and "fps".

    A crowd without detections is only judged from boxes."""
    found = {"boxes": {}, "detections": {}}
    for crowd in crowds:
        for start, scores in found.items():
            if start == "detections" and crowd.detections is None:
                continue
            tracks, seconds = follow(crowd, make, start, max_frames, progress)
            scores[crowd.name] = {**mot_scores(crowd.truth[:len(tracks)], tracks),
                                  "fps": len(tracks) / seconds}
    return {start: scores for start, scores in found.items() if scores}


def evaluate_many_command(data=None, scenes=3, max_frames=None, json=None, make=MultiTracker.load):
    """`python -m tracker evaluate-many`: print the table -> what evaluate_many() gives.

    data: a folder with MOTChallenge's sequences, or None: so many rendered scenes, of which each
    takes about 20 seconds on one core."""
    console = Console()
    crowds = ([rendered(number) for number in range(scenes)] if data is None else find_crowds(data))
    passes = [min(len(c.frames), max_frames or len(c.frames)) * (1 + (c.detections is not None))
              for c in crowds]
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("following", total=sum(passes))
        try:
            found = evaluate_many(crowds, make, max_frames, lambda: bar.advance(task))
        except KeyboardInterrupt:
            bar.stop()
            done = bar.tasks[0].completed
            say(console, f"interrupted after {done} of {sum(passes)} frames, none of them kept")
            raise
    for start, videos in found.items():
        table = Table(title=START[start])
        table.add_column("video")
        for heading in (*SHOWN.values(), "boxes", "fps"):
            table.add_column(heading, justify="right")
        for name, scores in videos.items():
            table.add_row(name, *(_text(scores[key]) for key in (*SHOWN, "truth")),
                          f"{scores['fps']:.0f}")
        if len(videos) > 1:
            means = [float(np.mean([v[key] for v in videos.values()])) for key in list(SHOWN)[:3]]
            table.add_section()
            table.add_row("mean", *map(_text, means))
        console.print(table)
    if json:
        write_json(json, found)
        say(console, f"written: {json}")
    return found


def _text(value):
    return str(value) if isinstance(value, int) else f"{value:.3f}"
