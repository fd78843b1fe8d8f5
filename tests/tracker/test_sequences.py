import pickle
from dataclasses import replace

import numpy as np
import pytest

from tracker.occlusions import real_events
from tracker.sequences import (
    Sequence,
    describe,
    find_sequences,
    pick,
    read_boxes,
    read_sequence,
)
from tracker.synthetic import load_sequences

cv2 = pytest.importorskip("cv2")


def write_frames(folder, names, size=(32, 24)):
    """Images of one grey each: 0, 10, 20, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((size[1], size[0], 3), 10 * i, np.uint8))


def otb(folder, boxes, names=None, file="groundtruth_rect.txt", img="img"):
    names = names or [f"{i + 1:04}.png" for i in range(len(boxes))]
    write_frames(folder / img, names)
    (folder / file).write_text("\n".join(boxes) + "\n")
    return folder


@pytest.mark.parametrize("line", ["1.5,2,3,4", "1.5\t2\t3\t4", "1.5 2 3 4", " 1.5, 2 ;3,\t4 ,",
                                  "1.50000e0,2,3,4\r"])
def test_separators(tmp_path, line):
    (tmp_path / "b.txt").write_text(f"\ufeff{line}\n\n{line}\n\n")
    assert read_boxes(tmp_path / "b.txt").tolist() == [[1.5, 2, 3, 4]] * 2


@pytest.mark.parametrize("line", ["nan,nan,nan,nan", "NaN NaN NaN NaN", "0,0,0,0", "0 0 0 0",
                                  "3,4,nan,5", "7,8,0,0", "1,2,0,4"])
def test_absent(tmp_path, line):
    (tmp_path / "b.txt").write_text(f"1,2,3,4\n{line}\n0,0,9,9\n")
    boxes = read_boxes(tmp_path / "b.txt")
    assert np.isnan(boxes).all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("line", ["1,2,3", "1,2,3,4,5", "1,2,3,4,5,6,7,8", "x,y,w,h", "1,2,inf,4",
                                  "1,2,3,-4", "1;2;3;4;5;6"])
def test_a_line_that_is_no_box_is_named(tmp_path, line):
    (tmp_path / "b.txt").write_text(f"1,2,3,4\n\n{line}\n")
    with pytest.raises(ValueError, match=rf"b\.txt, line 3: .*'{line}'"):
        read_boxes(tmp_path / "b.txt")


def test_notes_on_some_frames(tmp_path):
    (tmp_path / "b.txt").write_text("# by hand\n0,1,2,3,4\n3,5,6,7,8\n")
    boxes = read_boxes(tmp_path / "b.txt", frames=5)
    assert boxes[0].tolist() == [1, 2, 3, 4] and boxes[3].tolist() == [5, 6, 7, 8]
    assert np.isnan(boxes).all(1).tolist() == [False, True, True, False, True]
    assert len(read_boxes(tmp_path / "b.txt")) == 4
    with pytest.raises(ValueError, match="from 0 to 2.*got '0, 3'"):
        read_boxes(tmp_path / "b.txt", frames=3)
    (tmp_path / "b.txt").write_text("0,1,2,3,4\n1,5,6,7\n")
    with pytest.raises(ValueError, match="line 2"):
        read_boxes(tmp_path / "b.txt")


@pytest.mark.parametrize("file", ["groundtruth_rect.txt", "groundtruth.txt"])
@pytest.mark.parametrize("img", ["img", "."])
def test_a_folder_is_read_in_the_frames_order(tmp_path, file, img):
    folder = otb(tmp_path / "Car", ["1,2,3,4", "nan,nan,nan,nan", "5,6,7,8"],
                 ["1.png", "2.png", "10.png"], file, img)
    (sequence,) = find_sequences(folder)
    assert sequence.name == "Car" and len(sequence) == 3
    assert sequence.present.tolist() == [True, False, True]
    assert [int(frame[0, 0, 0]) for frame in sequence.frames] == [0, 10, 20]
    assert sequence.frames[-1].shape == (24, 32, 3)


def test_a_folder_of_sequences(tmp_path):
    otb(tmp_path / "b2", ["1,2,3,4"])
    otb(tmp_path / "a", ["1,2,3,4"] * 2)
    otb(tmp_path / "b10", ["1,2,3,4"])
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("nothing")
    assert [s.name for s in find_sequences(tmp_path)] == ["a", "b2", "b10"]


def test_head(tmp_path):
    sequence = read_sequence(otb(tmp_path / "s", ["nan nan nan nan", "1 2 3 4", "1 2 3 4"]))
    assert [len(sequence.head(n)) for n in (1, 2, 3, 9)] == [2, 2, 3, 3]
    head = sequence.head(2)
    assert len(list(head.frames)) == len(head.boxes) == 2
    with pytest.raises(IndexError):
        head.frames[2]


def test_sequences_travel_to_other_processes(tmp_path):
    sequence = read_sequence(otb(tmp_path / "s", ["1 2 3 4"] * 3)).head(2)
    copy = pickle.loads(pickle.dumps(sequence))
    np.testing.assert_array_equal(copy.frames[1], sequence.frames[1])
    np.testing.assert_array_equal(copy.boxes, sequence.boxes)


def test_a_video_with_notes_on_some_frames(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25,
                             (32, 24))
    assert writer.isOpened()
    for i in range(6):
        writer.write(np.full((24, 32, 3), 30 * i, np.uint8))
    writer.release()
    (tmp_path / "other.avi").write_bytes(b"no boxes, no sequence")
    (tmp_path / "clip.boxes.txt").write_text("0,1,2,3,4\n5,5,6,7,8\n")
    (sequence,) = find_sequences(tmp_path)
    assert sequence.name == "clip" and len(sequence) == 6
    assert sequence.present.tolist() == [True, False, False, False, False, True]
    assert sequence.noted.tolist() == sequence.present.tolist() and not sequence.absent.any()
    assert "0 of them without the target, 4 not annotated" in describe([sequence])
    assert real_events(sequence) == []
    assert sequence.head(3).noted.tolist() == [True, False, False]
    assert sequence.every(5).noted.all() and sequence.every(2, 1).noted.tolist() == [False, False, True]
    for wrong in ((0,), (-1,), (3, -2), (1, 6)):
        with pytest.raises(ValueError, match="sequence clip of 6 frames has no every"):
            sequence.every(*wrong)
    back = sequence.backwards()
    assert [round(frame.mean() / 30) for frame in back.frames] == [5, 4, 3, 2, 1, 0]
    np.testing.assert_array_equal(back.boxes[[0, 5]], sequence.boxes[[5, 0]])
    assert back.noted.tolist() == sequence.noted[::-1].tolist()
    assert back.frames.fingerprint() != sequence.every(1).frames.fingerprint()
    with pytest.raises(ValueError, match="noted is of 2 frames, but there are 6 boxes"):
        replace(sequence, noted=np.ones(2, bool))
    assert [len(s.frames) for s in load_sequences(tmp_path)] == [2]     # trainings take these alone
    assert np.isnan(sequence.boxes[1:5]).all()
    assert [round(frame.mean() / 30) for frame in sequence.frames] == [0, 1, 2, 3, 4, 5]
    assert round(sequence.frames[3].mean() / 30) == 3
    assert [round(frame.mean() / 30) for frame in sequence.head(2).frames] == [0, 1]
    picked = pick(sequence.head(5).frames, [4, 1])
    assert {i: round(frame.mean() / 30) for i, frame in picked.items()} == {1: 1, 4: 4}
    with pytest.raises(IndexError):
        sequence.frames[6]
    (tmp_path / "clip.boxes.txt").write_text("1,2,3,4\n" * 5)
    with pytest.raises(ValueError, match="clip: 6 frames but 5 boxes"):
        find_sequences(tmp_path)


def test_errors_say_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: expected the layout of OTB"):
        find_sequences(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no sequence in .*NAME/groundtruth"):
        find_sequences(tmp_path)
    (tmp_path / "file.txt").write_text("1,2,3,4")
    with pytest.raises(FileNotFoundError, match="no sequence in .*expected"):
        find_sequences(tmp_path / "file.txt")
    folder = otb(tmp_path / "s", ["1,2,3,4"] * 3)
    (folder / "img" / "0004.png").write_bytes((folder / "img" / "0003.png").read_bytes())
    with pytest.raises(ValueError, match="sequence s: 4 frames but 3 boxes"):
        find_sequences(tmp_path)
    for image in (folder / "img").iterdir():
        image.unlink()
    with pytest.raises(FileNotFoundError, match="no images in"):
        find_sequences(tmp_path)
    with pytest.raises(ValueError, match="no frame has a box"):
        Sequence("empty", [1, 2], np.full((2, 4), np.nan))


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    folder = otb(tmp_path / "s", ["1,2,3,4"] * 2)
    (folder / "img" / "0002.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"cannot read the image .*0002\.png"):
        list(read_sequence(folder).frames)


def test_the_fingerprint_of_frames_changes_with_the_files(tmp_path):
    sequence = read_sequence(otb(tmp_path / "s", ["1,2,3,4"] * 3))
    before = sequence.frames.fingerprint()
    assert read_sequence(tmp_path / "s").frames.fingerprint() == before
    assert sequence.head(2).frames.fingerprint() != before
    assert sequence.head(2).frames.fingerprint() != sequence.head(1).frames.fingerprint()
    cv2.imwrite(str(tmp_path / "s" / "img" / "0002.png"), np.zeros((24, 32, 3), np.uint8))
    assert sequence.frames.fingerprint() != before
