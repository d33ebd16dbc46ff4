"""Columns of runs, the Pareto front of two columns, and its figure."""

import json

import numpy as np
import pytest
from written_runs import write_run

from fedlit.core.errors import ConfigErrors
from fedlit.reports import report
from fedlit.reports.measures.columns import column_kind, column_mode, column_value
from fedlit.reports.measures.trade_off import pareto_front
from fedlit.reports.render import trade_off_figure
from fedlit.reports.render.figures import save_figures
from fedlit.reports.render.tables import make_tables
from fedlit.reports.render.trade_off_figure import draw_trade_off, trade_off_names
from fedlit.reports.result import make_result
from fedlit.runs.folder import load_run
from fedlit.runs.metric_names import preferred_mode

BYTES, EPSILON = "comm/up_bytes:test/accuracy", "privacy/epsilon:test/accuracy"


def write_codecs(folder, codecs, seeds=(1, 2)):
    """Write runs of codecs, each (bytes a round, accuracy, epsilon of the last round or None)."""
    for name, (size, accuracy, epsilon) in codecs.items():
        for seed in seeds:
            rounds = {
                i: {
                    "comm/up_bytes": size,
                    "comm/ratio": 1000 / size,
                    **({} if epsilon is None else {"privacy/epsilon": epsilon * i / 3}),
                }
                for i in (1, 2, 3)
            }
            tests = [accuracy - 0.1, accuracy + 0.01 * seed, accuracy - 0.2]
            write_run(folder / f"{name}{seed}", tests, rounds=rounds, seed=seed, codec=name)
    return folder


CODECS = {"none": (1000, 0.80, None), "half": (500, 0.80, 8.0), "topk": (10, 0.70, 2.0), "sign": (40, 0.60, 1.0)}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = write_codecs(tmp_path_factory.mktemp("codecs"), CODECS)
    return make_result([folder], plots=[BYTES, EPSILON])


@pytest.mark.parametrize(
    ("name", "kind", "mode"),
    [
        ("comm/up_bytes", "total", "min"),
        ("comm/down_bytes", "total", "min"),
        ("bytes", "total", "min"),
        ("rounds", "total", "min"),
        ("wall_s", "total", "min"),
        ("time/simulated_s", "total", "min"),
        ("clients/failed", "total", "min"),
        ("clients/available", "last", None),
        ("comm/ratio", "ratio", "max"),
        ("privacy/epsilon", "last", "min"),
        ("privacy/clip", "last", None),
        ("privacy/clipped_fraction", "mean", None),
        ("privacy/signal_to_noise", "mean", "max"),
        ("test/accuracy", "best", "max"),
        ("val_loss", "best", "min"),
        ("own/accuracy_std", "best", "min"),
        ("own/accuracy_gini", "best", "min"),
        ("own/accuracy_lowest_tenth", "best", "max"),
        ("train/loss", "last", "min"),
        ("drift/update_norm", "last", None),
        ("test/score", "best", None),
    ],
)
def test_kind_and_better_values_of_columns(name, kind, mode):
    assert (column_kind(name), column_mode(name)) == (kind, mode)


def test_a_name_with_contrary_words_has_no_preferred_mode():
    assert preferred_mode("val/accuracy_loss") is None


def test_columns_are_totals_ratios_of_totals_means_and_values_of_the_best_and_the_last_round(tmp_path):
    rounds = {
        1: {"comm/up_bytes": 100, "comm/ratio": 4.0, "privacy/epsilon": 1.0, "privacy/clipped_fraction": 0.2},
        2: {"comm/up_bytes": 300, "comm/ratio": 2.0, "privacy/epsilon": 2.5, "privacy/clipped_fraction": 0.6},
        3: {"comm/up_bytes": 0, "privacy/clip": None},
    }
    run = load_run(write_run(tmp_path / "a", [0.5, 0.7, 0.6], rounds=rounds))
    expected = {
        "comm/up_bytes": 400,
        "comm/down_bytes": 6000,
        "bytes": 6400,
        "rounds": 3,
        "wall_s": 1.5,
        "comm/ratio": (4 * 100 + 2 * 300) / 400,
        "privacy/epsilon": 2.5,
        "privacy/clipped_fraction": pytest.approx(0.4),
        "test/accuracy": 0.7,
        "time/simulated_s": None,
        "privacy/clip": None,
        "privacy/signal_to_noise": None,
    }
    assert {name: column_value(run, name) for name in expected} == expected


def test_a_total_with_a_missing_round_is_no_number(tmp_path):
    rounds = {2: {"time/simulated_s": 1.0}, 3: {"time/simulated_s": 1.0}}
    assert column_value(load_run(write_run(tmp_path / "a", rounds=rounds)), "time/simulated_s") is None


@pytest.mark.parametrize("seed", range(5))
def test_front_equals_the_definition(seed):
    points = [tuple(point) for point in np.random.default_rng(seed).integers(0, 6, (30, 2)).tolist()]
    for is_max in ((False, True), (True, True), (False, False), (True, False)):
        signs = [-1 if larger else 1 for larger in is_max]
        costs = np.array(points) * signs
        expected = [i for i, cost in enumerate(costs) if not ((costs <= cost).all(1) & (costs < cost).any(1)).any()]
        assert pareto_front(points, is_max) == expected


def test_equal_points_are_both_on_the_front_and_missing_points_are_not():
    assert pareto_front([(1, 1), None, (1, 1), (2, 0)], (False, True)) == [0, 2]


def test_trade_off_has_totals_and_the_front_of_the_means(result):
    by_bytes, by_epsilon = result["trade_offs"]
    groups = [one["group"] for one in result["groups"]]
    assert groups == ["codec=half", "codec=none", "codec=sign", "codec=topk"]
    assert [point["x"]["mean"] for point in by_bytes["points"]] == [1500, 3000, 120, 30]
    assert [point["y"]["mean"] for point in by_bytes["points"]] == pytest.approx([0.815, 0.815, 0.615, 0.715])
    assert by_bytes["front"] == [0, 3]  # none sends more than half for the same, sign more than topk for less
    assert by_epsilon["points"][1]["x"] is None
    assert by_epsilon["front"] == [0, 2, 3]


def test_mode_of_the_reports_metric_is_known_whatever_its_name(tmp_path):
    keys = {"monitor__name": "val/score", "monitor__mode": "min"}
    for i, score in enumerate((0.5, 0.7)):
        write_run(tmp_path / f"{i}", [score], rounds={1: {"comm/up_bytes": 100 + i}}, new=i, **keys)
    (trade_off,) = make_result([tmp_path], plots=["comm/up_bytes:test/score"])["trade_offs"]
    assert (trade_off["y"]["mode"], trade_off["front"]) == ("min", [0])


def test_unknown_better_values_give_no_front_and_the_figure_says_so(tmp_path):
    write_codecs(tmp_path, CODECS, seeds=[1])
    for path in tmp_path.glob("*/rounds.jsonl"):
        records = [json.loads(line) | {"drift/x": 1.0} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    result = make_result([tmp_path], plots=["drift/x:test/accuracy"])
    assert result["trade_offs"][0]["front"] is None
    assert (
        "unknown which values of drift/x are better" in draw_trade_off(result, result["trade_offs"][0]).get_suptitle()
    )


def lines_of(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines() if not line.get_label().startswith("_")}


def test_figure_has_a_point_for_each_group_its_seeds_and_the_front(result):
    figure = draw_trade_off(result, result["trade_offs"][0])
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert "$" not in "".join(text.get_text() for text in axes.get_xticklabels())
    assert axes.get_xlabel() == "comm/up_bytes, total of a run, kB, logarithmic (smaller is better)"
    assert axes.get_ylabel() == "test/accuracy, at the best round (larger is better)"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(texts) == sorted([*(f"codec={name} (2 seeds)" for name in CODECS), "Pareto front of the means"])
    front = lines_of(figure)["Pareto front of the means"]
    assert front.get_xydata() == pytest.approx(np.array([[0.03, 0.715], [1.5, 0.815]]))
    assert front.get_drawstyle() == "steps-post"
    seeds = sorted(len(line.get_xdata()) for line in axes.get_lines() if line.get_alpha() == 0.4)
    assert seeds == [2, 2, 2, 2]
    low, high = axes.get_xlim()
    assert 0.02 < low < 0.03
    assert 3 < high < 4.5


def test_group_without_epsilon_is_a_horizontal_line(result):
    figure = draw_trade_off(result, result["trade_offs"][1])
    line = lines_of(figure)["codec=none (2 seeds, no privacy/epsilon)"]
    assert line.get_ydata() == pytest.approx([0.815, 0.815])
    assert figure.axes[0].get_xscale() == "linear"
    low, high = figure.axes[0].get_xlim()
    assert 0 < low < 1 < 8 < high < 9


def test_groups_beyond_the_limit_are_grey_and_those_on_the_front_keep_their_colours(result, monkeypatch):
    monkeypatch.setattr(trade_off_figure, "MAX_POINTS", 2)
    figure = draw_trade_off(result, result["trade_offs"][0])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(texts) == ["Pareto front of the means", "codec=half (2 seeds)", "codec=topk (2 seeds)"]
    assert "grey: 2 more groups" in figure.get_suptitle()


def test_report_writes_the_trade_offs_and_the_table_of_messages(tmp_path, capsys):
    write_codecs(tmp_path, CODECS)
    report.main([str(tmp_path), "--plot", BYTES, "--plot", EPSILON])
    names = ["trade-off-comm-up_bytes-test-accuracy", "trade-off-privacy-epsilon-test-accuracy"]
    for name in names:
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert (tmp_path / f"{name}.svg").is_file()
        assert f"![{name}]({name}.png)" in (tmp_path / "report.md").read_text()
    text = capsys.readouterr().out
    assert "what leaves the clients" in text
    header, row = (
        line
        for line in (tmp_path / "report.csv").read_text().splitlines()
        if line.startswith(("folder", f"{tmp_path}/topk1"))
    )
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert [float(cells[name]) for name in ("up_bytes", "down_bytes", "ratio", "epsilon")] == [30, 6000, 100, 2]


def test_table_of_messages_has_the_columns_that_runs_have(result, tmp_path):
    (table,) = (table for table in make_tables(result, True) if table.title == "what leaves the clients")
    assert table.columns == ["group", "up", "down", "ratio", "epsilon"]
    assert table.rows[1] == ["codec=none", "3 [3, 3] kB", "6 [6, 6] kB", "1 [1, 1]", "-"]
    write_run(tmp_path / "a")
    assert "what leaves the clients" not in [table.title for table in make_tables(make_result([tmp_path]), True)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("comm/up_bytes", "must be two columns"),
        (":test/accuracy", "must be two columns"),
        ("comm/up_byte:test/accuracy", "comm/up_byte is in no run's records"),
        ("comm/up_bytes:cohort", "cohort is in no run's records"),
        ("time/simulated_s:test/accuracy", "time/simulated_s is in no run's records"),
        ("simulated_s:test/accuracy", "no run has finite values of both columns"),
    ],
)
def test_wrong_plots_are_errors(tmp_path, text, problem):
    write_run(tmp_path / "a")
    with pytest.raises(ConfigErrors) as caught:
        make_result([tmp_path], plots=[text, BYTES])
    (error,) = caught.value.errors
    assert (error.key, error.value) == ("--plot", text)
    assert problem in error.problem


def test_hostile_names_of_columns_are_harmless_file_names_and_texts(tmp_path):
    name = "../../$x_{$ <script>\x1b[2J"
    write_run(tmp_path / "runs" / "a", rounds={i: {name: 1.0, f"{name}/": 2.0} for i in (1, 2, 3)})
    result = make_result([tmp_path], plots=[f"{name}:test/accuracy", f"{name}/:test/accuracy"])
    first, second = trade_off_names(result)
    assert first == "trade-off-..-..-x_-script-2J-test-accuracy"
    assert second != first
    out = tmp_path / "out"
    out.mkdir()
    names = save_figures(result, out)
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
