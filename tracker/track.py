"""A tracker over a source of frames: the loop, and everything that is written about it."""

import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tracker import State, metrics
from tracker.boxes import as_tuple, check_box
from tracker.draw import (
    ContactSheet,
    annotate,
    annotate_many,
    inside_width,
    legible_scale,
    show_inside,
    trail_of,
)
from tracker.files import replacing, write_json, write_text
from tracker.opencv import import_cv2
from tracker.sequences import write_mot
from tracker.stream import latest
from tracker.video import VideoWriter

DEFAULT_FPS = 25    # of the annotated video, where the source does not know its own


def track(source, tracker, box, folder, *, name, device="cpu", notes=None, window=None,
          console=None, realtime=False, inside=False):
    """Follow the target from `box` in the first frame to the end; write what came of it.

    source: a FrameSource; tracker: see tracker.load(); box: x, y, w, h in pixels; folder: where
    the files go; name: the tracker's name and device: where it runs, for the record; notes:
    (frames, 4) true boxes, nan where not noted, or None; window: a Window to show the frames in.
    realtime: frames that come while one is tracked are skipped, but for the newest (tracker.stream);
    a file is played at its own pace then. inside: show in the video what the search saw; only the
    correlation tracker has that (ValueError).

    Writes STEM-tracked.webm (annotated video), STEM-sheet.png (contact sheet), STEM-boxes.txt (one
    x,y,w,h a line and frame, 0-based top-left pixels, the first line the given box; nan for a frame
    that was skipped) and STEM.json, STEM being the name of the source; returns what is in the JSON
    file as a dict.

    Tracking stops early when the window is closed, and, from a camera, at Ctrl-C; all files are
    written then. After an error there are none.
    """
    check_box(box, source.first)
    if inside and not hasattr(tracker, "search"):
        raise ValueError(f"what is inside a search can be shown of the tracker correlation, not of "
                         f"{name}")
    states, sizes, beliefs = [], [], []

    def step(frame, skipped):
        if states:
            states.append(replace(tracker.update(frame), skipped=skipped))
        else:
            tracker.init(frame, box)
            states.append(State(as_tuple(box), confidence=1.0, lost=False))
        sizes.append(max(states[-1].box[2] * states[-1].box[3], 1) ** .5)
        if inside and tracker.foresight is not None:
            beliefs.append(tracker.believed)

    def draw(frame, number):
        truth = notes[number] if notes is not None and number < len(notes) else None
        return partial(annotate, frame, states[-1], number, truth, trail_of(states))

    def with_inside(image):
        return show_inside(image, tracker.found, states, sizes, beliefs)

    record = _record(source, folder, step, draw, with_inside if inside else None, window, console,
                     realtime)
    numbers = record.pop("numbers")
    del states[len(numbers):]       # Ctrl-C may come between any two lines
    summary = {
        "source": source.name, "tracker": name, "device": device, "size": list(source.size),
        **record, **_scores(states, notes, numbers),
        "per_frame": [_jsonable(state) for state in states],
    }
    files = summary["files"]
    files["boxes"] = str(Path(folder) / f"{source.stem}-boxes.txt")
    boxes = np.full((numbers[-1] + 1, 4), np.nan)
    boxes[numbers] = [s.box for s in states]
    write_text(files["boxes"], boxes_text(boxes))
    return _summarised(summary, folder, source)


def track_many(source, tracker, boxes, folder, *, name, device="cpu", window=None, console=None,
               realtime=False):
    """The same for a MultiTracker: boxes of the targets in the first frame, none with a detector.

    Instead of the boxes, writes STEM-tracks.txt, in MOTChallenge's format (frame, number, x, y, w,
    h, confidence; frames and pixels count from 1), without targets while they are lost."""
    for box in boxes:
        check_box(box, source.first)
    said, history = [], {}

    def step(frame, skipped):
        if said:
            states = [(n, replace(state, skipped=skipped)) for n, state in tracker.update(frame)]
        else:
            states = [(n, State(as_tuple(box), confidence=1.0, lost=False))
                      for n, box in zip(tracker.init(frame, boxes), boxes)]
        said.append(states)
        for number, state in states:
            history.setdefault(number, []).append(state)

    def draw(frame, number):
        trails = {n: trail_of(history[n]) for n, _ in said[-1]}
        return partial(annotate_many, frame, said[-1], number, trails)

    record = _record(source, folder, step, draw, None, window, console, realtime)
    numbers = record.pop("numbers")
    del said[len(numbers):]
    summary = {
        "source": source.name, "tracker": name, "device": device, "size": list(source.size),
        **record, "targets": sorted(history),
        "per_frame": [{str(n): _jsonable(state) for n, state in states} for states in said],
    }
    tracks = [([], [], [])] * (numbers[-1] + 1)
    for number, states in zip(numbers, said):
        seen = [(n, s.box, s.confidence) for n, s in states if not s.lost]
        tracks[number] = tuple(zip(*seen)) if seen else ([], [], [])
    summary["files"]["tracks"] = str(Path(folder) / f"{source.stem}-tracks.txt")
    write_mot(summary["files"]["tracks"], tracks)
    return _summarised(summary, folder, source)


def _record(source, folder, step, draw, around, window, console, realtime):
    """Run the loop, and write video and contact sheet -> what the summary says of it, and `numbers`,
    those of the frames that were seen.

    step(frame, skipped) does the tracking; draw(frame, number) gives a function of scale that draws
    the picture; around(picture), or None, widens it by inside_width()."""
    files = {key: Path(folder) / f"{source.stem}{ending}" for key, ending in (
        ("video", "-tracked.webm"), ("sheet", "-sheet.png"))}
    scale, sheet, numbers, seconds = legible_scale(source.size), ContactSheet(), [], []
    width, height = (n * scale for n in source.size)
    if around is not None:
        width += inside_width(height)
    fps = source.fps or DEFAULT_FPS
    frames = (latest(source, None if source.camera else fps) if realtime else
              ((frame, 0) for frame in source))
    began, picture = time.perf_counter(), None
    with ExitStack() as stack:
        bar = stack.enter_context(_progress(console))
        task = bar.add_task(source.stem, total=source.count, speed="")
        video = stack.enter_context(VideoWriter(files["video"], fps, (width, height)))
        try:
            for frame, skipped in frames:
                start = time.perf_counter()
                step(frame, skipped)
                seconds.append(time.perf_counter() - start)
                numbers.append((numbers[-1] + 1 if numbers else 0) + skipped)
                drawn = draw(frame, numbers[-1])
                for _ in range(skipped):        # so that the video keeps time
                    video.write(picture)
                picture = drawn(scale=scale)
                if around is not None:
                    picture = around(picture)
                video.write(picture)
                sheet.add(numbers[-1], source.size[0], drawn)
                bar.update(task, advance=1 + skipped, speed=f"{_fps(seconds) or 0:.0f} frames/s")
                if window is not None and not window.show(picture):
                    break
        except KeyboardInterrupt:
            if not source.camera or not seconds:
                raise
        finally:
            frames.close()                      # the thread that reads, if there is one
        bar.update(task, total=numbers[-1] + 1)
    with replacing(files["sheet"]) as path:
        if not import_cv2().imwrite(str(path), sheet.image()):
            raise OSError(f"{files['sheet']} could not be written")
    return {
        "frames": len(seconds), "skipped": numbers[-1] + 1 - len(seconds), "note": source.shortfall(),
        "fps": _fps(seconds),       # inside update() alone, without reading, drawing and writing
        "init_seconds": seconds[0],
        "total_seconds": time.perf_counter() - began,
        "files": {key: str(path) for key, path in files.items()}, "numbers": numbers[:len(seconds)],
    }


def _summarised(summary, folder, source):
    """Write the summary, which comes to name its own file too."""
    summary["files"]["summary"] = str(Path(folder) / f"{source.stem}.json")
    write_json(summary["files"]["summary"], summary)
    return summary


def _jsonable(state):
    return {"box": list(as_tuple(state.box)), "confidence": float(state.confidence),
            "lost": bool(state.lost), "skipped": state.skipped,
            "predicted": None if state.predicted is None else list(as_tuple(state.predicted)),
            "reach": None if state.reach is None else list(state.reach)}


def boxes_text(boxes):
    """The text of a boxes file: x,y,w,h a line, hundredths of pixels."""
    return "".join(",".join(f"{v:.2f}" for v in box) + "\n" for box in boxes)


def _scores(states, notes, numbers):
    """Success AUC and precision on the noted frames among those tracked, frame 0 included."""
    if notes is None:
        return {"noted_frames": 0, "auc": None, "precision20": None}
    pairs = [(s.box, notes[n]) for s, n in zip(states, numbers) if n < len(notes)]
    boxes, truth = (np.array(column, float) for column in zip(*pairs))
    scores = metrics.one_pass(boxes, truth)
    return {"noted_frames": int(np.isfinite(truth).all(1).sum()), "auc": scores.auc,
            "precision20": scores.precision20}


def _fps(seconds):
    """Frames per second of the updates, that is without the first frame; None without any."""
    return len(seconds[1:]) / sum(seconds[1:]) if sum(seconds[1:]) > 0 else None


def _progress(console):
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                    TextColumn("{task.fields[speed]}"), TimeElapsedColumn(), console=console)
