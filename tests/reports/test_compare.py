"""Differences between two runs on the disk."""

import pytest
from written_runs import write_run

from fedlit.core.errors import ConfigErrors
from fedlit.reports import compare


def test_identical_runs_have_no_differences(tmp_path):
    differences = compare.compare_runs(write_run(tmp_path / "a"), write_run(tmp_path / "b"))
    assert (differences["configuration"], differences["common"], differences["state"]) == ({}, 3, None)
    assert "states: identical in all 3 common rounds" in compare.difference_lines(differences)


def test_differences_are_reported_with_their_first_round(tmp_path):
    a = write_run(tmp_path / "a", tests=[0.5, 0.6, 0.7])
    failed = {"failures": [{"client": 1, "outcome": "planned", "reason": "x"}]}
    b = write_run(tmp_path / "b", tests=[0.5, 0.8], unfinished=True, partition__alpha=2, new=None, rounds={1: failed})
    differences = compare.compare_runs(a, b)
    assert differences["configuration"] == {"partition.alpha": ("0.1", "2"), "new": ("-", "null")}
    assert (differences["rounds"], differences["common"]) == ([3, 2], 2)
    assert (differences["state"], differences["cohort"], differences["failures"]) == (2, None, 1)
    assert compare.difference_lines(differences) == [
        "RUN_A has 3 rounds, RUN_B has 2",
        "states: the first difference is in round 2",
        "cohorts: identical in all 2 common rounds",
        "failures: the first difference is in round 1",
    ]


def test_versions_and_digests_that_differ_are_reported(tmp_path):
    a = write_run(tmp_path / "a", summary={"versions": {"torch": "2.14"}, "digest": {"init": "1", "new": "2"}})
    b = write_run(tmp_path / "b", summary={"versions": {"torch": "2.13"}, "digest": {"init": "1"}})
    assert compare.compare_runs(a, b)["summary"] == {"versions.torch": ("2.14", "2.13")}


def test_digests_of_whole_runs_are_explained_if_one_run_is_longer(tmp_path):
    a = write_run(tmp_path / "a", tests=[0.5, 0.6, 0.7], summary={"digest": {"cohorts": "1", "batches": "2"}})

    def lines(tests, digest):
        b = write_run(tmp_path / f"b{len([*tmp_path.iterdir()])}", tests=tests, summary={"digest": digest})
        differences = compare.compare_runs(a, b)
        return [line for line in compare.difference_lines(differences) if "digest" in line]

    assert lines([0.5, 0.6], {"cohorts": "3", "batches": "4"}) == [
        "digest.cohorts and digest.batches cover all rounds of a run, so they differ between runs of 3 and 2 rounds"
    ]
    assert lines([0.5, 0.6], {"cohorts": "3", "batches": "2"}) == [
        "digest.cohorts covers all rounds of a run, so it differs between runs of 3 and 2 rounds"
    ]
    assert lines([0.5, 0.6, 0.7], {"cohorts": "3", "batches": "4"}) == []  # other cohorts, in as many rounds
    assert lines([0.5, 0.6], {"cohorts": "1", "batches": "2"}) == []


def test_one_round_is_singular(tmp_path):
    one, two = write_run(tmp_path / "one", tests=[0.5]), write_run(tmp_path / "two", tests=[0.5, 0.6])
    assert compare.difference_lines(compare.compare_runs(one, two))[:2] == [
        "RUN_A has 1 round, RUN_B has 2",
        "states: identical in the only common round",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"processor": {"name": "B", "instruction_set": "AVX2"}}, "the processor differs, and results are"),
        ({"versions": {"torch": "2.13"}}, "the versions of libraries differ, and results are"),
        (
            {"processor": {"name": "B"}, "versions": {"torch": "2.13"}},
            "the processor and the versions of libraries differ, and results are",
        ),
        ({"processor": {"name": "A", "instruction_set": "AVX512", "MKL_CBWR": "AVX2"}}, "the processor differs, and"),
        ({}, None),
    ],
)
def test_another_processor_or_library_is_named_where_states_differ(tmp_path, changes, line):
    summary = {"processor": {"name": "A", "instruction_set": "AVX512"}, "versions": {"torch": "2.14"}}
    a = write_run(tmp_path / "a", tests=[0.5, 0.6, 0.7], summary=summary)
    for tests, has_line in (([0.5, 0.8, 0.7], line is not None), ([0.5, 0.6, 0.7], False)):
        b = write_run(tmp_path / f"b{tests[1]}", tests=tests, summary={**summary, **changes})
        differences = compare.compare_runs(a, b)
        expected = {f"{part}.{key}" for part in changes for key, _ in changes[part].items() ^ summary[part].items()}
        assert differences["summary"].keys() == expected
        last = compare.difference_lines(differences)[-1]
        assert last.startswith(line or "failures: ") if has_line else last.startswith("failures: ")


def test_a_run_of_a_version_without_processors_has_no_other_processor(tmp_path):
    a = write_run(tmp_path / "a", summary={"processor": {"name": "A", "MKL_CBWR": "AVX2"}})
    assert compare.compare_runs(a, write_run(tmp_path / "b"))["summary"] == {}


def test_truncated_line_is_ignored_and_reported(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", unfinished=True)
    with (b / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4, "coh')
    differences = compare.compare_runs(a, b)
    assert (differences["common"], differences["truncated"]) == (3, ["RUN_B"])
    assert "the last line of RUN_B's rounds.jsonl is truncated and ignored" in compare.difference_lines(differences)


def test_runs_without_a_common_round_are_reported(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", unfinished=True)
    (b / "rounds.jsonl").write_text("")
    assert compare.difference_lines(compare.compare_runs(a, b))[-1] == "the runs have no common round"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.yaml", None, "config.yaml: file not found"),
        ("config.yaml", "- 1", "config.yaml: is not a configuration"),
        ("rounds.jsonl", None, "rounds.jsonl: file not found"),
        ("rounds.jsonl", '{"round": 2}\n', "rounds.jsonl: must have the rounds 1, 2, 3, ... in this order"),
        ("rounds.jsonl", "x\n", "rounds.jsonl: "),
        ("summary.json", "[", "summary.json: "),
    ],
)
def test_folder_that_is_no_runs_folder_is_an_error(tmp_path, name, content, problem):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (b / name).unlink()
    if content is not None:
        (b / name).write_text(content)
    with pytest.raises(ConfigErrors) as caught:
        compare.compare_runs(a, b)
    (error,) = caught.value.errors
    assert (error.key, error.value) == ("RUN_B", b)
    assert error.problem.startswith(problem)


def test_command_prints_both_values_and_exits_with_status_2_for_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=2, model___target_="[bold]own")
    compare.main([str(a), str(b)])
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    for text in ("seed", "[bold]own", "states: the first difference is in round 1"):
        assert text in output
    with pytest.raises(SystemExit) as stop:
        compare.main([str(a), str(tmp_path / "nowhere")])
    assert stop.value.code == 2
    assert "fedlit: 1 error; nothing was compared" in capsys.readouterr().err
