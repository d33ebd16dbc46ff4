"""Labels of groups: short, unique, and of the settings that matter."""

import itertools

import pytest
from written_runs import write_run

from fedlit.reports.labels import MAX_LABEL, hashable, make_labels
from fedlit.reports.render.tables import make_tables
from fedlit.reports.result import make_result


def test_few_settings_are_all_in_the_label():
    settings = [{"algorithm": name, "partition.alpha": "0.1", "seeds": "-"} for name in ("fedavg", "fedprox")]
    assert make_labels(settings) == [
        "algorithm=fedavg partition.alpha=0.1 seeds=-",
        "algorithm=fedprox partition.alpha=0.1 seeds=-",
    ]


def test_of_many_settings_the_label_has_the_unusual_values():
    usual = {"algorithm": "fedavg", "algorithm.lr": "1", "data": "digits", "data.root": "here", "partition": "iid"}
    settings = [
        usual,
        usual | {"algorithm": "fedprox"},
        usual | {"algorithm": "fedprox", "algorithm.lr": "2"},
        usual | {"data": "cifar10", "data.root": "there"},
        usual | {"algorithm.lr": "-"},
    ]
    assert make_labels(settings) == [
        "algorithm=fedavg",
        "algorithm=fedprox algorithm.lr=1",
        "algorithm=fedprox algorithm.lr=2",
        "data=cifar10",
        "algorithm.lr=-",
    ]


def test_group_with_only_usual_values_has_a_label():
    usual = {f"a.{i}": "0" for i in range(6)}
    labels = make_labels([usual, usual | {"a.1": "1"}, usual | {"a.2": "1"}])
    assert labels == ["a.0=0", "a.1=1", "a.2=1"]


def test_labels_of_many_mixed_groups_are_unique_and_short():
    keys = [
        f"{group}.{key}" for group in ("data", "model", "partition", "trainer") for key in ("first", "second", "third")
    ]
    values = itertools.product("abc", "xyz", ["a rather long value"] * 2, range(3))
    settings = [
        {"algorithm": a, "data": b} | {key: f"{c}{(i * 7 + j * d) % 5}" for j, key in enumerate(keys)}
        for i, (a, b, c, d) in enumerate(values)
    ]
    labels = make_labels(settings)
    assert len({*labels}) == len(labels) == 54
    assert max(map(len, labels)) <= MAX_LABEL + 5
    assert any(label.endswith(" more") for label in labels)


def test_long_numbers_are_rounded_as_long_as_they_differ():
    assert make_labels([{"lr": "0.005897025915360095"}, {"lr": "0.1"}]) == ["lr=0.005897", "lr=0.1"]
    same = [{"lr": "0.005897025915360095"}, {"lr": "0.005897025915360096"}]
    assert make_labels(same) == ["lr=0.005897025915360095", "lr=0.005897025915360096"]


def test_table_says_that_labels_are_shortened(tmp_path):
    changes = {
        "partition__alpha": 2,
        "data__val_fraction": 0.2,
        "executor__threads": 2,
        "schedule__rounds": 4,
        "faults__on_error": "x",
    }
    write_run(tmp_path / "usual")
    for key, value in changes.items():
        write_run(tmp_path / key, **{key: value})
    result = make_result([tmp_path])
    assert "partition.alpha=2" in [group["group"] for group in result["groups"]]
    assert all(len(group["settings"]) == 5 for group in result["groups"])
    notes = [note for table in make_tables(result, True) for note in table.notes]
    assert "Labels leave out the settings that most groups have in common; report.csv has all of them." in notes


@pytest.fixture
def search(tmp_path):
    for i, (val, test) in enumerate(((0.3, 0.9), (0.8, 0.6), (0.5, 0.7))):
        keys = {"choices": {"algorithm": "fedavg"}, "direction": "maximize", "algorithm__proximal": i / 10}
        write_run(tmp_path / f"{i}", [0.1, test], [0.1, val], **keys)
    return tmp_path


def test_search_ranks_its_trials_by_the_validation_metric_and_has_no_differences(search):
    result = make_result([search])
    assert (result["baseline"], result["paired"]) == (None, [])
    tables = [*make_tables(result, False)]
    assert [table.title for table in tables] == [
        "search for the maximum of val/accuracy, 3 trials, best first",
        "whole runs",
    ]
    assert tables[0].rows == [
        ["algorithm.proximal=0.1", "0.8000", "0.6000", "0.6000"],
        ["algorithm.proximal=0.2", "0.5000", "0.7000", "0.7000"],
        ["algorithm.proximal=0.0", "0.3000", "0.9000", "0.9000"],
    ]


def test_baseline_that_the_user_names_is_compared_with_trials(search):
    result = make_result([search], "algorithm.proximal=0.0")
    assert [one["group"] for one in result["paired"]] == ["algorithm.proximal=0.1", "algorithm.proximal=0.2"]


def test_search_for_a_minimum_has_the_smallest_first(tmp_path):
    for i, val in enumerate((0.5, 0.2)):
        keys = {"monitor__name": "val/loss", "monitor__mode": "min", "algorithm__proximal": i / 10}
        write_run(tmp_path / f"{i}", [0.3], [val], choices={}, direction="minimize", **keys)
    search = make_result([tmp_path])["search"]
    assert [trial["objective"]["mean"] for trial in search["ranking"]] == [0.2, 0.5]


def test_runs_that_are_no_trials_make_no_search(search):
    write_run(search / "more", choices={"algorithm": "fedavg"}, algorithm__proximal=0.5)
    assert make_result([search])["search"] is None


def test_nan_and_whole_floats_are_equal_as_values_of_settings():
    nan = float("nan")
    assert (hashable(nan) == hashable(-nan), hashable(1) == hashable(1.0)) == (True, True)
    assert hashable(True) != hashable(1)
