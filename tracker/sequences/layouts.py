"""Where benchmarks keep frames and boxes, and how a folder tells which one it is.

    MOTChallenge  NAME/seqinfo.ini, img1/000001.jpg, gt/gt.txt       one sequence for each target
    LaSOT         [CLASS/]NAME/groundtruth.txt, img/, full_occlusion.txt, out_of_view.txt
    GOT-10k       [SPLIT/]NAME/groundtruth.txt, 00000001.jpg, absence.label, cover.label
    VOT           NAME/groundtruth.txt (polygons, masks or boxes), 00000001.jpg or color/, *.tag
    OTB           NAME/groundtruth_rect.txt, img/0001.jpg; groundtruth_rect.1.txt and .2.txt where
                  there are two targets
    UAV123        data_seq/UAV123/NAME/000001.jpg, anno/UAV123/NAME.txt
    TrackingNet   [TRAIN_0/]frames/NAME/0.jpg, anno/NAME.txt
    folder        NAME/groundtruth.txt with the images beside it or in img/, or the images in
                  NAME/ and the boxes in NAME.boxes.txt
    video         NAME.mp4 with NAME.boxes.txt beside it

The first that fits wins. A folder may be one sequence, hold several, or hold folders that do.
Frames are in the order of their numbers. Boxes and frames have to be equally many, but for two
forms that datasets really have: where numbers are missing between the frames and the box file has
a line for every number, those of the frames that exist are taken; and some of OTB's sequences use
a part of their frames (SPANS), as do those of UAV123.
"""

import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tracker.sequences.boxfiles import read_boxes, read_flags, read_mot
from tracker.sequences.frames import (
    IMAGE_TYPES,
    VIDEO_TYPES,
    ImageFrames,
    Sequence,
    VideoFrames,
    natural_order,
)

UNNOTED = np.inf    # in the rows of boxes of which a file says nothing
EXPECTED = ("expected the layout of OTB, GOT-10k, VOT, LaSOT, UAV123, TrackingNet or MOTChallenge; "
            "or NAME/groundtruth_rect.txt (or groundtruth.txt; a box x,y,w,h a line) with the "
            "images in NAME/img/ or beside the file; or NAME.mp4 (or a folder NAME of images) with "
            "NAME.boxes.txt. Give the folder of one sequence or one that holds several")

# Frames that OTB's protocol uses, first and last, where it is not all of them.
SPANS = {"david": (300, 770), "football1": (1, 74), "freeman3": (1, 460), "freeman4": (1, 283),
         "diving": (1, 215)}
# UAV123 cuts some of its videos into several sequences: the first frame of each.
CUTS = {
    "bird1": (1, 775, 1573), "car1": (1, 751, 1627), "car6": (1, 487, 1807, 2953, 3925),
    "car8": (1, 1357), "car16": (1, 415), "group1": (1, 1333, 2515, 3925),
    "group2": (1, 907, 1771), "group3": (1, 1567, 2827, 4369), "person2": (1, 1189),
    "person4": (1, 1501), "person5": (1, 877), "person7": (1, 1249), "person8": (1, 1075),
    "person12": (1, 601), "person14": (1, 847, 1813), "person17": (1, 1501),
    "person19": (1, 1243, 2791), "truck4": (1, 577), "uav1": (1, 1555, 2473),
}
# The order of the 0 and 1 in a dataset's own attribute files, att/NAME.txt.
ATTRIBUTES = {
    "OTB": ("illumination variation", "out-of-plane rotation", "scale variation", "occlusion",
            "deformation", "motion blur", "fast motion", "in-plane rotation", "out of view",
            "background clutter", "low resolution"),
    "UAV123": ("scale variation", "aspect ratio change", "low resolution", "fast motion",
               "full occlusion", "partial occlusion", "out of view", "background clutter",
               "illumination variation", "viewpoint change", "camera motion", "similar object"),
    "LaSOT": ("illumination variation", "partial occlusion", "deformation", "motion blur",
              "camera motion", "rotation", "background clutter", "viewpoint change",
              "scale variation", "full occlusion", "fast motion", "out of view",
              "low resolution", "aspect ratio change"),
}
SHORT_NAMES = {
    "IV": "illumination variation", "OPR": "out-of-plane rotation", "SV": "scale variation",
    "OCC": "occlusion", "DEF": "deformation", "MB": "motion blur", "FM": "fast motion",
    "IPR": "in-plane rotation", "OV": "out of view", "BC": "background clutter",
    "LR": "low resolution",
}


def find_sequences(folder, one_based=False):
    """All sequences at a path, in the order of their names; see the head of this file.

    one_based: the box files count pixels from 1 (MOTChallenge's always do). Raises
    FileNotFoundError, saying what was expected, where there is none, and ValueError where boxes
    and frames do not match or a box file is not sound.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist: {EXPECTED}")
    found = _search(folder, one_based, depth=3)
    if not found:
        raise FileNotFoundError(f"no sequence in {folder}: {EXPECTED}")
    counts = Counter(sequence.name for sequence in found)
    # two of one name, in different folders: their place in the list tells them apart
    return [sequence if counts[sequence.name] == 1
            else replace(sequence, name=f"{sequence.name}-{number}")
            for number, sequence in enumerate(found, 1)]


def read_sequence(path, one_based=False):
    """The one sequence at a path; ValueError where there are several."""
    found = find_sequences(path, one_based)
    if len(found) > 1:
        raise ValueError(f"{path} holds {len(found)} sequences, not one: "
                         f"{', '.join(s.name for s in found[:5])}, ...")
    return found[0]


def describe(sequences):
    """One line about what was found: how many sequences and frames, in which layout."""
    layouts = Counter(sequence.layout or "no known layout" for sequence in sequences)
    frames = sum(len(sequence) for sequence in sequences)
    absent = sum(int(sequence.absent.sum()) for sequence in sequences)
    unnoted = sum(int((~sequence.noted).sum()) for sequence in sequences)
    many = len(sequences) > 1
    return (f"{len(sequences)} sequence{'s' * many} ({', '.join(layouts)} layout"
            f"{'s' * (len(layouts) > 1)}), {frames} frames, {absent} of them without the target"
            + f", {unnoted} not annotated" * (unnoted > 0))


def _search(path, one_based, depth):
    """The sequences at `path`, or else in the folders in it, `depth` levels down."""
    for fits, read in LAYOUTS:
        if fits(path):
            return read(path, one_based)
    if not path.is_dir() or depth == 0:
        return []
    inside = sorted(path.iterdir(), key=natural_order)
    return [s for p in inside if not p.name.startswith(".")
            for s in _search(p, one_based, depth - 1)]


# ------------------------------------------------------------------------------- one sequence


def _is_mot(path):
    return (path / "gt" / "gt.txt").is_file()


def _read_mot(path, one_based):
    folder = path / "img1"
    if (path / "seqinfo.ini").is_file():
        named = re.search(r"(?mi)^\s*imDir\s*=\s*(\S+)", (path / "seqinfo.ini").read_text())
        folder = path / named[1] if named else folder
    file = path / "gt" / "gt.txt"
    images = _images(folder, file)
    frames = read_mot(file, len(images))
    targets = sorted({int(i) for ids, _ in frames for i in ids})
    if not targets:
        raise ValueError(f"{file}: no target to follow (pedestrians, class 1, that count)")
    found = []
    for target in targets:
        boxes = np.full((len(images), 4), np.nan)
        for row, (ids, its) in zip(boxes, frames):
            row[:] = its[ids == target][0] if (ids == target).any() else np.nan
        seen = np.flatnonzero(np.isfinite(boxes[:, 0]))
        span = slice(seen[0], seen[-1] + 1)
        found.append(Sequence(f"{path.resolve().name}-{target}", ImageFrames(images[span]),
                              boxes[span], "MOTChallenge"))
    return found


def _is_lasot(path):
    return ((path / "groundtruth.txt").is_file()
            and any((path / name).is_file() for name in ("full_occlusion.txt", "out_of_view.txt")))


def _read_lasot(path, one_based):
    file = path / "groundtruth.txt"
    tags = _flags(path, {"full occlusion": "full_occlusion.txt", "out of view": "out_of_view.txt"})
    return [_folder(path, file, "LaSOT", one_based, tags, absent=tuple(tags))]


def _is_got10k(path):
    return ((path / "groundtruth.txt").is_file()
            and any((path / name).is_file() for name in ("absence.label", "cover.label",
                                                         "meta_info.ini")))


def _read_got10k(path, one_based):
    tags = _flags(path, {"absent": "absence.label", "cut by the border": "cut_by_image.label"})
    if (path / "cover.label").is_file():    # 8: all of it is seen, 4: 45 to 60 %, 0: nothing
        words = (path / "cover.label").read_text().split()
        tags["half hidden"] = np.array([float(word) <= 4 for word in words])
    return [_folder(path, path / "groundtruth.txt", "GOT-10k", one_based, tags, absent=("absent",))]


def _is_vot(path):
    file = path / "groundtruth.txt"
    if not file.is_file():
        return False
    if (path / "color").is_dir() or any(path.glob("*.tag")):
        return True
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline()
    return first.startswith("m") or len(re.split(r"[,;\s]+", first.strip())) == 8


def _read_vot(path, one_based):
    tags = _flags(path, {file.stem.replace("_", " "): file.name for file in path.glob("*.tag")})
    return [_folder(path, path / "groundtruth.txt", "VOT", one_based, tags)]


def _otb_files(path):
    files = sorted(path.glob("groundtruth_rect*.txt"), key=natural_order) if path.is_dir() else []
    # OTB's Human4 has an empty first one
    return [file for file in files if file.read_text(errors="replace").strip("\ufeff \r\n")]


def _read_otb(path, one_based):
    files = _otb_files(path)
    found = []
    for i, file in enumerate(files, 1):
        sequence = _folder(path, file, "OTB", one_based, {})
        if len(files) > 1:
            sequence = replace(sequence, name=f"{sequence.name}-{i}")
        found.append(_with_attributes(sequence, _near(path, sequence.name)))
    return found


def _is_folder(path):
    return path.is_dir() and ((path / "groundtruth.txt").is_file() or _beside(path).is_file())


def _read_folder(path, one_based):
    file = path / "groundtruth.txt"
    return [_folder(path, file if file.is_file() else _beside(path), "folder", one_based, {})]


def _is_video(path):
    return path.suffix.lower() in VIDEO_TYPES and _beside(path).is_file()


def _read_video(path, one_based):
    frames = VideoFrames(path)
    boxes = read_boxes(_beside(path), len(frames), one_based, UNNOTED)
    return [_sequence(path.stem, frames, boxes, _beside(path), "video", {})]


def _beside(path):
    return path.resolve().with_name((path.resolve().name if path.is_dir() else path.stem)
                                    + ".boxes.txt")


# ------------------------------------------------------------------------------- whole datasets


def _is_split(path, frames):
    """A dataset whose boxes are in anno/ and whose frames are in another folder."""
    return (path / "anno").is_dir() and (path / frames).is_dir()


def _read_uav123(path, one_based):
    found = []
    for frames in sorted((path / "data_seq").iterdir(), key=natural_order):
        anno = path / "anno" / frames.name
        # in the sets at 10 frames a second the boxes lie in anno/ itself
        anno = anno if anno.is_dir() else path / "anno"
        for file in sorted(anno.glob("*.txt"), key=natural_order):
            name, part = file.stem, 1
            cut = re.fullmatch(r"(.+)_(\d+)", name)
            if not (frames / name).is_dir() and cut and cut[1] in CUTS:
                name, part = cut[1], int(cut[2])
            if not (frames / name).is_dir():
                raise FileNotFoundError(f"{file} has boxes, but there is no folder "
                                        f"{frames / name} with frames")
            images = _images(frames / name, file)
            whole = name == file.stem
            boxes = read_boxes(file, len(images) if whole else None, one_based, UNNOTED)
            if not whole:
                start = CUTS[name][part - 1] - 1
                start = start // 3 if "10fps" in frames.name else start
                images = images[start:start + len(boxes)]
            sequence = _matched(file.stem, images, boxes, file, "UAV123", {})
            found.append(_with_attributes(sequence, [anno / "att" / file.name]))
    return found


def _read_trackingnet(path, one_based):
    found = []
    for file in sorted((path / "anno").glob("*.txt"), key=natural_order):
        images = _images(path / "frames" / file.stem, file)
        boxes = read_boxes(file, len(images), one_based, UNNOTED)
        found.append(_matched(file.stem, images, boxes, file, "TrackingNet", {}))
    return found


LAYOUTS = (
    (_is_mot, _read_mot), (_is_lasot, _read_lasot), (_is_got10k, _read_got10k),
    (_is_vot, _read_vot), (_otb_files, _read_otb),
    (partial(_is_split, frames="data_seq"), _read_uav123),
    (partial(_is_split, frames="frames"), _read_trackingnet),
    (_is_folder, _read_folder), (_is_video, _read_video),
)


# ------------------------------------------------------------------------------- parts


def _folder(path, file, layout, one_based, tags, absent=()):
    """The sequence of one folder and one box file; `absent`: the tags that hide the target."""
    folder = next((path / name for name in ("img", "color") if (path / name).is_dir()), path)
    images = _images(folder, file)
    boxes = read_boxes(file, len(images), one_based, UNNOTED)
    name = path.resolve().name
    span = SPANS.get(name.lower()) if layout == "OTB" else None
    if span and len(images) > len(boxes) == span[1] - span[0] + 1:
        images = images[span[0] - 1:span[1]]
    sequence = _matched(name, images, boxes, file, layout, tags)
    for tag in absent:
        away = sequence.attributes.get(tag, np.zeros(len(sequence), bool))
        sequence.boxes[away], sequence.noted[away] = np.nan, True
    if layout == "LaSOT":
        sequence = _with_attributes(sequence, _near(path, name))
    return sequence


def _images(folder, file):
    images = sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_TYPES),
                    key=natural_order) if folder.is_dir() else []
    if not images:
        raise FileNotFoundError(f"{file} has boxes, but there are no images in {folder}: "
                                f"{EXPECTED}")
    return images


def _matched(name, images, boxes, file, layout, tags):
    """A Sequence of images and boxes that belong together, one for one or by their numbers."""
    if len(images) != len(boxes):
        numbers = [int((re.findall(r"\d+", image.stem) or [-1])[-1]) for image in images]
        rows = np.array(numbers) - numbers[0]
        if rows[-1] + 1 == len(boxes) and (np.diff(rows) > 0).all():    # gaps in the numbers
            boxes = boxes[rows]
            tags = {key: tag[rows] for key, tag in tags.items() if len(tag) == rows[-1] + 1}
    return _sequence(name, ImageFrames(images), boxes, file, layout, tags)


def _sequence(name, frames, boxes, file, layout, tags):
    if len(boxes) != len(frames):
        hint = ("the truth of the test sets of GOT-10k and TrackingNet is on their servers only"
                if len(boxes) == 1 and layout in ("GOT-10k", "TrackingNet") else
                "lines are missing at its end" if len(boxes) < len(frames) else
                "frames are missing")
        raise ValueError(
            f"sequence {name}: {len(frames)} frames but {len(boxes)} boxes in {file}: {hint}. "
            "Every frame needs a line (nan,nan,nan,nan where the target is absent; or, with frames that "
            "nobody noted, lines frame,x,y,w,h), and every line a frame")
    for key, tag in tags.items():
        if len(tag) != len(boxes):
            raise ValueError(f"sequence {name}: {len(frames)} frames, but {len(tag)} entries of "
                             f"{key!r} beside {file}")
    noted = ~np.isinf(boxes).any(1)
    return Sequence(name, frames, np.where(noted[:, None], boxes, np.nan), layout, tags, noted)


def _flags(path, files):
    return {name: read_flags(path / file) for name, file in sorted(files.items())
            if (path / file).is_file()}


def _near(path, name):
    """Where an attribute file of a sequence may be."""
    places = (path, path.parent, path.parent / "anno", path.parent.parent,
              path.parent.parent / "anno")
    return [path / "attributes.txt", path / "attrs.txt",
            *(place / "att" / f"{name}.txt" for place in places)]


def _with_attributes(sequence, files):
    """The sequence with the attributes of the first of these files that is there."""
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        return sequence
    words = [w for w in re.split(r"[,;\s]+", file.read_text(encoding="utf-8-sig")) if w]
    names = ATTRIBUTES[sequence.layout]
    if all(word in ("0", "1") for word in words) and len(words) == len(names):
        tags = [name for name, word in zip(names, words) if word == "1"]
    elif words and all(word.upper() in SHORT_NAMES for word in words):
        tags = [SHORT_NAMES[word.upper()] for word in words]
    else:
        raise ValueError(f"{file}: expected {len(names)} numbers 0 or 1 ({', '.join(names)}), or "
                         f"short names such as IV, OCC, got {words[:20]}")
    whole = {name: np.ones(len(sequence), bool) for name in tags}
    return replace(sequence, attributes={**whole, **sequence.attributes})
