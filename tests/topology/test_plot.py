"""Pictures of diagrams: every class is drawn once, where it is."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from nnunet_topomae.topology import persistence_diagrams, plot_diagrams, squared_wasserstein

DIAGRAMS = persistence_diagrams(np.random.default_rng(0).normal(size=(8, 8, 8)))
OTHER = persistence_diagrams(np.random.default_rng(1).normal(size=(8, 8, 8)))


def labels(axis: plt.Axes) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


@pytest.mark.parametrize("superlevel", [False, True])
def test_all_points_of_all_dimensions_are_there(superlevel: bool) -> None:
    diagrams = persistence_diagrams(np.random.default_rng(0).normal(size=(8, 8, 8)), superlevel=superlevel)
    axis = plot_diagrams(diagrams)
    for diagram, points in zip(diagrams, axis.collections, strict=True):
        np.testing.assert_allclose(points.get_offsets(), diagram.finite().points)
    assert sorted(labels(axis)) == ["D0: components", "D1: tunnels", "D2: cavities", "never dies"]
    triangle = next(line for line in axis.lines if line.get_label() == "never dies")
    assert triangle.get_xdata() == diagrams[0].birth[-1]
    assert triangle.get_ydata() == axis.get_ylim()[0 if superlevel else 1]
    plt.close(axis.figure)


def test_a_matching_is_drawn_from_point_to_point_or_to_the_diagonal() -> None:
    a, b = DIAGRAMS[1], OTHER[1]
    result = squared_wasserstein(a, b)
    _, axis = plt.subplots()
    assert plot_diagrams(a, b, result, axis) is axis
    drawn = axis.collections[0].get_segments()
    assert len(drawn) == len(result.matching)
    for (i, j), (start, end) in zip(result.matching, drawn, strict=True):
        np.testing.assert_allclose(start, a.points[i] if i >= 0 else np.full(2, b.points[j].mean()))
        np.testing.assert_allclose(end, b.points[j] if j >= 0 else np.full(2, a.points[i].mean()))
    assert labels(axis) == ["first", "second"]
    plt.close(axis.figure)


def test_an_empty_diagram_has_a_picture_too() -> None:
    axis = plot_diagrams(persistence_diagrams(np.zeros((3, 3, 3)))[2])
    assert len(axis.collections[0].get_offsets()) == 0
    plt.close(axis.figure)


def test_a_matching_needs_two_diagrams() -> None:
    with pytest.raises(ValueError, match="one diagram and one other"):
        plot_diagrams(DIAGRAMS, OTHER[0])
