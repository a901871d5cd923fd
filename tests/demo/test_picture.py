from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.colors import to_hex

from nnunet_topomae.demo.picture import MethodRow, save_method_figure
from nnunet_topomae.visualization.palette import CLASSES


def test_the_method_in_a_row_is_one_slice_of_all_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).normal(size=(6, 8, 10))
    mask = np.zeros(image.shape, bool)
    mask[:, 4:] = True
    reference = np.zeros(image.shape, int)
    reference[4, 2:5, 3:8], reference[4, 6] = 1, 2
    reference[0] = 1  # more voxels, fewer classes
    row = MethodRow("a$b$", image, mask, {"ViT": image + 1}, reference, 0 * reference, spacing=(3, 1, 0.5))
    drawn: list[matplotlib.figure.Figure] = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda *args, **kw: drawn.append(args[0]) or save(*args, **kw)
    )
    save_method_figure(tmp_path / "method.png", [row], {1: "ball", 2: "$torus$"})

    source, masked, reconstruction, truth, prediction = drawn[0].axes
    shown = [cell.images[0].get_array() for cell in (source, masked, reconstruction)]
    assert np.array_equal(shown[0], image[4]) and np.array_equal(shown[2], image[4] + 1)
    assert np.array_equal(np.ma.getmaskarray(shown[1]), mask[4])
    overlay = truth.images[1].get_array()
    assert np.array_equal(overlay[..., 3] > 0, reference[4] > 0) and not prediction.images[1].get_array().any()
    assert [to_hex(overlay[place][:3]).upper() for place in ((2, 3), (6, 0))] == list(CLASSES[:2])
    assert source.get_aspect() == 1 / 0.5 and (tmp_path / "method.png").stat().st_size > 0
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["ball", "$torus$"]
