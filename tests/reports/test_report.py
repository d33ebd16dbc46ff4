"""Reports on synthetic runs that `write_run` writes."""

import csv
import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from written_runs import write_run, write_sweep

from fedlit.core.errors import ConfigErrors
from fedlit.reports import report
from fedlit.reports.grouping import config_signature
from fedlit.reports.render.cells import format_cell
from fedlit.reports.render.figures import draw_curves, draw_differences
from fedlit.reports.render.tables import ReportTable, headline, make_tables
from fedlit.reports.render.terminal import _make_table
from fedlit.reports.result import make_result


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The folder of a sweep with its written report, and the report."""
    folder = write_sweep(tmp_path_factory.mktemp("sweep"))
    report.write_report([folder], folder, "algorithm=fedavg", 0.72)
    return folder, json.loads((folder / "report.json").read_text())


def test_group_labels_are_the_settings_that_differ(sweep):
    assert [one["group"] for one in sweep[1]["groups"]] == [
        "algorithm=fedavg partition.alpha=0.1",
        "algorithm=fedavg partition.alpha=1.0",
        "algorithm=fedprox partition.alpha=0.1",
        "algorithm=fedprox partition.alpha=1.0",
    ]
    assert [one["seeds"] for one in sweep[1]["groups"]] == [[1, 2, 3]] * 4


def test_means_and_intervals_equal_those_of_scipy(sweep):
    first = sweep[1]["groups"][0]
    for name, values in (("best", [0.70, 0.72, 0.75]), ("last", [0.6, 0.61, 0.625])):
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        result = first[name]
        assert [result["mean"], result["low"], result["high"]] == pytest.approx([sum(values) / 3, low, high])
        assert [*result["values"].values()] == pytest.approx(values)
    assert first["area"]["values"]["1"] == pytest.approx((0.5 / 2 + 0.7 + 0.6 / 2) / 2)
    assert [first[name]["mean"] for name in ("rounds", "bytes", "wall_s", "seconds")] == [3, 9000, 1.5, 9]
    assert first["simulated_s"] is None


def test_table_has_number_mean_standard_deviation_and_interval(sweep):
    table = next(make_tables(sweep[1], False))
    assert table.columns == ["group", "round", "n", "mean", "std", "95 % interval"]
    std = np.std([0.70, 0.72, 0.75], ddof=1)
    assert table.rows[0] == [
        "algorithm=fedavg partition.alpha=0.1",
        "best",
        "3",
        "0.723",
        f"{std:.3f}",
        "[0.661, 0.786]",
    ]
    assert table.rows[1] == ["", "last", "3", "0.612", "0.013", "[0.580, 0.643]"]
    assert [row[0] for row in next(make_tables(sweep[1], True)).rows[:2]] == [
        "algorithm=fedavg partition.alpha=0.1"
    ] * 2


def test_paired_differences_equal_those_of_scipy_for_the_same_other_settings(sweep):
    assert [(one["group"], one["baseline"]) for one in sweep[1]["paired"]] == [
        ("algorithm=fedprox partition.alpha=0.1", "algorithm=fedavg partition.alpha=0.1"),
        ("algorithm=fedprox partition.alpha=1.0", "algorithm=fedavg partition.alpha=1.0"),
    ]
    a, b = [0.71, 0.74, 0.75], [0.70, 0.72, 0.75]
    result = sweep[1]["paired"][0]["best"]
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert [result["n"], result["mean"], result["low"], result["high"]] == pytest.approx([3, 0.01, low, high])
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert [result["unpaired"]["low"], result["unpaired"]["high"]] == pytest.approx([low, high])


def test_target_cost_is_the_mean_over_the_seeds_that_reached_the_target(sweep):
    first = sweep[1]["groups"][0]["target"]
    assert (first["reached"], first["of"]) == ([2, 3], 3)
    assert [first[name]["mean"] for name in ("rounds", "bytes", "wall_s")] == [2, 6000, 1.0]


def test_curves_have_intervals(sweep):
    band = sweep[1]["curves"][0]
    low, high = stats.ttest_1samp([0.70, 0.72, 0.75], 0).confidence_interval(0.95)
    assert (band["rounds"]["x"], band["bytes"]["x"]) == ([1, 2, 3], [3000, 6000, 9000])
    assert [band["rounds"]["low"][1], band["bytes"]["high"][1]] == pytest.approx([low, high])


def test_report_writes_its_files(sweep):
    folder = sweep[0]
    for name in ("curves", "differences"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text()
    with (folder / "report.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 12
    assert (rows[0]["algorithm"], rows[0]["partition.alpha"], rows[0]["seed"]) == ("fedavg", "0.1", "1")
    assert (float(rows[0]["best"]), rows[0]["best_round"], rows[0]["rounds_to_target"]) == (0.7, "2", "")
    text = (folder / "report.md").read_text()
    assert "12 runs in 4 groups, seeds 1, 2, 3; 0 skipped runs" in text
    assert "| algorithm=fedprox partition.alpha=0.1 | best | 3 | +0.010 [-0.015, +0.035] |" in text
    assert "![curves](curves.png)" in text
    again = make_result([folder], "algorithm=fedavg", 0.72)
    assert json.loads(json.dumps(again["paired"])) == sweep[1]["paired"]


def test_terminal_prints_the_report_from_its_json_values(sweep, monkeypatch, capsys):
    result = sweep[1]
    assert [table.title for table in make_tables(result, True)] == [
        "test/accuracy, mean over seeds",
        "test/accuracy, difference from algorithm=fedavg",
        "cost until test/accuracy was first at least 0.72",
        "whole runs",
    ]
    monkeypatch.setenv("COLUMNS", "80")
    report.print_report(result, None, report.PlainConsole())
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    assert "+0.010 ± 0.025" in output
    assert "no files were written: add --out FOLDER to write them" in output


def test_one_seed_has_no_interval(tmp_path):
    for name, proximal in (("a", 0.0), ("b", 0.1)):
        write_run(tmp_path / name, algorithm__proximal=proximal)
    result = make_result([tmp_path])
    assert (result["groups"][0]["n"], result["groups"][0]["best"]["low"], result["paired"][0]["last"]["half"]) == (
        1,
        None,
        None,
    )
    assert result["curves"][0]["rounds"]["low"] is None
    cells = [text for table in make_tables(result, True) for row in table.rows for text in row]
    assert "0.7000" in cells
    assert not any("[" in text or "±" in text for text in cells)
    report.write_report([tmp_path], tmp_path / "out")
    assert "±" not in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2),
        ("executor._target_", "fedlit.executors.Processes"),
        ("executor.workers", 2),
        ("observers.terminal._target_", "x"),
        ("checkpoint.keep", 3),
        ("resume", "auto"),
        ("data.root", "there"),
        ("faults.server", {"round": 2}),
        ("sweep.name", "x"),
    ],
)
def test_key_that_cannot_change_a_result_separates_no_groups(key, value):
    assert config_signature({"a": 1, key: value}) == config_signature({"a": 1.0, key: None})


@pytest.mark.parametrize(
    "key", ["executor.threads", "schedule.rounds", "data.val_fraction", "seeds", "faults.on_error"]
)
def test_key_that_can_change_a_result_separates_groups(key):
    assert config_signature({key: 1}) != config_signature({key: 2})
    assert config_signature({key: 1}) != config_signature({key: True})


def test_unrecorded_choice_is_named_by_its_class_without_the_keys_that_follow_from_it(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", algorithm___target_="my.Own", algorithm__proximal=0.3)
    write_run(tmp_path / "c", algorithm___target_="my.Own", algorithm__proximal=0.1)
    labels = [one["group"] for one in make_result([tmp_path])["groups"]]
    assert labels == [
        "algorithm=FedAvg algorithm.proximal=0.0",
        "algorithm=Own algorithm.proximal=0.1",
        "algorithm=Own algorithm.proximal=0.3",
    ]


def test_fedprox_with_two_mus_is_compared_with_the_same_fedavg(tmp_path):
    for name, proximal in (("fedavg", 0.0), ("fedprox", 0.1), ("fedprox", 1.0)):
        write_run(tmp_path / f"{name}{proximal}", choices={"algorithm": name}, algorithm__proximal=proximal)
    result = make_result([tmp_path], "algorithm=fedavg")
    assert len(result["paired"]) == 2
    with pytest.raises(ConfigErrors, match="matches several groups for algorithm=fedavg"):
        make_result([tmp_path], "algorithm=fedprox")
    assert len(make_result([tmp_path], "algorithm=fedprox,algorithm.proximal=0.1")["paired"]) == 2


def test_most_similar_of_several_baselines_is_chosen(tmp_path):
    for name, proximal in (("fedavg", 0.0), ("fedprox", 0.1)):
        for rate in (0.5, 1.0):
            keys = {"algorithm__proximal": proximal, "algorithm__lr": rate}
            write_run(tmp_path / f"{name}{rate}", choices={"algorithm": name}, **keys)
    for baseline in (None, "algorithm=fedavg"):
        pairs = [(one["group"], one["baseline"]) for one in make_result([tmp_path], baseline)["paired"]]
        assert pairs == [
            ("algorithm=fedprox algorithm.lr=0.5", "algorithm=fedavg algorithm.lr=0.5"),
            ("algorithm=fedprox algorithm.lr=1.0", "algorithm=fedavg algorithm.lr=1.0"),
        ]


def test_seeds_without_a_pair_are_reported(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / f"a{seed}", seed=seed)
    for seed in (2, 3, 4):
        write_run(tmp_path / f"b{seed}", seed=seed, algorithm__proximal=0.1, tests=[0.1, 0.8, 0.9])
    one = make_result([tmp_path])["paired"][0]
    assert (one["seeds"], one["left_out_seeds"]) == ([2, 3], {"group": [4], "baseline": [1]})
    assert one["best"]["values"] == pytest.approx({2: 0.2, 3: 0.2})


def test_digests_that_differ_are_reported(tmp_path):
    for name, proximal, cohorts in (("a", 0.0, "x"), ("b", 0.1, "y")):
        digest = {"partition": "same", "cohorts": cohorts}
        write_run(tmp_path / name, algorithm__proximal=proximal, summary={"digest": digest})
    assert make_result([tmp_path])["paired"][0]["digests_that_differ"] == ["cohorts"]


def test_first_value_is_the_default_baseline(tmp_path):
    write_run(tmp_path / "b", partition__alpha=10)
    write_run(tmp_path / "a", partition__alpha=2)
    result = make_result([tmp_path])
    assert (result["baseline"], result["paired"][0]["group"]) == ("partition.alpha=2", "partition.alpha=10")
    assert any("--baseline" in note for table in make_tables(result, True) for note in table.notes)


@pytest.mark.parametrize("baseline", [None, "new=a b, c=d"])
def test_value_of_a_baseline_can_have_spaces_and_commas(tmp_path, baseline):
    for value in ("a b, c=d", "e"):
        write_run(tmp_path / value[0], new=value)
    result = make_result([tmp_path], baseline)
    assert [(one["group"], one["baseline"]) for one in result["paired"]] == [("new=e", "new=a b, c=d")]


def test_skipped_runs_are_reported_with_the_reason(tmp_path):
    write_run(tmp_path / "good")
    write_run(tmp_path / "again")
    write_run(tmp_path / "other", tests=[0.9, 0.9, 0.1], data__root="elsewhere")
    write_run(tmp_path / "half", unfinished=True, schedule__rounds=5, seed=7)
    failed = write_run(tmp_path / "failed", unfinished=True, seed=8)
    (failed / "failure.json").write_text('{"reasons": ["no room"]}')
    write_run(tmp_path / "broken", seed=9)
    (tmp_path / "broken" / "summary.json").write_text("{")
    write_run(tmp_path / "short", seed=10, summary={"rounds": 9})
    write_run(tmp_path / "loss", seed=11, monitor__name="val/loss", monitor__mode="min")
    write_run(tmp_path / "invalid", seed=12, rounds={2: {"comm/up_bytes": "many"}})
    (tmp_path / "invalid" / "conf").mkdir()
    (tmp_path / "invalid" / "conf" / "config.yaml").write_text("a: 1")
    result = make_result([tmp_path])
    skipped = {one["folder"].rpartition("/")[2]: (one["what"], one["why"]) for one in result["left_out"]}
    assert {name: kind for name, (kind, _) in skipped.items()} == {
        "half": "unfinished",
        "failed": "failed",
        "broken": "unreadable",
        "short": "unreadable",
        "invalid": "unreadable",
        "loss": "other metric",
        "good": "again",
        "other": "again",
    }
    assert skipped["half"][1] == "3 of 5 rounds are done"
    assert skipped["failed"][1] == "no room"
    assert skipped["broken"][1].startswith("summary.json: ")
    assert skipped["short"][1] == "rounds.jsonl: has 3 rounds, but summary.json has 9"
    assert skipped["loss"][1] == "has no test/accuracy in the last round"
    assert skipped["good"][1] == f"seed 1 is already read from {tmp_path / 'again'}, with the same result"
    assert skipped["other"][1] == f"seed 1 is already read from {tmp_path / 'again'}, with a DIFFERENT RESULT"
    assert result["groups"][0]["failed_jobs"] == [str(failed)]
    assert [run["folder"] for run in result["runs"]] == [str(tmp_path / "again")]


@pytest.mark.parametrize(
    "broken",
    [
        {"summary": {"rounds": 0}, "journal": ""},
        {"journal": "{"},
        {"rounds": {1: {"round": 2}}},
        {"rounds": {1: {"failures": "x"}}},
        {"rounds": {1: {"failures": None}}},
        {"rounds": {1: {"time/round_s": None}}},
        {"summary": {"best": {"round": 1}}},
        {"summary": {"last": None}},
        {"summary": {"digest": "x"}},
        {"seed": "one"},
        {"monitor": None},
    ],
)
def test_folder_with_invalid_files_is_reported_as_unreadable(tmp_path, broken):
    write_run(tmp_path / "good")
    journal = broken.get("journal")
    write_run(tmp_path / "bad", **{key: value for key, value in broken.items() if key != "journal"})
    if journal is not None:
        (tmp_path / "bad" / "rounds.jsonl").write_text(journal)
    result = make_result([tmp_path])
    assert [(one["what"], one["folder"]) for one in result["left_out"]] == [("unreadable", str(tmp_path / "bad"))]


def test_value_that_is_not_finite_is_in_no_mean_and_is_reported(tmp_path):
    write_run(tmp_path / "a", seed=1)
    write_run(tmp_path / "b", seed=2, tests=[0.5, 0.9, None], rounds={3: {"test/accuracy": None}})
    result = make_result([tmp_path])
    assert (result["groups"][0]["last"]["values"], result["groups"][0]["no_number"]["last"]) == ({1: 0.6}, [2])
    assert result["curves"][0]["rounds"]["x"] == [1, 2]
    notes = [note for table in make_tables(result, True) for note in table.notes]
    assert any(
        "no finite value at the last round for seed 2; the mean is over the other seeds" in note for note in notes
    )


def test_failures_and_the_spread_over_clients_are_reported(tmp_path):
    failed = {"failures": [{"client": 1, "outcome": "deadline", "reason": "late"}] * 2, "lost": "too few"}
    spread = {
        f"own/accuracy_{name}": at / 10 for at, name in enumerate(("std", "lowest_tenth", "highest_tenth", "gini"))
    }
    write_run(tmp_path / "a", rounds={1: failed, 2: {**spread, "time/simulated_s": 4.0}})
    one = make_result([tmp_path])["groups"][0]
    assert (one["failures"], one["lost_rounds"]) == ({"deadline": 2}, 1)
    assert [one["spread"][name]["mean"] for name in ("std", "gini")] == [0.0, 0.3]
    report.write_report([tmp_path], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| 2 deadline | 1 | 0 |" in text
    assert "## spread over clients" in text


def test_simulated_seconds_are_summed_over_rounds(tmp_path):
    write_run(tmp_path / "a", rounds={i: {"time/simulated_s": 2.0} for i in (1, 2, 3)})
    result = make_result([tmp_path], target=0.7)["groups"][0]
    assert (result["simulated_s"]["mean"], result["target"]["simulated_s"]["mean"]) == (6.0, 4.0)


def test_lower_loss_is_better(tmp_path):
    for seed in (1, 2):
        keys = {"monitor__name": "val_loss", "monitor__mode": "min", "seed": seed}
        write_run(tmp_path / f"{seed}", tests=[2.0, 1.0, 1.5], **keys)
    result = make_result([tmp_path], target=1.2)
    assert (result["metric"], result["mode"], result["groups"][0]["target"]["rounds"]["mean"]) == (
        "test_loss",
        "min",
        2,
    )


def test_metric_of_client_test_sets_is_the_default_without_a_server_test_set(tmp_path):
    write_run(tmp_path / "a", tests=[None] * 3, rounds={i: {"own/accuracy": i / 10} for i in (1, 2, 3)})
    result = make_result([tmp_path])
    assert (result["metric"], result["mode"], result["groups"][0]["last"]["mean"]) == ("own/accuracy", "max", 0.3)


def test_user_can_choose_another_metric(tmp_path):
    write_run(tmp_path / "a", rounds={i: {"test/f1": i / 4} for i in (1, 2, 3)})
    write_run(tmp_path / "b", seed=2, monitor__name="val/loss", monitor__mode="min", rounds={3: {"test/f1": 0.25}})
    result = make_result([tmp_path], metric="test/f1", target=0.5, mode="max")
    assert (result["mode"], len(result["runs"]), result["groups"][0]["target"]["rounds"]["mean"]) == ("max", 2, 2)


ERRORS = [
    ({"paths": ["nowhere"]}, "PATH", "does not exist"),
    ({"paths": ["*/nothing*"]}, "PATH", "does not exist"),
    ({"paths": ["empty"]}, "PATH", "contains no run"),
    ({"paths": ["half"]}, "PATH", "is skipped: unfinished"),
    ({"metric": "test/acuracy"}, "--metric", "is in no run's records"),
    ({"target": float("nan")}, "--target", "must be a finite number"),
    (
        {"target": 0.5, "metric": "test/f1"},
        "--target",
        "needs the mode of test/f1: are larger or smaller values better?",
    ),
    (
        {"paths": ["runs/a"], "mode": "min"},
        "PATH",
        "is skipped: other metric: has monitor.mode=max, but the report uses mode min",
    ),
    ({"baseline": "algorithm=fedavh"}, "--baseline", "must be one of algorithm=fedavg, algorithm=fedprox"),
    ({"baseline": "seed=1"}, "--baseline", "must be one of algorithm=fedavg, algorithm=fedprox"),
    ({"baseline": ""}, "--baseline", "must be one of algorithm=fedavg, algorithm=fedprox"),
    ({"paths": ["runs/a"], "baseline": "algorithm=fedavg"}, "--baseline", "there is only one group"),
]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for name, proximal, choice in (("a", 0.0, "fedavg"), ("b", 0.1, "fedprox")):
        extra = {3: {"test/f1": 0.5}}
        write_run(folder / "runs" / name, choices={"algorithm": choice}, algorithm__proximal=proximal, rounds=extra)
    write_run(folder / "half", unfinished=True)
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(("arguments", "key", "problem"), ERRORS)
def test_invalid_arguments_are_reported(two, monkeypatch, arguments, key, problem):
    monkeypatch.chdir(two)
    with pytest.raises(ConfigErrors) as caught:
        make_result(**{"paths": ["runs"], **arguments})
    assert [error.key for error in caught.value.errors] == [key]
    assert problem in caught.value.errors[0].problem


def test_path_is_a_run_a_sweep_or_a_pattern_and_each_run_counts_once(two, monkeypatch):
    monkeypatch.chdir(two)
    result = make_result(["runs", "runs/a", "run*/*", two / "runs" / "b"])
    assert (len(result["runs"]), result["left_out"]) == (2, [])


def test_command_with_an_invalid_argument_exits_with_status_2_and_creates_no_folder(two, capsys):
    with pytest.raises(SystemExit) as stop:
        report.main([str(two / "runs"), "--baseline", "algorithm=fedavh", "--out", str(two / "out")])
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("fedlit: 1 error; nothing was reported\n  --baseline=algorithm=fedavh\n")
    assert "did you mean algorithm=fedavg?" in output.err
    assert not (two / "out").exists()


def test_folder_that_is_not_writable_is_an_error(two):
    with pytest.raises(ConfigErrors, match=r"--out=.*is not writable"):
        report.write_report([two / "runs"], two / "runs" / "a" / "config.yaml")


def test_report_on_a_whole_sweep_is_written_into_the_folder_of_the_sweep(two):
    runs = two / "runs"
    assert report.sweep_folder([runs]) == runs
    assert report.sweep_folder([runs / "a"]) is None
    assert report.sweep_folder([runs / "a", runs / "b"]) is None
    (runs / "multirun.yaml").touch()
    assert report.sweep_folder([runs / "a", runs / "b"]) == runs
    assert report.sweep_folder([*runs.iterdir()]) == runs
    assert report.sweep_folder([runs / "a"]) is None  # a report on a part does not replace the report on the sweep


def test_files_beside_runs_are_ignored_and_files_alone_are_errors(two):
    (two / "runs" / "report.md").touch()
    assert len(make_result([*(two / "runs").iterdir()])["runs"]) == len(make_result([two / "runs"])["runs"])
    with pytest.raises(ConfigErrors, match=r"report\.md: contains no run"):
        make_result([two / "runs" / "report.md"])


@pytest.mark.parametrize("width", [78, 79, 80, 81, 82, 120])
def test_table_wider_than_the_terminal_loses_no_text(width):
    cells = ["algorithm=fedadam", "0.11 ± 0.13", "4 ± 0", "4.7 ± 1.1 MB", "10 ± 14 s", "0.99 ± 0.35 s"]
    table = ReportTable("costs", ["group", "area", "rounds", "bytes", "simulated", "wall"], [cells, cells])
    console = Console(width=width, file=io.StringIO())
    console.print(_make_table(table, width))
    printed = console.file.getvalue().split()
    assert all(printed.count(name) == 1 for name in table.columns)
    words = [word for cell in cells for word in cell.split()]
    assert {word: printed.count(word) for word in words} == {word: 2 * words.count(word) for word in words}
    assert (len(console.file.getvalue().splitlines()) == 7) == (width >= 81)


def test_headline_counts_runs_groups_and_seeds(tmp_path):
    write_run(tmp_path / "a")
    assert headline(make_result([tmp_path])) == "1 run in 1 group, seed 1"
    write_run(tmp_path / "b", seed=2)
    write_run(tmp_path / "c", schedule__rounds=4)
    assert headline(make_result([tmp_path])) == "3 runs in 2 groups, seeds 1, 2"


def test_figures_name_the_target_and_keep_points_away_from_the_edge(sweep):
    assert "target 0.72" in draw_curves(sweep[1]).get_suptitle()
    axes = draw_differences(sweep[1]).axes[0]
    assert axes.get_ylim() == (len(axes.get_yticks()) - 0.5, -0.5)


def test_text_from_a_folder_is_neither_imported_nor_read_as_markup(tmp_path, capsys):
    write_run(tmp_path / "a", choices={"algorithm": "[red]x[/red]|"})
    write_run(
        tmp_path / "b", choices={"algorithm": "fedprox"}, algorithm__proximal=1.0, data___target_="not.there.at_all"
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.yaml").write_text("a: !!python/object/apply:os.system ['exit 3']")
    (tmp_path / "c" / "rounds.jsonl").touch()
    report.write_report([tmp_path], tmp_path / "out")
    assert "algorithm=[red]x[/red]\\|" in (tmp_path / "out" / "report.md").read_text()
    report.print_report(make_result([tmp_path]), None, report.PlainConsole(width=80))
    assert capsys.readouterr().out.count("algorithm=[red]x[/red]|") >= 2
    assert "could not determine a constructor" in str(make_result([tmp_path])["left_out"])


@pytest.mark.slow
def test_reports_import_no_torch_lightning_or_hydra():
    names = ["report", "compare", "render.figures", "render.markdown"]
    imports = [*(f"fedlit.reports.{name}" for name in names), "fedlit.runs.folder", "fedlit.runs.keys"]
    code = f"import {', '.join(imports)}, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fedlit.reports.render.figures" in modules
    assert not {"torch", "lightning", "hydra", "omegaconf"} & set(modules)


@pytest.mark.parametrize(
    ("mean", "half", "unit", "text"),
    [
        (0.96312, 0.00631, "", "0.9631 ± 0.0063"),
        (0.5, None, "", "0.5000"),
        (20.0, 0.0, "", "20 ± 0"),
        (12.34, 4.56, "", "12.3 ± 4.6"),
        (25.47e6, 2.1e6, "B", "25.5 ± 2.1 MB"),
        (999.0, None, "B", "999 B"),
        (1234.5, 40.0, "s", "1,234 ± 40 s"),
        (2.8949e-12, None, "", "2.895e-12"),
        (2.8949e-12, 3.1e-13, "", "2.895e-12 ± 3.100e-13"),
        (2.0e-9, 0.25, "", "0.00 ± 0.25"),
        (0.5, 1e-9, "", "0.500000 ± 0.000000"),
        (2.8948581543650823e25, None, "", "2.895e+25"),
        (0.0, None, "", "0"),
    ],
)
def test_interval_determines_the_decimal_places_of_a_number(mean, half, unit, text):
    assert format_cell({"mean": mean, "half": half}, False, unit=unit) == text


@pytest.mark.slow
def test_single_group_named_as_baseline_is_the_baseline_of_all_groups(tmp_path):
    for seed in (1, 2):
        for name, rate in (("fedavg", 0.1), ("fedprox", 0.1), ("fedadam", 0.5)):
            keys = {"algorithm__proximal": 0.01 * len(name), "partition__alpha": rate, "seed": seed}
            write_run(
                tmp_path / f"{name}-{seed}", [0.5, 0.6 + rate / 10 + seed / 100], choices={"algorithm": name}, **keys
            )
    report.write_report([tmp_path], tmp_path, "algorithm=fedavg", None)
    result = json.loads((tmp_path / "report.json").read_text())
    assert [one["best"]["mean"] for one in result["paired"]] == pytest.approx([0.04, 0.0])
    assert result["not_compared"] == []


@pytest.mark.parametrize("text", ["start/${seed}.ckpt", "start/$\\{seed\\}.ckpt", "'start/${seed}.ckpt'"])
def test_value_that_an_override_makes_from_the_seed_does_not_separate_groups(tmp_path, text):
    for seed in (41, 42):
        run = write_run(tmp_path / f"{seed}", seed=seed, new=f"start/{seed}.ckpt")
        (run / "command.json").write_text(json.dumps({"overrides": [f"+new={text}", f"seed={seed}"], "flags": []}))
    write_run(tmp_path / "other", seed=43, new="start/43.ckpt")  # without its command
    settings = [group["settings"] for group in make_result([tmp_path])["groups"]]
    assert settings == [{"new": "start/${seed}.ckpt"}, {"new": "start/43.ckpt"}]


def test_reference_to_the_seed_that_is_not_the_value_is_ignored(tmp_path):
    for seed in (41, 42):
        run = write_run(tmp_path / f"{seed}", seed=seed, new=f"other/{seed}.ckpt")
        (run / "command.json").write_text(json.dumps({"overrides": ["new=start/${seed}.ckpt"], "flags": []}))
    assert len(make_result([tmp_path])["groups"]) == 2


def test_a_run_whose_monitored_metric_was_never_finite_has_no_best_round(tmp_path):
    write_run(tmp_path / "a", [0.5, 0.7], seed=1)
    write_run(tmp_path / "b", [0.4, 0.6], vals=[math.nan, math.nan], seed=2)
    result = make_result([tmp_path], plots=["rounds:test/accuracy"])
    (group,) = result["groups"]
    assert [run["best_round"] for run in result["runs"]] == [2, None]
    assert (group["best"]["values"], group["last"]["values"]) == ({1: 0.7}, {1: 0.7, 2: 0.6})
    assert group["no_number"] == {"best": [2], "last": []}
    assert result["trade_offs"][0]["points"][0]["y"]["values"] == {1: 0.7}


def test_without_a_validation_split_the_last_round_is_the_best(tmp_path):
    last = {"round": 2, "metrics": {"test/accuracy": 0.7}}
    write_run(tmp_path / "a", [0.5, 0.7], summary={"monitor": None, "best": last, "last": last})
    (group,) = make_result([tmp_path])["groups"]
    assert (group["best"]["mean"], group["no_number"]["best"]) == (0.7, [])
