"""Frames in and out: what is read is what was written, and files appear whole or not at all."""

import os

import numpy as np
import pytest

from tracker.video import FrameSource, VideoWriter

cv2 = pytest.importorskip("cv2")


def picture(i, width=64, height=48):
    """A smooth picture that codecs keep well, unlike every other i."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2, y * 3, np.full_like(x, 10 * i)], -1).astype(np.uint8)


def write_video(path, frames, fps=25):
    height, width = frames[0].shape[:2]
    with VideoWriter(path, fps, (width, height)) as video:
        for frame in frames:
            video.write(frame)
    return path


def close(a, b, mean=6):
    return np.abs(a.astype(float) - b).mean() < mean


def test_a_written_video_is_read_back_frame_by_frame(tmp_path):
    frames = [picture(i) for i in range(12)]
    path = write_video(tmp_path / "a.webm", frames, fps=12.5)
    with FrameSource(path) as source:
        assert (source.size, source.fps, source.count) == ((64, 48), 12.5, 12)
        assert not source.camera and source.name == str(path)
        read = list(source)
    assert len(read) == 12 and source.shortfall() is None
    assert all(r.dtype == np.uint8 and close(r, f) for r, f in zip(read, frames))
    assert not close(read[0], frames[11])


@pytest.mark.parametrize("width, height", [(63, 48), (64, 47), (63, 47), (17, 1)])
def test_odd_sizes_are_made_even_and_lose_nothing(tmp_path, width, height):
    frame = picture(5, width, height)
    path = write_video(tmp_path / "odd.webm", [frame] * 3)
    read = FrameSource(path).first
    assert read.shape == (height + height % 2, width + width % 2, 3)
    assert close(read[:height, :width], frame)


def test_the_video_is_what_browsers_play(tmp_path):
    head = write_video(tmp_path / "a.webm", [picture(0)] * 2).read_bytes()[:1000]
    assert head.startswith(b"\x1a\x45\xdf\xa3") and b"webm" in head and b"V_VP8" in head


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a"])
def test_other_files_than_webm_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"NAME\.webm.*browsers"):
        VideoWriter(tmp_path / name, 25, (64, 48))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_video_needs_a_frame_rate(tmp_path, fps):
    with pytest.raises(ValueError, match="frames per second"):
        VideoWriter(tmp_path / "a.webm", fps, (64, 48))


def test_a_frame_of_another_size_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match="32 x 48 pixels in a video of 64 x 48"):
        write_video(tmp_path / "a.webm", [picture(0), picture(1, width=32)])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path):
    path = write_video(tmp_path / "a.webm", [picture(0)] * 3)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        with VideoWriter(path, 25, (64, 48)) as video:
            video.write(picture(1))
            assert path.read_bytes() == before      # nothing happens to it while writing
            raise KeyboardInterrupt
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.webm"]


def test_a_video_without_frames_is_an_error(tmp_path):
    with pytest.raises(OSError, match="0 frames went in"):
        with VideoWriter(tmp_path / "a.webm", 25, (64, 48)):
            pass
    assert not list(tmp_path.iterdir())


def test_frames_that_do_not_arrive_are_noticed(tmp_path, monkeypatch):
    real = cv2.VideoWriter

    class Lossy:        # as on a full disk: write() says nothing
        def __init__(self, *arguments):
            self.writer = real(*arguments)      # a subclass of OpenCV's own would crash
            self.isOpened, self.release = self.writer.isOpened, self.writer.release

        def write(self, frame):
            if frame[0, 0, 2] < 20:
                self.writer.write(frame)

    monkeypatch.setattr(cv2, "VideoWriter", Lossy)
    with pytest.raises(OSError, match="25 frames went in, 2 came back"):
        write_video(tmp_path / "a.webm", [picture(i) for i in range(25)])
    assert not list(tmp_path.iterdir())


def test_a_missing_codec_is_named(tmp_path, monkeypatch):
    real = cv2.VideoWriter
    monkeypatch.setattr(cv2, "VideoWriter", lambda *a: real())
    with pytest.raises(OSError, match="cannot write VP8.*opencv-python-headless"):
        VideoWriter(tmp_path / "a.webm", 25, (64, 48))


def test_images_come_in_the_order_of_their_numbers(tmp_path):
    for i in (10, 9, 1, 100):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 10, 3), i, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    with FrameSource(tmp_path) as source:
        assert (source.count, source.fps, source.size) == (4, None, (10, 8))
        assert [frame[0, 0, 0] for frame in source] == [1, 9, 10, 100]


def test_grey_and_transparent_images_become_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.full((8, 10), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((8, 10, 4), 9, np.uint8))
    assert [frame.shape for frame in FrameSource(tmp_path)] == [(8, 10, 3)] * 2


def test_an_unreadable_image_in_the_middle_is_named(tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(i))
    (tmp_path / "1.png").write_bytes(b"broken")
    source = FrameSource(tmp_path)
    with pytest.raises(ValueError, match=r"1\.png \(frame 1\) cannot be read"):
        list(source)
    assert source.frames_read == 1


def test_images_of_unequal_size_are_named(tmp_path):
    cv2.imwrite(str(tmp_path / "a1.png"), picture(0))
    cv2.imwrite(str(tmp_path / "a2.png"), picture(0, width=32))
    with pytest.raises(ValueError, match=r"a2\.png.*32 x 48.*64 x 48"):
        list(FrameSource(tmp_path))


def test_what_is_no_source_is_said_clearly(tmp_path, capfd):
    with pytest.raises(FileNotFoundError, match="nowhere.mp4 does not exist"):
        FrameSource(tmp_path / "nowhere.mp4")
    with pytest.raises(ValueError, match="no images in the folder"):
        FrameSource(tmp_path)
    (tmp_path / "text.mp4").write_text("no video " * 100)
    with pytest.raises(ValueError, match="text.mp4 is not a video"):
        FrameSource(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match="empty.mp4 is not a video"):
        FrameSource(tmp_path / "empty.mp4")
    cv2.imwrite(str(tmp_path / "one.png"), picture(0))
    with pytest.raises(ValueError, match="one image: give the folder"):
        FrameSource(tmp_path / "one.png")
    assert capfd.readouterr().err == ""     # FFmpeg's own words are kept back


def test_a_camera_that_is_not_there():
    with pytest.raises(OSError, match="camera 97 cannot be opened"):
        FrameSource("97")
    with pytest.raises(OSError, match="camera 97 cannot be opened"):
        FrameSource(97)


def test_a_folder_named_like_a_number_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").mkdir()
    cv2.imwrite(str(tmp_path / "7" / "a.png"), picture(0))
    assert not FrameSource("7").camera


def test_a_video_cut_short_is_noticed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    data = write_video(tmp_path / "a.webm", noise).read_bytes()
    (tmp_path / "cut.webm").write_bytes(data[:len(data) // 2])
    source = FrameSource(tmp_path / "cut.webm")
    n = sum(1 for _ in source)
    assert n < 30 and f"announces 40 frames, only {n}" in source.shortfall()


def test_frames_are_read_once(tmp_path):
    source = FrameSource(write_video(tmp_path / "a.webm", [picture(0)] * 2))
    list(source)
    with pytest.raises(RuntimeError, match="read already"):
        list(source)


def test_a_stream_is_a_source_that_does_not_wait(monkeypatch, tmp_path):
    class Capture:
        def isOpened(self):
            return True

        def get(self, _):
            return 0.

        def grab(self):
            return True

        def retrieve(self):
            return True, np.zeros((10, 12, 3), np.uint8)

        def release(self):
            pass

    asked = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda what: asked.append(what) or Capture())
    source = FrameSource("rtsp://host/door?key=1")
    assert asked == ["rtsp://host/door?key=1"]
    assert source.camera and source.stem == "stream" and source.size == (12, 10)
    assert source.fps is None and source.count is None


def test_a_link_to_a_video_stays_one(tmp_path):
    (tmp_path / "link.webm").symlink_to(tmp_path / "real.webm")
    write_video(tmp_path / "link.webm", [picture(0)] * 3)
    assert (tmp_path / "link.webm").is_symlink() and (tmp_path / "real.webm").stat().st_size
