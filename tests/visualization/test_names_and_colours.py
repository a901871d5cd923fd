"""Names from data in pictures, and colours that stand for one thing each."""

import os

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from skimage.color import deltaE_ciede2000, rgb2lab

from nnunet_topomae.visualization.palette import CLASSES, RUNS
from nnunet_topomae.visualization.reconstruction import save_reconstruction_figure
from nnunet_topomae.visualization.text import LONGEST, plain

NAMES = ["a$b$", "50%", "_hidden", "<b>&", "two\nlines", "x" * 300, "שלום", os.fsdecode(b"a\xff"), "\x00\t"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_name_is_drawn_whatever_it_is(tmp_path, name):
    volume = np.random.default_rng(0).normal(size=(4, 4, 4))
    save_reconstruction_figure(tmp_path / "a.png", volume, volume > 0, {name: volume}, name)
    assert imread(tmp_path / "a.png").std() > 0


def test_a_name_stays_on_one_line_of_letters_that_fonts_have():
    assert plain("a$b$ <i>") == "a$b$ <i>" and plain("a\nb\udcff") == "a�b�"
    assert len(plain("x" * 50 + "y" * 50)) == LONGEST and plain("x" * 50 + "y" * 50).endswith("yyy")


def test_no_class_has_the_colour_of_a_run():
    classes, runs = (rgb2lab([[to_rgb(colour) for colour in colours]])[0] for colours in (CLASSES, RUNS))
    assert deltaE_ciede2000(classes[:, None], runs[None]).min() > 14
