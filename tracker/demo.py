"""The demo: two real clips that come with the package, tracked and judged.

    cup          a hand-held cup that turns, tilts, grows and is partly covered by the hand
    pedestrian   a man in black who walks, stops, is crossed by another and walks away

Both have boxes noted by hand on every 10th frame (clips/*.boxes.txt), clips/NOTICE says where they
come from. Or two rendered scenes (tracker.scenes), whose boxes are exact in every frame:

    turning      a thing that turns and grows among others that look like it
    hidden       a thing that others pass in front of
"""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import tracker
from tracker.files import write_json, write_text
from tracker.scenes import render
from tracker.track import track
from tracker.video import FrameSource
from tracker.window import Window

CLIPS = Path(__file__).parent / "clips"
NAMES = ("cup", "pedestrian")
RENDERED = {
    "turning": {"seed": 10, "turn": .04, "growth": .03, "lookalikes": 2},
    "hidden": {"seed": 4, "speed": .08, "occluders": 3},
}


def demo(folder="demo-output", name=None, show=False, device="cpu", json=None, clips=CLIPS,
         rendered=False):
    """Track the clips, write videos, sheets, boxes and summaries to `folder`, print a table.

    name: see tracker.load(); show: also in a window; device: "cpu" or "cuda"; json: a file for all
    summaries together; clips: a folder with NAME.webm and NAME.boxes.txt for every name in NAMES;
    rendered: the RENDERED scenes instead, of which the same two files are written to `folder`.
    Returns {clip: summary}, see tracker.track.track(). Raises NoWindow for show=True where there
    is no display.
    """
    console, summaries = Console(), {}
    name = tracker.DEFAULT if name is None else name
    if rendered:
        if show:
            Window(name).close()        # where none can be opened, nothing is rendered
        clips = folder
        for clip, arguments in RENDERED.items():
            write_scene(render(**arguments), Path(folder) / clip)
    for clip in RENDERED if rendered else NAMES:
        window = Window(f"{clip}, {name}") if show else None
        with FrameSource(Path(clips) / f"{clip}.webm") as source:
            notes = read_notes(Path(clips) / f"{clip}.boxes.txt", source.count)
            summaries[clip] = track(source, tracker.load(name), notes[0], folder, name=name,
                                    device=device, notes=notes, window=window, console=console)
        if window is not None:
            window.close()
    console.print(results_table(summaries, f"{name} on {device}"))
    console.print("frames/s counts the tracker alone, without reading, drawing and writing video")
    for summary in summaries.values():
        print_files(summary, console)
    if json:
        write_json(json, summaries)
        console.print(f"summary of all: {json}", markup=False, highlight=False, soft_wrap=True)
    return summaries


def write_scene(scene, path):
    """A scene's frames and first target as PATH.webm and PATH.boxes.txt, see read_notes()."""
    scene.write(f"{path}.webm")
    boxes = scene.sequence().boxes
    write_text(f"{path}.boxes.txt", f"# {scene.name}: frame, x, y, w, h\n" + "".join(
        f"{t}," + ",".join(f"{v:.2f}" for v in box) + "\n"
        for t, box in enumerate(boxes) if np.isfinite(box).all()))


def read_notes(path, frames):
    """The boxes noted by hand: (frames, 4) float64, nan where the frame has no note.

    A note is a line "frame,x,y,w,h"; lines that start with # are comments. Raises ValueError where
    that is not so or where frame 0, from which tracking starts, is not noted.
    """
    notes = np.full((frames, 4), np.nan)
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            try:
                frame, *box = (float(word) for word in line.split(","))
                notes[range(frames)[int(frame)]] = box
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}, line {number}: expected frame,x,y,w,h with frame below "
                                 f"{frames}, got {line!r}") from error
    if np.isnan(notes[0]).any():
        raise ValueError(f"{path}: frame 0 has no box to start from")
    return notes


def results_table(summaries, title):
    """A rich Table of summaries by name: frames, speed and scores against the notes."""
    table = Table(title=title)
    table.add_column("clip")
    for heading in ("frames", "frames/s", "success AUC", "precision\nat 20 px", "noted\nframes"):
        table.add_column(heading, justify="right")
    for name, s in summaries.items():
        scores = (("–", "–") if s["auc"] is None
                  else (f"{s['auc']:.3f}", f"{s['precision20']:.3f}"))
        table.add_row(name, str(s["frames"]), f"{s['fps']:.0f}" if s["fps"] else "–", *scores,
                      str(s["noted_frames"]))
    return table


def print_files(summary, console):
    """Say what was written, and a note where there is one."""
    for what, path in summary["files"].items():
        console.print(f"{what:>8}: {path}", markup=False, highlight=False, soft_wrap=True)
    if summary["note"]:
        console.print(f"    note: {summary['note']}", markup=False, highlight=False,
                      soft_wrap=True)
