"""The built-in sample: a synthetic stand-in for HMDB51, which may not be shipped.

Nothing in it was filmed. A drawn figure performs eight actions that bear the names of HMDB51 classes, in
twelve "source films" that differ in colours, proportions, camera, background and picture quality. What is
written has the form of the original: an archive of one archive a class (ZIP here, as nothing free writes
RAR), MPEG-4 part 2 in AVI with B-frames, file names in HMDB51's scheme, and the official split lists' format.

Three pairs of actions show the same poses and can be told apart by motion alone: stand is sit played
backwards, throw is catch played backwards, and run is walk at another tempo.

The bytes are the same on every machine with the locked packages, so that a data set made from the sample
never looks changed: pictures come from integer arithmetic (see `drawing`), and the encoder runs with one
thread, integer transforms and bit-exact headers.

    drawing.py    thick lines and boxes in integers
    poses.py      the figure and its eight actions
    figure.py     a pose as shapes in the frame
    films.py      people, rooms and cameras of the twelve films
    takes.py      the plan of all clips, and the split lists
    rendering.py  the pictures of a clip, encoded
    writing.py    the archives
"""

from har_assets.dataset.sample.takes import SAMPLE_CLASSES
from har_assets.dataset.sample.writing import SampleFiles, write_sample

__all__ = ["SAMPLE_CLASSES", "SampleFiles", "write_sample"]
