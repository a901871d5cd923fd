from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.colors import to_hex
from matplotlib.image import imread

from nnunet_topomae.visualization.palette import CLASSES
from nnunet_topomae.visualization.progress import save_progress_figure
from nnunet_topomae.visualization.reconstruction import save_reconstruction_figure
from nnunet_topomae.visualization.slices import Tile, slices_figure


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """Figures that were saved, to look into."""
    figures: list[matplotlib.figure.Figure] = []
    save = matplotlib.figure.Figure.savefig

    def savefig(figure: matplotlib.figure.Figure, *args, **kwargs) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return figures


def shown(axes: matplotlib.axes.Axes) -> np.ma.MaskedArray:
    return axes.images[0].get_array()


def test_reconstruction_shows_only_masked_voxels_of_the_networks(tmp_path: Path, drawn: list) -> None:
    image = np.random.default_rng(0).normal(size=(6, 8, 10))
    mask = np.zeros(image.shape, bool)
    mask[:, :4] = True
    save_reconstruction_figure(
        tmp_path / "a.png", image, mask, {"vit": image + 2, "partner": 0 * image}, title="case", spacing=(3, 1, 0.5)
    )
    rows = np.reshape(drawn[0].axes, (3, 4))
    for axis, row in enumerate(rows):
        at = image.shape[axis] // 2
        plane, hidden = image.take(at, axis), mask.take(at, axis)
        assert np.array_equal(shown(row[0]), plane)
        assert np.array_equal(np.ma.getmaskarray(shown(row[1])), hidden)
        assert np.array_equal(shown(row[2]), np.where(hidden, plane + 2, plane))
        assert np.array_equal(shown(row[3]), np.where(hidden, 0, plane))
        assert len({cell.images[0].get_clim() for cell in row}) == 1
    assert [row[0].get_aspect() for row in rows] == [1 / 0.5, 3 / 0.5, 3 / 1]
    assert "MSE 4 " in rows[0, 2].get_title()
    assert imread(tmp_path / "a.png").std() > 0


def test_reconstruction_of_another_shape_is_refused(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 4))
    with pytest.raises(ValueError, match=r"vit has shape \(4, 4, 5\)"):
        save_reconstruction_figure(tmp_path / "a.png", image, image > 0, {"vit": np.zeros((4, 4, 5))})


def test_labels_lie_over_their_slice_in_the_colours_of_the_legend() -> None:
    image = np.random.default_rng(0).normal(size=(6, 8, 10))
    labels = np.zeros(image.shape, int)
    labels[4, 2:5, 3:8], labels[4, 6] = 1, len(CLASSES) + 2  # colours begin again
    place = 0, 4, (3, 1, 0.5), {"vmin": -1, "vmax": 1}
    rows = [[Tile(image, *place, "image"), Tile(image, *place, "$torus$", labels)], [Tile(image, *place)]]
    figure = slices_figure(rows, ["a$b$", ""], legend={"ball": CLASSES[0], "$torus$": CLASSES[1]})
    plain, covered, second = figure.axes
    assert len(plain.images) == len(second.images) == 1 and np.array_equal(shown(covered), image[4])
    overlay = covered.images[1].get_array()
    assert np.array_equal(overlay[..., 3] > 0, labels[4] > 0)
    assert [to_hex(overlay[place][:3]).upper() for place in ((2, 3), (6, 0))] == list(CLASSES[:2])
    assert plain.get_aspect() == 1 / 0.5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ball", "$torus$"]
    figure.canvas.draw()  # names are no formulas


def test_progress_has_a_panel_for_each_kind_of_term(tmp_path: Path, drawn: list, monkeypatch) -> None:
    logging = {
        "train_losses": [3.0, 2.0],
        "val_losses": [3.5, 2.5],
        "lrs": [1e-4, 1e-5],
        "epoch_start_timestamps": [0.0, 10.0, 30.0],  # the third epoch is under way
        "epoch_end_timestamps": [9.0, 25.0],
        "train_reconstruction_vit": [100.0, 1.0],
        "val_reconstruction_vit": [90.0, 2.0],
        "train_reconstruction_partner": [1.0, 1.0],
        "val_reconstruction_partner": [1.0, 1.0],
        "train_topology_vit": [float("nan")] * 2,  # its weight was zero
        "val_topology_vit": [],
        "train_point_error_vit": [5.0, 4.0],
        "val_point_error_vit": [5.0, float("nan")],
        "vit_token_std": [0.6, 0.5],
    }
    terms = ["reconstruction_vit", "reconstruction_partner", "topology_vit", "point_error_vit"]
    monkeypatch.setitem(rcParams, "xtick.labelsize", 40)  # as nnU-Net's own picture leaves it
    save_progress_figure(tmp_path / "progress.png", logging, terms, ["vit_token_std"])
    assert drawn[0].axes[0].get_xticklabels()[0].get_fontsize() < 20
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert list(panels) == [
        "total loss", "reconstruction", "point error vit", "vit token std", "learning rate", "seconds an epoch"
    ]  # fmt: skip
    assert list(panels["vit token std"].lines[0].get_ydata()) == [0.6, 0.5]
    curves = {line.get_label(): list(line.get_ydata()) for line in panels["reconstruction"].lines}
    assert curves["train vit"] == [100.0, 1.0] and curves["val partner"] == [1.0, 1.0] and len(curves) == 4
    assert panels["reconstruction"].get_yscale() == "log" and panels["total loss"].get_yscale() == "linear"
    assert list(panels["seconds an epoch"].lines[0].get_ydata()) == [9.0, 15.0]
    assert imread(tmp_path / "progress.png").std() > 0
