"""Figures of reports: the axis is that of the data, and many groups stay readable."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from written_runs import write_run

from fedlit.reports.render import figures
from fedlit.reports.render.figures import draw_curves, draw_differences
from fedlit.reports.result import make_result

CURVES = ([0.10, 0.55, 0.90], [0.30, 0.95, 0.99], [0.20, 0.60, 1.00], [0.25, 0.90, 0.97], [0.15, 0.85, 0.99])


def write_seeds(folder, count, curves=CURVES, **keys):
    for seed, curve in enumerate(curves[:count]):
        write_run(folder / f"{keys}{seed}", curve, seed=seed, **keys)
    return folder


def bands(axes):
    return [each for each in axes.collections if isinstance(each, PolyCollection)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_of_fewer_than_five_seeds_is_a_thin_line(tmp_path, count):
    figure = draw_curves(make_result([write_seeds(tmp_path, count)]))
    for axes in figure.axes:
        mean, *seeds = axes.get_lines()
        assert bands(axes) == []
        assert [[*line.get_ydata()] for line in seeds] == ([*CURVES[:count]] if count > 1 else [])
        assert all(line.get_linewidth() < mean.get_linewidth() / 2 for line in seeds)
    assert ("thin: each seed" in figure.get_suptitle()) == (count > 1)


def test_band_of_two_seeds_does_not_widen_the_axis(tmp_path):
    low, high = draw_curves(make_result([write_seeds(tmp_path, 2)])).axes[0].get_ylim()
    assert 0.0 < low < 0.1
    assert 0.99 < high < 1.1


def test_band_of_five_seeds_stays_within_the_bounds_and_the_axis_is_that_of_the_data(tmp_path):
    result = make_result([write_seeds(tmp_path, 5)])
    assert max(result["curves"][0]["rounds"]["high"]) > 1
    figure = draw_curves(result)
    for axes in figure.axes:
        (band,) = bands(axes)
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.max() == 1.0
        assert heights.min() == pytest.approx(min(result["curves"][0]["rounds"]["low"]))
        assert len(axes.get_lines()) == 1
    assert figure.axes[0].get_ylim() == pytest.approx((0.1 - 0.045, 1.0 + 0.045))
    assert figure.axes[0].get_xlim()[1] >= 3
    assert "band: 95 % interval" in figure.get_suptitle()


def test_axis_contains_the_target(tmp_path):
    low, high = draw_curves(make_result([write_seeds(tmp_path, 1, [[0.5, 0.6]])], target=0.9)).axes[0].get_ylim()
    assert low < 0.5
    assert high > 0.9


@pytest.mark.parametrize("tests", [[0.5, 0.5], [0.0], [3.0]])
def test_axis_of_one_value_has_a_height(tmp_path, tests):
    write_run(tmp_path / "a", tests)
    low, high = draw_curves(make_result([tmp_path])).axes[0].get_ylim()
    assert low < tests[0] < high


def test_figures_of_many_groups_are_of_bounded_height(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MAX_CURVES", 3)
    monkeypatch.setattr(figures, "MAX_DIFFERENCES", 4)
    for i, alpha in enumerate((0.1, 0.2, 0.3, 0.4, 0.5, 0.6)):
        write_run(tmp_path / f"{i}", [0.1, 0.2 + alpha], partition__alpha=alpha)
    result = make_result([tmp_path])
    curves, differences = draw_curves(result), draw_differences(result)
    legend = [text.get_text() for text in curves.legends[0].get_texts()]
    assert legend == [f"partition.alpha={alpha} (1 seed)" for alpha in (0.4, 0.5, 0.6)]
    assert "the best 3 of 6 groups" in curves.get_suptitle()
    assert len(differences.axes[0].get_yticks()) == 4
    assert "the first 4 of 5 groups" in differences.get_suptitle()


def test_smallest_loss_is_among_the_best_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MAX_CURVES", 1)
    for alpha in (0.1, 0.2, 0.3):
        keys = {"monitor__name": "val/loss", "monitor__mode": "min", "partition__alpha": alpha}
        write_run(tmp_path / f"{alpha}", [abs(alpha - 0.2)], **keys)
    (text,) = draw_curves(make_result([tmp_path])).legends[0].get_texts()
    assert text.get_text() == "partition.alpha=0.2 (1 seed)"


def test_differences_have_both_rounds_of_a_group_in_one_row(tmp_path):
    for seed in (1, 2):
        for proximal in (0.0, 0.1, 0.2):
            write_run(
                tmp_path / f"{seed}{proximal}",
                [0.5, 0.7 + proximal * seed, 0.6],
                seed=seed,
                algorithm__proximal=proximal,
            )
    figure = draw_differences(make_result([tmp_path]))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        f"algorithm.proximal={proximal}\n2 pairs" for proximal in (0.1, 0.2)
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["best round", "last round"]
    heights = {
        round(float(line.get_ydata()[0]), 2) for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 2
    }
    assert {-0.15, 0.15, 0.85, 1.15} <= heights


def test_curves_of_a_search_have_the_best_trial_before_grey_ones(tmp_path):
    for i, (val, test) in enumerate(((0.3, 0.9), (0.8, 0.6), (0.5, 0.7))):
        keys = {"choices": {"algorithm": "fedavg"}, "direction": "maximize", "algorithm__proximal": i / 10}
        write_run(tmp_path / f"{i}", [0.1, test], [0.1, val], **keys)
    figure = draw_curves(make_result([tmp_path]))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["2 other trials", "best trial: algorithm.proximal=0.1 (1 seed)"]
    lines = figure.axes[0].get_lines()
    assert [line.get_color() for line in lines] == ["0.7", "0.7", figures.COLOURS[0]]
    assert np.allclose(lines[-1].get_ydata(), [0.1, 0.6])


def test_dollar_signs_are_drawn_as_they_are(tmp_path):
    for seed in (1, 2):
        for value in ("a$x_{$", "b$y$"):
            write_run(tmp_path / f"{seed}{value[0]}", [0.1, 0.2 * seed], seed=seed, new=value)
    names = figures.save_figures(make_result([tmp_path]), tmp_path)
    texts = "".join((tmp_path / name).read_text() for name in names if name.endswith(".svg"))
    assert ">new=a$x_{$ (2 seeds)<" in texts
    assert ">new=b$y$<" in texts
    assert "difference from new=a$x_{$ (above" in texts
