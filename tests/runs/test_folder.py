"""Readers of a run's folder return what a run wrote, and name the file that is invalid."""

import json
import math

import pytest
from written_runs import write_run

from fedlit.core.errors import ConfigErrors
from fedlit.runs import folder as run_folder
from fedlit.runs.folder import InvalidRun, load_run, read_records, to_float
from fedlit.runs.layout import COMMAND, CONFIG, FAILURE, HYDRA, JOURNAL, SUMMARY


def test_finished_run_has_the_content_of_its_files(tmp_path):
    run = load_run(write_run(tmp_path / "a", tests=(0.5, None), seed=3, summary={"seconds": 2.0}))
    assert (run.folder, run.seed, run.summary["seconds"]) == (tmp_path / "a", 3, 2.0)
    assert (run.config["partition"]["alpha"], run.flat_config["partition.alpha"]) == (0.1, 0.1)
    assert [record["round"] for record in run.records] == [1, 2]
    first, second = run.metric_values("test/accuracy")
    assert first == 0.5
    assert math.isnan(second)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        (CONFIG, None, "file not found"),
        (CONFIG, "- 1", "is not a configuration"),
        (CONFIG, "a: &a {b: *a}", "recursion"),
        (CONFIG, "a: !!python/object/apply:os.system ['exit 3']", "could not determine a constructor"),
        (SUMMARY, None, "file not found"),
        (SUMMARY, "[]", "is not a JSON object"),
        (SUMMARY, "{}", "has no 'best'"),
        (JOURNAL, None, "file not found"),
        (JOURNAL, "", "has 0 rounds, but summary.json has 3"),
        (JOURNAL, '{"round": 2}\n', "must have the rounds 1, 2, 3, ... in this order"),
        (JOURNAL, "1\n", "subscriptable"),
        (JOURNAL, '{"round": 1}\n', "has no 'cohort'"),
        (JOURNAL, '{"round": 1, "cohort": ["../client"]}\n', "has a client that is not a number"),
    ],
)
def test_invalid_file_is_named_with_the_problem(tmp_path, file, content, problem):
    folder = write_run(tmp_path / "a")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(InvalidRun) as caught:
        load_run(folder)
    assert caught.value.file == file
    assert problem in caught.value.problem
    assert str(caught.value) == f"{file}: {caught.value.problem}"


def test_truncated_record_is_not_read(tmp_path):
    folder = write_run(tmp_path / "a")
    with (folder / JOURNAL).open("a") as file:
        file.write('{"round": 4, "coh')
    records, is_truncated = read_records(folder)
    assert (len(records), is_truncated) == (3, True)


def test_folder_with_a_configuration_and_another_file_of_a_run_is_a_run(tmp_path):
    folder = write_run(tmp_path / "a", unfinished=True)
    assert (run_folder.is_run(folder), run_folder.is_finished(folder)) == (True, False)
    (folder / JOURNAL).unlink()
    assert not run_folder.is_run(folder)
    assert not run_folder.is_run(folder / CONFIG)
    assert run_folder.has_run_files({FAILURE, HYDRA})
    assert not run_folder.has_run_files({JOURNAL})


def test_command_and_failure_are_read(tmp_path):
    (tmp_path / COMMAND).write_text(json.dumps({"overrides": ["seed=1"], "flags": []}))
    (tmp_path / FAILURE).write_text(json.dumps({"reasons": ["disk full", 3]}))
    assert run_folder.read_command(tmp_path)["overrides"] == ["seed=1"]
    assert run_folder.read_failure(tmp_path) == ["disk full", "3"]
    (tmp_path / FAILURE).write_text("{}")
    with pytest.raises(InvalidRun, match=r"failure\.json: has no 'reasons'"):
        run_folder.read_failure(tmp_path)


def test_missing_file_is_an_error_of_the_argument(tmp_path):
    folder = write_run(tmp_path / "a", unfinished=True)
    run_folder.require_files(folder, [CONFIG, JOURNAL], "run", "name the folder of a run")
    with pytest.raises(ConfigErrors) as caught:
        run_folder.require_files(folder, [CONFIG, SUMMARY], "run", "name the folder of a finished run")
    (error,) = caught.value.errors
    assert (error.key, error.value, error.problem) == ("run", folder, "has no summary.json")
    assert error.hint == "name the folder of a finished run"


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf"), 10**400, [1.0]])
def test_a_value_that_is_no_finite_number_is_nan(value):
    assert math.isnan(to_float(value))


def test_a_finite_number_is_a_float():
    assert [to_float(value) for value in (1, -0.5, 10**30)] == [1.0, -0.5, 1e30]
