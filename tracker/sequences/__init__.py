"""Annotated sequences: frames, and the true box of the target in each.

    find_sequences(folder)      all sequences in a folder, whatever benchmark's layout it has
    describe(sequences)         one line that says what was recognised
    read_boxes, read_mot        the box files themselves
    write_got10k, write_mot     results as the benchmarks' servers and toolkits want them

The layouts are described in tracker/sequences/layouts.py, the box files in boxfiles.py.
"""

from tracker.sequences.boxfiles import (  # noqa: F401
    mot_text,
    read_boxes,
    read_mot,
    write_got10k,
    write_mot,
)
from tracker.sequences.frames import (  # noqa: F401
    IMAGE_TYPES,
    VIDEO_TYPES,
    ImageFrames,
    Sequence,
    VideoFrames,
    natural_order,
    pick,
)
from tracker.sequences.layouts import describe, find_sequences, read_sequence  # noqa: F401
