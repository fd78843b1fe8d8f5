"""python -m tracker demo | track | train | evaluate | evaluate-many | robustness | ablate | ..."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from tracker import DEFAULT, OPENCV, names

# Everything heavy is imported inside the commands: --help has to be quick.

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  rich_markup_mode="markdown",
                  help="Track an object in a video, train the tracker, measure it.")

Json = Annotated[Path | None, typer.Option(
    "--json", metavar="FILE", help="Write the results to this JSON file too.")]
Name = Annotated[str | None, typer.Option(
    "--tracker", metavar="NAME",
    help=f"One of {', '.join(names())}. The first is the default; {', '.join(OPENCV)} are "
    "OpenCV's.")]
Device = Annotated[str | None, typer.Option(
    metavar="cpu|cuda", help="Where the tracker computes (default: MINIDEEP_DEVICE, or cpu).")]
Show = Annotated[bool, typer.Option(
    "--show", help="Show the frames in a window while tracking (close it to stop).")]


Data = Annotated[Path, typer.Argument(
    metavar="DATA", help="Annotated sequences in the layout of OTB, GOT-10k, VOT, LaSOT, UAV123, "
    "TrackingNet or MOTChallenge; or NAME/groundtruth.txt (a box x,y,w,h a line) with images in "
    "NAME/img/, or NAME.mp4 with NAME.boxes.txt.")]
Jobs = Annotated[int, typer.Option(
    min=1, metavar="N", help="Processes that share the work, each on one thread.")]
MaxFrames = Annotated[int | None, typer.Option(
    min=1, metavar="N", help="Judge only the first N frames of each sequence.")]
OneBased = Annotated[bool, typer.Option(
    "--one-based", help="The box files count pixels from 1, not from 0.")]
Fresh = Annotated[bool, typer.Option(
    "--fresh", help="Track anew what is kept from earlier runs.")]
Html = Annotated[Path | None, typer.Option(
    "--html", metavar="FILE", help="Write a page with plots and pictures, in one file.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path(
        "demo-output"),
    tracker: Name = None,
    show: Show = False,
    device: Device = None,
    json: Json = None,
    rendered: Annotated[bool, typer.Option(
        "--rendered", help="Track in rendered scenes instead, whose true boxes are exact.")] = False,
):
    """Track an object in the two videos that come with the package.

    Writes an annotated video that a browser plays, a contact sheet, the boxes and a summary for
    each; prints speed and accuracy against boxes noted by hand.
    """
    with _user_errors(json, folder=output):
        from tracker.demo import demo as run
        with _device(device, tracker) as where:
            run(output, tracker, show, where, json, rendered=rendered)


EVERYTHING = "everything"       # that --detect can be asked for


class BareDetect(typer.core.TyperCommand):
    """Takes `--detect` without a value as well: everything that the trained detector knows."""

    def parse_args(self, context, words):
        full = []
        for word, following in zip(words, [*words[1:], "--"]):
            full += [word, EVERYTHING] if word == "--detect" and following.startswith("-") else [word]
        return super().parse_args(context, full)


@app.command(cls=BareDetect)
def track(
    source: Annotated[str, typer.Argument(
        metavar="VIDEO|FOLDER|CAMERA",
        help="A video file, a folder of images, a camera's number (0 is the first), or a stream's "
        "address (rtsp://...).")],
    box: Annotated[list[str] | None, typer.Option(
        metavar="x,y,w,h", help="The target in the first frame, in pixels, x and y the top-left "
        "corner, from 0. Give it several times for several targets. Without it you drag a box with "
        "the mouse.")] = None,
    detect: Annotated[str | None, typer.Option(
        metavar="[person|cup|motion]", help="Find targets without boxes: the demo's people or cup, by "
        "a small trained detector (both, where none is named), or all that moves before a camera that "
        "stands still.")] = None,
    tracker: Name = None,
    realtime: Annotated[bool, typer.Option(
        "--realtime", help="Play a file at its own pace and skip the frames that come while one is "
        "tracked, as with cameras and streams.")] = False,
    inside: Annotated[bool, typer.Option(
        "--inside", help="Show in the video what the search saw: its crop, the response, curves of "
        "confidence and size.")] = False,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path(
        "track-output"),
    show: Show = False,
    device: Device = None,
    json: Json = None,
):
    """Track objects in your own video, images, camera or stream.

    Writes an annotated video that a browser plays, a contact sheet, the boxes (one x,y,w,h a line;
    of several targets in MOTChallenge's format) and a summary. Ctrl-C ends a camera's recording and
    keeps what was recorded.
    """
    with _user_errors(json, folder=output):
        from rich.console import Console

        import tracker as package
        from tracker.demo import print_files, results_table
        from tracker.files import write_json
        from tracker.track import track as run
        from tracker.track import track_many
        from tracker.video import FrameSource
        from tracker.window import Window

        given = [_parse_box(text) for text in box or ()]
        many = len(given) > 1 or detect is not None
        name = tracker or ("correlation" if many else package.DEFAULT)
        if many and (name != "correlation" or inside):
            raise ValueError("several targets are followed by the tracker correlation, without "
                             "--inside")
        with _device(device, name) as where, FrameSource(source) as frames:
            live = {"realtime": realtime or frames.camera}
            follower = _load_many(detect) if many else package.load(name)
            if not given and not many:
                given = [Window("choose the target").choose_box(frames.first)]
            window = Window(f"{frames.stem}, {name}") if show else None
            if many:
                summary = track_many(frames, follower, given, output, name=name, device=where,
                                     window=window, **live)
            else:
                summary = run(frames, follower, *given, output, name=name, device=where,
                              window=window, inside=inside, **live)
        if window is not None:
            window.close()
        console = Console()
        if many:
            console.print(f"{len(summary['targets'])} targets in {summary['frames']} frames, "
                          f"{summary['fps'] or 0:.0f} frames/s")
        else:
            console.print(results_table({frames.stem: summary}, f"{name} on {where}"))
        if summary["skipped"]:
            console.print(f"{summary['skipped']} frames were skipped")
        print_files(summary, console)
        if json:
            write_json(json, summary)


train = typer.Typer(no_args_is_help=True, help="Train a tracker's network from scratch, with this "
                    "project's own engine.")
app.add_typer(train, name="train")

Output = Annotated[Path, typer.Option(
    metavar="DIR", help="Where weights, checkpoints and the log go.")]
Steps = Annotated[int, typer.Option(min=1, metavar="N", help="Training steps.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides every random choice.")]
Resume = Annotated[bool, typer.Option(
    "--resume", help="Go on from the checkpoint in DIR, to its number of steps, with its seed.")]


@train.command("recurrent")
def train_recurrent(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(
        metavar="DATA", help="A folder with photos/ (pictures to render scenes from), train/ "
        "(annotated sequences, see evaluate), or both.")],
    output: Output = Path("train-output"),
    steps: Steps = 4000,
    seed: Seed = 0,
    resume: Resume = False,
    workers: Annotated[int, typer.Option(
        min=1, metavar="N", help="Processes that prepare the data.")] = 1,
    device: Device = None,
    json: Json = None,
):
    """Train the whole network of the recurrent tracker."""
    with _user_errors(json, folder=output):
        from tracker.training import train_command
        with _device(device, "recurrent"):
            _check_resumed(context, resume)
            train_command(data, output, steps, seed, resume, workers, json)


@train.command("correlation")
def train_correlation(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(
        metavar="DATA", help="A folder with photos/ (pictures to cut targets from), clips/ (videos, "
        "as more pictures), train/ (annotated sequences, see evaluate), or some of these.")],
    output: Output = Path("train-output"),
    steps: Steps = 6000,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = None,
    json: Json = None,
):
    """Train the features that the correlation tracker compares."""
    with _user_errors(json, folder=output):
        from tracker.correlation_training import train_command
        with _device(device, "correlation"):
            _check_resumed(context, resume)
            train_command(data, output, steps, seed, resume, json)


@train.command("detector")
def train_detector(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(
        metavar="DATA", help="A folder with photos/ (pictures without people and cups) and "
        "clips/opencv_vtest.avi (OpenCV's sample video vtest.avi).")],
    output: Output = Path("train-output"),
    steps: Steps = 3000,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = None,
    json: Json = None,
):
    """Train the detector of the demo's objects (track --detect)."""
    with _user_errors(json, folder=output):
        from tracker.object_detector_training import train_command
        with _device(device, "detector"):
            _check_resumed(context, resume)
            train_command(data, output, steps, seed, resume, json)


RolledOver = Annotated[Path, typer.Argument(
    metavar="DATA", help="A folder with train/ (annotated sequences, see evaluate), photos/ (pictures "
    "to render scenes from), or both.")]
Reuse = Annotated[bool, typer.Option(
    "--resume", help="Use the roll-outs that are in DIR already.")]


@train.command("motion")
def train_motion(
    context: typer.Context,
    data: RolledOver,
    tracker: Annotated[str, typer.Option(
        metavar="NAME", help="On what which tracker does: correlation or recurrent.")] = "correlation",
    output: Output = Path("train-output"),
    steps: Steps = 800,
    seed: Seed = 0,
    resume: Reuse = False,
    json: Json = None,
):
    """Train the LSTM that predicts a target's motion, on what a tracker does."""
    with _user_errors(json, folder=output):
        from tracker.motion_training import train_command
        train_command(data, output, tracker, steps, seed, resume, json)


@train.command("refinement")
def train_refinement(
    data: RolledOver,
    output: Output = Path("train-output"),
    steps: Steps = 3000,
    seed: Seed = 0,
    resume: Reuse = False,
    json: Json = None,
):
    """Train the network that corrects the correlation tracker's boxes, on what it does."""
    with _user_errors(json, folder=output):
        from tracker.refinement_training import train_command
        train_command(data, output, steps, seed, resume, json)


@app.command()
def evaluate(
    data: Data,
    trackers: Annotated[str | None, typer.Option(
        metavar="A,B", help=f"Only these of {', '.join(names())}; first and velocity always "
        "join.")] = None,
    jobs: Jobs = 1,
    max_frames: MaxFrames = None,
    absent: Annotated[str, typer.Option(
        metavar="lasot|otb", help="Frames without the target: left out (lasot) or counted as "
        "failures (otb).")] = "lasot",
    one_based: OneBased = False,
    fresh: Fresh = False,
    html: Html = None,
    json: Json = None,
    results: Annotated[Path | None, typer.Option(
        metavar="DIR", help="Write the tracks here in GOT-10k's format too.")] = None,
):
    """Measure trackers on annotated sequences, beside two baselines and OpenCV's trackers.

    What was tracked before by unchanged code and weights is not tracked again: an interrupted
    evaluation goes on where it stopped. KCF and CSRT need `make peers`; Nano needs
    MINIDEEP_NANO=FOLDER with NanoTrack's two files.
    """
    with _user_errors(json, html, folder=results):
        from tracker.evaluate import evaluate_command
        report = evaluate_command(data, trackers, jobs, json, max_frames, absent, html, results,
                                  one_based, fresh)
    _all_ran(trackers, report.missing, report.failed())


@app.command()
def evaluate_many(
    data: Annotated[Path | None, typer.Argument(
        metavar="[DATA]", help="Sequences in MOTChallenge's layout; without it, rendered scenes "
        "whose truth is exact.")] = None,
    scenes: Annotated[int, typer.Option(min=1, metavar="N", help="Rendered scenes.")] = 3,
    max_frames: MaxFrames = None,
    json: Json = None,
):
    """Measure how well many targets are followed: MOTA, IDF1, HOTA.

    Once with the first box of every target given, once with a detector's boxes (det/det.txt; for
    rendered scenes the true ones with errors, misses and inventions).
    """
    _on_one_thread()
    with _user_errors(json):
        from tracker.evaluate_many import evaluate_many_command
        evaluate_many_command(data, scenes, max_frames, json)


@app.command()
def evaluate_detector(json: Json = None):
    """Measure how well the detector finds the demo's objects: average precision.

    On frames of the bundled clips that it was not trained on, beside what moves and, where `make
    peers` put it, OpenCV's HOG detector of people.
    """
    with _user_errors(json):
        from tracker.evaluate_detector import evaluate_detector_command
        evaluate_detector_command(json)


@app.command()
def robustness(
    data: Data,
    trackers: Annotated[str | None, typer.Option(
        metavar="A,B", help="These trackers (default: the default one and CSRT).")] = None,
    jobs: Jobs = 1,
    max_frames: MaxFrames = None,
    one_based: OneBased = False,
    fresh: Fresh = False,
    html: Html = None,
    json: Json = None,
):
    """Measure how trackers suffer from noise, blur, JPEG, few frames and a bad first box."""
    _on_one_thread()
    with _user_errors(json, html):
        from tracker.robustness import robustness_command
        result = robustness_command(data, trackers, jobs, json, max_frames, html, one_based, fresh)
    _all_ran(trackers, result["missing"], result["failed"])


@app.command()
def ablate(
    data: Data,
    starts: Annotated[int, typer.Option(
        min=1, metavar="N", help="Places of each sequence from which it is tracked.")] = 3,
    frames: Annotated[int, typer.Option(
        min=2, metavar="M", help="Frames tracked from each.")] = 100,
    jobs: Jobs = 1,
    one_based: OneBased = False,
    fresh: Fresh = False,
    json: Json = None,
):
    """Measure what each part of the correlation tracker is worth.

    Random, hand-made and learned features; every switch of the tracker the other way: paired
    differences with their intervals, and what a choice by the other sequences gains.
    """
    _on_one_thread()
    with _user_errors(json):
        from tracker.ablate import ablate_command
        rows = ablate_command(data, starts, frames, jobs, json, one_based, fresh)
    _all_ran(None, (), [row for row in rows if not row.auc.any()])


@app.command()
def occlusions(
    data: Data,
    trackers: Annotated[str | None, typer.Option(
        metavar="A,B", help="These trackers (default: the default one).")] = None,
    jobs: Jobs = 1,
    seeds: Annotated[int, typer.Option(
        min=1, metavar="N", help="So many times with other blockers.")] = 1,
    max_frames: MaxFrames = None,
    one_based: OneBased = False,
    fresh: Fresh = False,
    json: Json = None,
):
    """Measure whether trackers say that their target is lost, and whether they find it again.

    On sequences in which it is hidden or out of view, and with blockers pasted over all of them.
    """
    _on_one_thread()
    with _user_errors(json):
        from tracker.occlusions import occlusions_command
        result = occlusions_command(data, trackers, jobs, seeds, json, max_frames, one_based, fresh)
    _all_ran(trackers, result["missing"],
             [name for name, kinds in result["trackers"].items() if not any(kinds.values())])


@app.command()
def predict(
    data: Data,
    tracker: Name = None,
    blockers: Annotated[bool, typer.Option(
        "--blockers", help="Also with blockers pasted over the sequences.")] = False,
    max_frames: MaxFrames = None,
    one_based: OneBased = False,
    json: Json = None,
):
    """Measure how well a tracker foretells the next frame's box."""
    _on_one_thread()
    with _user_errors(json):
        from tracker.prediction import predict_command
        predict_command(data, tracker, json, max_frames, one_based, blockers)


def _load_many(detect):
    """A MultiTracker, with the detector of that name."""
    from tracker.moving import MovingThings
    from tracker.multi import MultiTracker
    from tracker.object_detector import CLASSES, ObjectDetector
    if detect not in (None, "motion", EVERYTHING, *CLASSES):
        raise ValueError(f"--detect takes {', '.join(CLASSES)} or motion, not {detect!r}; for a "
                         "detector of your own use tracker.multi.MultiTracker.load(detect=function)")
    if detect in (EVERYTHING, *CLASSES):
        classes = None if detect == EVERYTHING else [detect]
        return MultiTracker.load(detect=ObjectDetector.load(classes=classes))
    return MultiTracker.load(detect=detect and MovingThings())


def _parse_box(text):
    """'x,y,w,h' -> four floats."""
    try:
        box = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        box = ()
    if len(box) != 4:
        raise ValueError("--box takes four numbers x,y,w,h in pixels, for example "
                         f"--box 310,120,107,261, not {text!r}")
    return box


@contextmanager
def _device(name, tracker):
    """Make the tracker compute on this device, and give its name."""
    without_network = tracker in ("first", "velocity", *OPENCV)
    if name is None:    # what the environment says of all is none of these trackers' business
        name = "cpu" if without_network else os.environ.get("MINIDEEP_DEVICE") or "cpu"
    if name == "cuda" and without_network:
        raise ValueError(f"--device cuda: the tracker {tracker} computes on the cpu only")
    import minideep
    from kernels.backend import devices
    if name not in devices():
        raise ValueError(f"--device is cpu or cuda, not {name!r}")
    with minideep.device(name):
        yield name


def _on_one_thread():
    """For what measures no speed: arrays are small here, and where the machine is busy threads that
    wait for each other make it many times slower. Libraries read this when they are first imported."""
    if "numpy" not in sys.modules:
        for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB"):
            ending = "MAXIMUM_THREADS" if name == "VECLIB" else "NUM_THREADS"
            os.environ.setdefault(f"{name}_{ending}", "1")


def _check_resumed(context, resume):
    """ValueError for --steps or --seed beside --resume: those of the checkpoint hold."""
    given = [f"--{name}" for name in ("steps", "seed")
             if context.get_parameter_source(name).name == "COMMANDLINE"]
    if resume and given:
        raise ValueError(f"--resume goes on with the steps and the seed of its checkpoint: leave out "
                         f"{' and '.join(given)}")


def _all_ran(named, missing, failed=()):
    """Exit code 1 if a tracker failed on everything, or cannot be used although it was named or is the
    default one: the tables and the lines below them say why."""
    if failed or missing and (named or DEFAULT in missing):
        raise typer.Exit(1)


@contextmanager
def _user_errors(*files, folder=None):
    """What the user can mend is one line and exit code 2, not a traceback.

    files, folder: where the command will write, or None; that it can is checked first."""
    from kernels.backend import DeviceError
    from tracker.files import check_output
    try:
        files = [file for file in files if file is not None]
        for file in files:
            check_output(file)
        if len({file.absolute() for file in files}) < len(files):
            raise ValueError(f"two results cannot both be written to {files[0]}")
        if folder is not None:
            check_output(folder, folder=True)
        yield
    except (ValueError, OSError, ImportError, DeviceError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app(prog_name="python -m tracker")
