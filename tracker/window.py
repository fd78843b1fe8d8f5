"""A window: to watch a tracker at work, and to choose the first box with the mouse.

With tkinter, which comes with Python, because the headless wheel of OpenCV has no windows. A
frame goes to Tk as a PPM image, which needs no further library.
"""

import numpy as np

from tracker.opencv import import_cv2

_HELP = "drag a box around the target, then press Enter (Esc: give up)"


class NoWindow(OSError):
    """No window can be opened here; the message says how to do without."""


class Window:
    """One window. Frames larger than the screen are shown smaller.

    Raises NoWindow where Python has no tkinter or where there is no display.
    """

    def __init__(self, title):
        try:
            import tkinter
        except ImportError as error:
            raise _no_window(f"this Python has no tkinter: {error}; on Debian and Ubuntu: apt "
                             "install python3-tk") from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise _no_window(error) from error
        self._tkinter = tkinter
        self._root.title(title)
        self._root.resizable(False, False)
        self._canvas = tkinter.Canvas(self._root, highlightthickness=0)
        self._canvas.pack()
        self._image = self._photo = None
        self.open = True
        self._root.protocol("WM_DELETE_WINDOW", self.close)
        self._root.bind("<Escape>", lambda event: self.close())

    def show(self, frame):
        """Show a frame (H, W, 3) uint8 BGR; False once the user has closed the window."""
        if self.open:
            self._draw(frame)
            self._root.update()         # may run close()
        return self.open

    def choose_box(self, frame):
        """Let the user drag a box on the frame -> x, y, w, h in its pixels, floats.

        Raises ValueError if the window is closed instead.
        """
        scale = self._draw(frame)
        text = self._canvas.create_text(8, 8, anchor="nw", text=_HELP, fill="white")
        self._canvas.create_rectangle(*self._canvas.bbox(text), fill="black")
        self._canvas.tag_raise(text)
        size = (frame.shape[1], frame.shape[0])
        corners, done = [], self._tkinter.BooleanVar(self._root, False)
        outline = self._canvas.create_rectangle(0, 0, 0, 0, outline="#3cdc50", width=2)

        def press(event):
            corners[:] = [(event.x, event.y)] * 2

        def drag(event):
            if corners:
                corners[1] = (event.x, event.y)
                self._canvas.coords(outline, *corners[0], *corners[1])

        def accept(event):
            if corners and box_between(*corners, scale, size) is not None:
                done.set(True)

        def give_up(event=None):
            corners.clear()
            done.set(True)

        self._canvas.bind("<ButtonPress-1>", press)
        self._canvas.bind("<B1-Motion>", drag)
        self._root.bind("<Return>", accept)
        self._root.bind("<Escape>", give_up)
        self._root.protocol("WM_DELETE_WINDOW", give_up)
        self._root.focus_force()
        self._root.wait_variable(done)
        self.close()
        if not corners:
            raise ValueError("no box was chosen: drag one around the target and press Enter, or "
                             "give it with --box x,y,w,h")
        return box_between(*corners, scale, size)

    def close(self):
        if self.open:
            self.open = False
            self._root.destroy()

    def _draw(self, frame):
        """Put the frame on the canvas; returns shown pixels per pixel of the frame."""
        cv2 = import_cv2()
        height, width = frame.shape[:2]
        scale = min(0.9 * self._root.winfo_screenwidth() / width,
                    0.85 * self._root.winfo_screenheight() / height, 1)
        if scale < 1:
            frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        self._photo = self._tkinter.PhotoImage(     # Tk keeps no reference: we must
            master=self._root, data=ppm(frame), format="PPM")
        if self._image is None:
            self._image = self._canvas.create_image(0, 0, anchor="nw")
        self._canvas.config(width=frame.shape[1], height=frame.shape[0])
        self._canvas.itemconfig(self._image, image=self._photo)
        return scale


def box_between(a, b, scale, size):
    """The box x, y, w, h between two corners on the screen, or None if it is too small.

    a, b: (x, y) in shown pixels; scale: shown pixels per pixel; size: (width, height) of the frame,
    to which the box is cut.
    """
    (x1, y1), (x2, y2) = (np.clip(np.divide(p, scale), 0, size) for p in (a, b))
    x, y, w, h = (float(v) for v in (min(x1, x2), min(y1, y2), abs(x1 - x2), abs(y1 - y2)))
    return (x, y, w, h) if min(w, h) >= 2 else None


def ppm(frame):
    """The frame as the bytes of a binary PPM file."""
    return import_cv2().imencode(".ppm", frame)[1].tobytes()


def _no_window(reason):
    return NoWindow(f"no window can be opened here ({reason}). It works without one: give the "
                    "first box with --box x,y,w,h and leave out --show")
