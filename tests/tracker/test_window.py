"""The window: with a stand-in for tkinter everywhere, and with the real one where it can open."""

import builtins
import sys
import types

import numpy as np
import pytest

from tracker.window import NoWindow, Window, box_between, ppm

pytest.importorskip("cv2")
FRAME = np.zeros((100, 200, 3), np.uint8)
FRAME[..., 0] = 255     # blue


class Fake(types.ModuleType):
    """As much of tkinter as the window uses. `script` is what the user does, as callables."""

    TclError = type("TclError", (Exception,), {})

    def __init__(self, screen=(1000, 1000), script=()):
        super().__init__("tkinter")
        self.screen, self.script, self.bound, self.photos = screen, list(script), {}, []
        self.destroyed = self.done = False

    def Tk(self):
        return self

    def Canvas(self, *a, **k):
        return self

    def BooleanVar(self, *a):
        return self

    def PhotoImage(self, master, data, format):
        assert format == "PPM"
        self.photos.append(data)

    def winfo_screenwidth(self):
        return self.screen[0]

    def winfo_screenheight(self):
        return self.screen[1]

    def bind(self, event, call):
        self.bound[event] = call

    protocol = bind

    def set(self, value):
        self.done = value

    def wait_variable(self, variable):
        while not self.done:
            self.script.pop(0)(self)

    def update(self):
        if self.script:
            self.script.pop(0)(self)

    def destroy(self):
        self.destroyed = True

    def nothing(self, *a, **k):
        return 1

    title = resizable = pack = config = itemconfig = coords = nothing
    create_image = create_rectangle = create_text = tag_raise = focus_force = nothing

    def bbox(self, item):
        return 0, 0, 9, 9


def event(name, x=0, y=0):
    return lambda fake: fake.bound[name](types.SimpleNamespace(x=x, y=y))


DRAG = [event("<ButtonPress-1>", 10, 20), event("<B1-Motion>", 30, 30),
        event("<B1-Motion>", 50, 80)]
ENTER, ESCAPE = event("<Return>"), event("<Escape>")
CLOSE = lambda fake: fake.bound["WM_DELETE_WINDOW"]()      # noqa: E731


@pytest.fixture
def tk(monkeypatch):
    def install(**arguments):
        fake = Fake(**arguments)
        monkeypatch.setitem(sys.modules, "tkinter", fake)
        return fake
    return install


def test_a_box_is_dragged_and_accepted(tk):
    fake = tk(script=[*DRAG, ENTER])
    assert Window("w").choose_box(FRAME) == (10, 20, 40, 60)
    assert fake.destroyed


def test_on_a_small_screen_the_box_is_still_in_pixels_of_the_frame(tk):
    fake = tk(screen=(1000, 1000), script=[*DRAG, ENTER])
    box = Window("w").choose_box(np.zeros((1000, 1800, 3), np.uint8))      # shown at half size
    assert box == (20, 40, 80, 120)
    assert fake.photos[0].startswith(b"P6\n900 500\n")


def test_enter_without_a_box_waits_for_one(tk):
    tk(script=[ENTER, event("<ButtonPress-1>", 5, 5), ENTER, *DRAG, ENTER])
    assert Window("w").choose_box(FRAME) == (10, 20, 40, 60)


@pytest.mark.parametrize("leave", [ESCAPE, CLOSE])
def test_giving_up_says_how_to_give_the_box(tk, leave):
    fake = tk(script=[*DRAG, leave])
    with pytest.raises(ValueError, match="--box x,y,w,h"):
        Window("w").choose_box(FRAME)
    assert fake.destroyed


def test_frames_are_shown_until_the_window_is_closed(tk):
    fake = tk(script=[lambda f: None, lambda f: None, CLOSE])
    window = Window("w")
    assert [window.show(FRAME) for _ in range(5)] == [True, True, False, False, False]
    assert len(fake.photos) == 3 and fake.destroyed
    window.close()      # twice does no harm


def test_no_display_says_how_to_do_without(tk):
    fake = tk()

    def fail():
        raise fake.TclError("no display name and no $DISPLAY environment variable")

    fake.Tk = fail
    with pytest.raises(NoWindow, match=r"no \$DISPLAY.*--box x,y,w,h and leave out --show"):
        Window("w")


def test_no_tkinter_says_how_to_do_without(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "tkinter":
            raise ImportError("No module named '_tkinter'")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NoWindow, match="python3-tk.*--box x,y,w,h"):
        Window("w")


@pytest.mark.parametrize("a, b, scale, expected", [
    ((10, 20), (50, 80), 1, (10, 20, 40, 60)),
    ((50, 80), (10, 20), 1, (10, 20, 40, 60)),          # dragged up and left
    ((10, 20), (50, 80), 0.5, (20, 40, 80, 60)),        # cut at the frame's bottom, 100
    ((-30, -5), (500, 40), 1, (0, 0, 200, 40)),
    ((10, 20), (11, 80), 1, None),                      # a click, no box
    ((300, 20), (400, 80), 1, None),                    # outside
])
def test_corners_in_any_order_make_a_box_inside_the_frame(a, b, scale, expected):
    assert box_between(a, b, scale, (200, 100)) == expected


def test_a_frame_becomes_a_ppm_in_rgb():
    data = ppm(FRAME)
    assert data.startswith(b"P6\n200 100\n255\n") and data.endswith(b"\x00\x00\xff" * 20000)


def test_the_real_window_where_there_is_one():
    try:
        window = Window("test")
    except NoWindow as error:
        pytest.skip(str(error))
    assert window.show(FRAME)
    assert window._photo.width() == 200 and window._photo.get(3, 3) == (0, 0, 255)
    root, canvas = window._root, window._canvas

    def use_the_mouse():
        for name, x, y in (("<ButtonPress-1>", 10, 20), ("<B1-Motion>", 50, 80)):
            canvas.event_generate(name, x=x, y=y)
        root.focus_force()
        root.event_generate("<Return>")
        root.after(50, use_the_mouse)

    root.after(50, use_the_mouse)
    assert window.choose_box(FRAME) == (10, 20, 40, 60)
    assert not window.open and not window.show(FRAME)
