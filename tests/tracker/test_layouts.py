"""The layouts of the benchmarks, each in a small copy with the odd forms that are met in the wild."""

import shutil

import numpy as np
import pytest

from tracker.sequences import (
    describe,
    find_sequences,
    read_boxes,
    read_mot,
    read_sequence,
    write_got10k,
    write_mot,
)

cv2 = pytest.importorskip("cv2")
BOX = "1,2,3,4"


def images(folder, numbers, digits=8, ending=".png"):
    """Images whose grey is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        cv2.imwrite(str(folder / f"{number:0{digits}}{ending}"),
                    np.full((6, 8, 3), number % 256, np.uint8))


def write(path, *lines, newline="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(newline.join([*lines, ""]).encode())


def greys(sequence):
    return [int(frame[0, 0, 0]) for frame in sequence.frames]


def only(folder, layout, **options):
    (sequence,) = find_sequences(folder, **options)
    assert sequence.layout == layout and f"({layout} layout)" in describe([sequence])
    return sequence


# ------------------------------------------------------------------------------- box files


def test_polygons_become_the_upright_box_around_them(tmp_path):
    write(tmp_path / "b.txt", "3,1,7,5,4,8,0,4", "nan,nan,nan,nan,nan,nan,nan,nan",
          "1 1 1 1 1 1 1 1")
    boxes = read_boxes(tmp_path / "b.txt")
    assert boxes[0].tolist() == [0, 1, 7, 7]
    assert np.isnan(boxes[1:]).all()        # a polygon that is a point has no area: absent


def test_masks_carry_their_box(tmp_path):
    write(tmp_path / "b.txt", "m10,20,3,2,0,6", "m11,20,3,2,1,4,1")
    assert read_boxes(tmp_path / "b.txt").tolist() == [[10, 20, 3, 2], [11, 20, 3, 2]]


def test_one_based_files_and_windows_line_ends(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf1\t1\t5\t6\r\nNaN\tNaN\tNaN\tNaN\r\n\r\n")
    assert read_boxes(tmp_path / "b.txt")[0].tolist() == [1, 1, 5, 6]
    boxes = read_boxes(tmp_path / "b.txt", one_based=True)
    assert boxes[0].tolist() == [0, 0, 5, 6] and np.isnan(boxes[1]).all()


def test_bytes_that_are_no_text_are_an_error_with_a_line(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"1,2,3,4\n\xff\xfe1,2,3,4\n")
    with pytest.raises(ValueError, match="line 2"):
        read_boxes(tmp_path / "b.txt")


def test_lines_of_different_kinds_are_refused(tmp_path):
    write(tmp_path / "b.txt", BOX, "1,2,3,4,5,6,7,8")
    with pytest.raises(ValueError, match="line 2.*in every line"):
        read_boxes(tmp_path / "b.txt")


# ------------------------------------------------------------------------------- layouts


def test_otb(tmp_path):
    images(tmp_path / "Car" / "img", range(1, 4), 4)
    write(tmp_path / "Car" / "groundtruth_rect.txt", "1\t1\t3\t4", "0,0,0,0", "2 1 3 4",
          newline="\r\n")
    write(tmp_path / "anno" / "att" / "Car.txt", "1,0,0,1,0,0,0,0,0,0,1")
    car = only(tmp_path, "OTB", one_based=True)
    assert car.boxes[[0, 2]].tolist() == [[0, 0, 3, 4], [1, 0, 3, 4]]
    assert car.present.tolist() == [True, False, True]
    assert sorted(car.attributes) == ["illumination variation", "low resolution", "occlusion"]
    assert all(tag.all() and len(tag) == 3 for tag in car.attributes.values())
    write(tmp_path / "Car" / "attributes.txt", "OCC, sv")
    assert sorted(only(tmp_path, "OTB").attributes) == ["occlusion", "scale variation"]
    write(tmp_path / "Car" / "attributes.txt", "OCC, XYZ")
    with pytest.raises(ValueError, match=r"attributes.txt: expected 11 .*'XYZ'"):
        find_sequences(tmp_path)


def test_otb_with_two_targets_and_an_empty_file(tmp_path):
    images(tmp_path / "Jogging" / "img", range(1, 3), 4)
    write(tmp_path / "Jogging" / "groundtruth_rect.1.txt", BOX, BOX)
    write(tmp_path / "Jogging" / "groundtruth_rect.2.txt", "5,6,7,8", "5,6,7,8")
    images(tmp_path / "Human4" / "img", range(1, 3), 4)
    (tmp_path / "Human4" / "groundtruth_rect.1.txt").write_text("\n")
    write(tmp_path / "Human4" / "groundtruth_rect.2.txt", BOX, BOX)
    found = find_sequences(tmp_path)
    assert [s.name for s in found] == ["Human4", "Jogging-1", "Jogging-2"]
    assert found[2].boxes[0].tolist() == [5, 6, 7, 8]
    with pytest.raises(ValueError, match="holds 2 sequences, not one: Jogging-1, Jogging-2"):
        read_sequence(tmp_path / "Jogging")


def test_otb_sequences_that_use_a_part_of_their_frames(tmp_path):
    images(tmp_path / "Football1" / "img", range(1, 81), 4)
    write(tmp_path / "Football1" / "groundtruth_rect.txt", *[BOX] * 74)
    assert greys(only(tmp_path, "OTB")) == list(range(1, 75))
    write(tmp_path / "Football1" / "groundtruth_rect.txt", *[BOX] * 73)
    with pytest.raises(ValueError, match="80 frames but 73 boxes in .*groundtruth_rect.txt"):
        find_sequences(tmp_path)


def test_got10k(tmp_path):
    folder = tmp_path / "val" / "GOT-10k_Val_000001"
    images(folder, range(1, 4))
    write(folder / "groundtruth.txt", "1.0000,2.0000,3.0000,4.0000", "1,2,3,4", "1,2,3,4")
    write(folder / "absence.label", "0", "0", "1")
    write(folder / "cover.label", "8", "4", "0")
    write(tmp_path / "val" / "list.txt", "GOT-10k_Val_000001")
    sequence = only(tmp_path, "GOT-10k")
    assert sequence.present.tolist() == [True, True, False]
    assert sequence.attributes["half hidden"].tolist() == [False, True, True]
    write(folder / "groundtruth.txt", BOX)
    with pytest.raises(ValueError, match="3 frames but 1 boxes in .*on their servers only"):
        find_sequences(tmp_path)
    write(folder / "groundtruth.txt", *[BOX] * 3)
    write(folder / "absence.label", "0", "0")
    with pytest.raises(ValueError, match="3 frames, but 2 entries of 'absent'"):
        find_sequences(tmp_path)


@pytest.mark.parametrize("frames", [".", "color"])
def test_vot(tmp_path, frames):
    images(tmp_path / "bag" / frames, range(1, 4))
    write(tmp_path / "bag" / "groundtruth.txt", *["3,1,7,5,4,8,0,4"] * 3)
    write(tmp_path / "bag" / "occlusion.tag", "0", "1", "0")
    write(tmp_path / "bag" / "camera_motion.label", "0", "1", "0")
    write(tmp_path / "list.txt", "bag")
    bag = only(tmp_path, "VOT")
    assert bag.boxes[0].tolist() == [0, 1, 7, 7]
    assert bag.attributes["occlusion"].tolist() == [False, True, False]
    (tmp_path / "bag" / "occlusion.tag").unlink()
    assert only(tmp_path, "VOT").attributes == {}       # by its polygons


def test_lasot(tmp_path):
    folder = tmp_path / "bird" / "bird-1"
    images(folder / "img", range(1, 5))
    write(folder / "groundtruth.txt", *[BOX] * 4)
    write(folder / "full_occlusion.txt", "0,1,0,0")
    write(folder / "out_of_view.txt", "0,0,0,1")
    write(tmp_path / "att" / "bird-1.txt", "0,1,0,0,0,0,0,0,0,1,0,1,0,0")
    bird = only(tmp_path, "LaSOT")
    assert bird.present.tolist() == [True, False, True, False]
    assert bird.attributes["partial occlusion"].all()
    assert bird.attributes["out of view"].tolist() == [False, False, False, True]   # by frame
    write(folder / "out_of_view.txt", "0,0,0,1,0")
    with pytest.raises(ValueError, match="4 frames, but 5 entries of 'out of view'"):
        find_sequences(tmp_path)
    write(folder / "out_of_view.txt", "0,0,no,1")
    with pytest.raises(ValueError, match="out_of_view.txt: expected a 0 or 1"):
        find_sequences(tmp_path)


def test_uav123(tmp_path):
    images(tmp_path / "data_seq" / "UAV123" / "bike1", range(1, 4), 6)
    images(tmp_path / "data_seq" / "UAV123" / "truck4", range(1, 581), 6)
    anno = tmp_path / "anno" / "UAV123"
    write(anno / "bike1.txt", BOX, "NaN,NaN,NaN,NaN", BOX)
    write(anno / "truck4_1.txt", *[BOX] * 577)
    write(anno / "truck4_2.txt", *["5,6,7,8"] * 4)      # its frames begin at 577
    write(anno / "att" / "bike1.txt", "1,0,0,0,0,0,0,0,0,0,0,1")
    found = find_sequences(tmp_path)
    assert [(s.name, len(s), s.layout) for s in found] == [
        ("bike1", 3, "UAV123"), ("truck4_1", 577, "UAV123"), ("truck4_2", 4, "UAV123")]
    assert found[0].present.tolist() == [True, False, True]
    assert sorted(found[0].attributes) == ["scale variation", "similar object"]
    assert greys(found[2]) == [n % 256 for n in (577, 578, 579, 580)]
    write(anno / "boat1.txt", BOX)
    with pytest.raises(FileNotFoundError, match="boat1.txt has boxes, but there is no folder"):
        find_sequences(tmp_path)


def test_uav123_at_ten_frames_a_second(tmp_path):
    images(tmp_path / "data_seq" / "UAV123_10fps" / "truck4", range(1, 200), 6)
    write(tmp_path / "anno" / "UAV123_10fps" / "truck4_2.txt", BOX, BOX)
    assert greys(only(tmp_path, "UAV123")) == [193, 194]        # (577 - 1) / 3 + 1


def test_of_frames_without_a_line_nothing_is_known_in_any_layout(tmp_path):
    some = "0,1,2,3,4", "3,1,2,3,4"
    images(tmp_path / "net" / "frames" / "v", range(6), 0)
    write(tmp_path / "net" / "anno" / "v.txt", *some)
    images(tmp_path / "uav" / "data_seq" / "UAV123" / "boat", range(1, 7), 6)
    write(tmp_path / "uav" / "anno" / "UAV123" / "boat.txt", *some)
    images(tmp_path / "got" / "a", range(1, 7))
    write(tmp_path / "got" / "a" / "groundtruth.txt", *some)
    write(tmp_path / "got" / "a" / "absence.label", *"001000")      # of frame 2 it is known after all
    for layout in ("net", "uav", "got"):
        (sequence,) = find_sequences(tmp_path / layout)
        away = [2] if layout == "got" else []
        assert np.flatnonzero(sequence.noted).tolist() == sorted([0, 3, *away])
        assert np.flatnonzero(sequence.absent).tolist() == away
        fewer = sequence.every(3)
        assert fewer.noted.tolist() == [True, True] and len(fewer.frames) == 2
        assert all(tag.tolist() == [False, False] for tag in fewer.attributes.values())


def test_trackingnet(tmp_path):
    for chunk in ("TRAIN_0", "TRAIN_1"):
        images(tmp_path / chunk / "frames" / f"v-{chunk}", (0, 1, 2, 10), 0, ".jpg")
        write(tmp_path / chunk / "anno" / f"v-{chunk}.txt", *[BOX] * 4)
    found = find_sequences(tmp_path)
    assert [s.name for s in found] == ["v-TRAIN_0", "v-TRAIN_1"]
    assert describe(found).startswith("2 sequences (TrackingNet layout), 8 frames, 0 of them")
    assert [round(g, -1) // 10 for g in greys(found[0])] == [0, 0, 0, 1]    # 2.jpg before 10.jpg
    write(tmp_path / "TRAIN_0" / "anno" / "v-TRAIN_0.txt", BOX)
    with pytest.raises(ValueError, match="4 frames but 1 boxes .*on their servers only"):
        find_sequences(tmp_path)


MOT = """1,7,1,2,3,4,1,1,1
2,7,2,2,3,4,1,1,.5
1,3,5,6,7,8,1,1,1
4,3,6,6,7,8,1,1,1
2,9,5,5,5,5,0,1,1
2,8,5,5,5,5,1,3,1
"""


def test_motchallenge_gives_a_sequence_for_each_target(tmp_path):
    folder = tmp_path / "train" / "MOT17-02"
    images(folder / "img1", range(1, 6), 6)
    (folder / "seqinfo.ini").write_text("[Sequence]\nname=MOT17-02\nimDir=img1\n")
    write(folder / "gt" / "gt.txt", MOT)
    found = find_sequences(tmp_path)
    assert [(s.name, s.layout) for s in found] == [
        ("MOT17-02-3", "MOTChallenge"), ("MOT17-02-7", "MOTChallenge")]
    assert greys(found[0]) == [1, 2, 3, 4]              # from its first frame to its last
    assert found[0].present.tolist() == [True, False, False, True]
    assert found[1].boxes.tolist() == [[0, 1, 3, 4], [1, 1, 3, 4]]      # 1-based files


def test_read_mot_names_bad_lines(tmp_path):
    path = tmp_path / "gt.txt"
    for text, words in (("1,1,2,3,4\n", "line 1: expected frame,id,x,y,w,h"),
                        ("1,1,1,1,1,1\n1,1,1,1,1,1\n", "line 2: target 1 is twice in frame 1"),
                        ("0,1,1,1,1,1\n", "frames count from 1 to 3, got 0"),
                        ("4,1,1,1,1,1\n", "frames count from 1 to 3, got 4"),
                        ("1,1,1,1,-1,1\n", "line 1: a box needs")):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_mot(path, 3)
    path.write_text("2 1 3 4 5 6\n")
    frames = read_mot(path)
    assert [ids.tolist() for ids, _ in frames] == [[], [1]]
    assert frames[1][1].tolist() == [[2, 3, 5, 6]]


def test_what_write_mot_writes_is_read_again(tmp_path):
    frames = [(np.array([4, 2]), np.array([[0, 0, 5, 6], [1.5, 2.25, 3, 4]])),
              (np.array([], int), np.empty((0, 4))),
              (np.array([2]), np.array([[7., 8, 9, 10]]), np.array([.5]))]
    write_mot(tmp_path / "out" / "r.txt", frames)
    lines = (tmp_path / "out" / "r.txt").read_text().splitlines()
    assert lines[0] == "1,4,1.00,1.00,5.00,6.00,1,-1,-1,-1" and lines[2].startswith("3,2,8.00")
    for said, (ids, boxes, *_) in zip(read_mot(tmp_path / "out" / "r.txt"), frames):
        np.testing.assert_array_equal(said[0], ids)
        np.testing.assert_allclose(said[1], boxes)


def test_what_write_got10k_writes_the_toolkit_reads(tmp_path):
    boxes = np.array([[1, 2, 3, 4], [1.25, 2.5, 3, 4.125]])
    write_got10k(tmp_path, "mine", "GOT-10k_Val_000001", boxes, [np.nan, .02])
    folder = tmp_path / "mine" / "GOT-10k_Val_000001"
    np.testing.assert_array_equal(np.loadtxt(folder / "GOT-10k_Val_000001_001.txt",
                                             delimiter=","), boxes)
    np.testing.assert_array_equal(np.loadtxt(folder / "GOT-10k_Val_000001_time.txt"), [0, .02])
    for bad, times in ((boxes * np.nan, [0, 0]), (boxes, [0])):
        with pytest.raises(ValueError, match="s: a result has a finite box"):
            write_got10k(tmp_path, "mine", "s", bad, times)


def test_a_folder_of_frames_with_its_boxes_beside_it(tmp_path):
    images(tmp_path / "shots", range(5))
    write(tmp_path / "shots.boxes.txt", "0," + BOX, "3," + BOX)
    assert only(tmp_path, "folder").present.tolist() == [True, False, False, True, False]
    assert only(tmp_path / "shots", "folder").name == "shots"


def test_gaps_in_the_frames_numbers(tmp_path):
    images(tmp_path / "s" / "img", (5, 6, 9, 10), 4)
    write(tmp_path / "s" / "groundtruth_rect.txt", *(f"{i},2,3,4" for i in range(4)))
    assert only(tmp_path, "OTB").boxes[:, 0].tolist() == [0, 1, 2, 3]     # a line a frame
    write(tmp_path / "s" / "groundtruth_rect.txt", *(f"{i},2,3,4" for i in range(5, 11)))
    assert only(tmp_path, "OTB").boxes[:, 0].tolist() == [5, 6, 9, 10]    # a line a number
    write(tmp_path / "s" / "groundtruth_rect.txt", *[BOX] * 5)
    with pytest.raises(ValueError, match="4 frames but 5 boxes in .*frames are missing"):
        find_sequences(tmp_path)
    write(tmp_path / "s" / "groundtruth_rect.txt", *[BOX] * 3)
    with pytest.raises(ValueError, match="4 frames but 3 boxes in .*lines are missing"):
        find_sequences(tmp_path)


def test_equal_names_in_different_folders_are_told_apart(tmp_path):
    for split in "ab":
        images(tmp_path / split / "car", (1,))
        write(tmp_path / split / "car" / "groundtruth.txt", BOX)
    images(tmp_path / "b" / "dog", (1,))
    write(tmp_path / "b" / "dog" / "groundtruth.txt", BOX)
    assert [s.name for s in find_sequences(tmp_path)] == ["car-1", "car-2", "dog"]


def test_a_folder_whose_images_are_gone(tmp_path):
    images(tmp_path / "s" / "img", (1,))
    write(tmp_path / "s" / "groundtruth_rect.txt", BOX)
    shutil.rmtree(tmp_path / "s" / "img")
    with pytest.raises(FileNotFoundError, match="groundtruth_rect.txt has boxes, but there are no"):
        find_sequences(tmp_path)
