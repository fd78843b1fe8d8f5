"""One tracker over one source of frames: the loop, and everything that is written about it."""

import json
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tracker import State, metrics
from tracker.boxes import as_tuple, check_box
from tracker.draw import ContactSheet, annotate, legible_scale, trail_of
from tracker.opencv import import_cv2
from tracker.video import VideoWriter, replacing

DEFAULT_FPS = 25    # of the annotated video, where the source does not know its own


def track(source, tracker, box, folder, *, name, device="cpu", notes=None, window=None,
          console=None):
    """Follow the target from `box` in the first frame to the end; write what came of it.

    source: a FrameSource; tracker: see tracker.load(); box: x, y, w, h in pixels; folder: where
    the files go; name: the tracker's name and device: where it runs, for the record; notes:
    (frames, 4) true boxes, nan where not noted, or None; window: a Window to show the frames in.

    Writes STEM-tracked.webm (annotated video), STEM-sheet.png (contact sheet), STEM-boxes.txt (one
    x,y,w,h a line and frame, 0-based top-left pixels, the first line the given box) and STEM.json,
    STEM being the name of the source; returns what is in the JSON file as a dict.

    Tracking stops early when the window is closed, and, from a camera, at Ctrl-C; all files are
    written then. After an error there are none.
    """
    check_box(box, source.first)
    files = {key: Path(folder) / f"{source.stem}{ending}" for key, ending in (
        ("video", "-tracked.webm"), ("sheet", "-sheet.png"), ("boxes", "-boxes.txt"),
        ("summary", ".json"))}
    scale, sheet, states, seconds = legible_scale(source.size), ContactSheet(), [], []
    began = time.perf_counter()
    with ExitStack() as stack:
        bar = stack.enter_context(_progress(console))
        task = bar.add_task(source.stem, total=source.count, speed="")
        video = stack.enter_context(VideoWriter(
            files["video"], source.fps or DEFAULT_FPS, tuple(n * scale for n in source.size)))
        try:
            for number, frame in enumerate(source):
                start = time.perf_counter()
                if number == 0:
                    tracker.init(frame, box)
                    state = State(as_tuple(box), confidence=1.0, lost=False)
                else:
                    state = tracker.update(frame)
                seconds.append(time.perf_counter() - start)
                states.append(state)
                truth = notes[number] if notes is not None and number < len(notes) else None
                trail = trail_of(states)
                picture = annotate(frame, state, number, truth, trail, scale)
                video.write(picture)
                sheet.add(frame, state, number, truth, trail)
                bar.update(task, advance=1, speed=f"{_fps(seconds) or 0:.0f} frames/s")
                if window is not None and not window.show(picture):
                    break
        except KeyboardInterrupt:
            if not source.camera or not states:
                raise
        bar.update(task, total=len(states))
    summary = {
        "source": source.name, "tracker": name, "device": device, "size": list(source.size),
        "frames": len(states), "note": source.shortfall(),
        "fps": _fps(seconds),       # inside update() alone, without reading, drawing and writing
        "init_seconds": seconds[0],
        "total_seconds": time.perf_counter() - began,
        **_scores(states, notes),
        "files": {key: str(path) for key, path in files.items()},
        "per_frame": [{"box": list(as_tuple(s.box)), "confidence": float(s.confidence),
                       "lost": bool(s.lost)} for s in states],
    }
    with replacing(files["sheet"]) as path:
        if not import_cv2().imwrite(str(path), sheet.image()):
            raise OSError(f"{files['sheet']} could not be written")
    with replacing(files["boxes"]) as path:
        path.write_text(boxes_text(s.box for s in states))
    write_json(summary, files["summary"])
    return summary


def boxes_text(boxes):
    """The text of a boxes file: x,y,w,h a line, hundredths of pixels."""
    return "".join(",".join(f"{v:.2f}" for v in box) + "\n" for box in boxes)


def write_json(content, path):
    """Write a JSON file, all of it or nothing."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _scores(states, notes):
    """Success AUC and precision on the noted frames among those tracked, frame 0 included."""
    if notes is None:
        return {"noted_frames": 0, "auc": None, "precision20": None}
    truth = np.asarray(notes, float)[:len(states)]
    scores = metrics.one_pass([s.box for s in states[:len(truth)]], truth)
    return {"noted_frames": int(np.isfinite(truth).all(1).sum()), "auc": scores.auc,
            "precision20": scores.precision20}


def _fps(seconds):
    """Frames per second of the updates, that is without the first frame; None without any."""
    return len(seconds[1:]) / sum(seconds[1:]) if sum(seconds[1:]) > 0 else None


def _progress(console):
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                    TextColumn("{task.fields[speed]}"), TimeElapsedColumn(), console=console)
