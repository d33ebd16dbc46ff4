"""What differs between two runs on the disk."""

import pytest
from test_report import leave

from fedlit.core.errors import ConfigErrors
from fedlit.reports import compare


def test_the_same_run_twice(tmp_path):
    found = compare.compare_runs(leave(tmp_path / "a"), leave(tmp_path / "b"))
    assert (found["configuration"], found["common"], found["state"]) == ({}, 3, None)
    assert "states: all 3 common rounds are the same" in compare.difference_lines(found)


def test_what_differs_and_since_when(tmp_path):
    a = leave(tmp_path / "a", tests=[0.5, 0.6, 0.7])
    failed = {"failures": [{"client": 1, "outcome": "planned", "reason": "x"}]}
    b = leave(tmp_path / "b", tests=[0.5, 0.8], unfinished=True, partition__alpha=2, new=None, rounds={1: failed})
    found = compare.compare_runs(a, b)
    assert found["configuration"] == {"partition.alpha": ("0.1", "2"), "new": ("-", "null")}
    assert (found["rounds"], found["common"]) == ([3, 2], 2)
    assert (found["state"], found["cohort"], found["failures"]) == (2, None, 1)
    assert compare.difference_lines(found) == [
        "RUN_A has 3 rounds, RUN_B 2",
        "states: round 2 is the first that differs",
        "cohorts: all 2 common rounds are the same",
        "failures: round 1 is the first that differs",
    ]


def test_versions_and_digests_that_differ_are_shown(tmp_path):
    a = leave(tmp_path / "a", summary={"versions": {"torch": "2.14"}, "digest": {"init": "1", "new": "2"}})
    b = leave(tmp_path / "b", summary={"versions": {"torch": "2.13"}, "digest": {"init": "1"}})
    assert compare.compare_runs(a, b)["summary"] == {"versions.torch": ("2.14", "2.13")}


def test_a_line_that_was_cut_off_is_not_read_and_said(tmp_path):
    a, b = leave(tmp_path / "a"), leave(tmp_path / "b", unfinished=True)
    with (b / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4, "coh')
    found = compare.compare_runs(a, b)
    assert (found["common"], found["cut"]) == (3, ["RUN_B"])
    assert "the last line of RUN_B's rounds.jsonl was cut off and is not read" in compare.difference_lines(found)


def test_runs_without_a_common_round(tmp_path):
    a, b = leave(tmp_path / "a"), leave(tmp_path / "b", unfinished=True)
    (b / "rounds.jsonl").write_text("")
    assert compare.difference_lines(compare.compare_runs(a, b))[-1] == "no round is in both"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("config.yaml", None, "config.yaml: is not there"),
        ("config.yaml", "- 1", "config.yaml: is not a configuration"),
        ("rounds.jsonl", None, "rounds.jsonl: is not there"),
        ("rounds.jsonl", '{"round": 2}\n', "rounds.jsonl: is not rounds 1, 2, 3"),
        ("rounds.jsonl", "x\n", "rounds.jsonl: "),
        ("summary.json", "[", "summary.json: "),
    ],
)
def test_a_folder_that_is_no_runs_is_a_mistake(tmp_path, name, content, why):
    a, b = leave(tmp_path / "a"), leave(tmp_path / "b")
    (b / name).unlink()
    if content is not None:
        (b / name).write_text(content)
    with pytest.raises(ConfigErrors) as caught:
        compare.compare_runs(a, b)
    (mistake,) = caught.value.errors
    assert (mistake.key, mistake.value) == ("RUN_B", b)
    assert mistake.problem.startswith(why)


def test_the_command_shows_both_values_and_ends_with_status_2_for_a_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    a, b = leave(tmp_path / "a"), leave(tmp_path / "b", seed=2, model___target_="[bold]own")
    compare.main([str(a), str(b)])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    for text in ("seed", "[bold]own", "states: round 1 is the first that differs"):
        assert text in said
    with pytest.raises(SystemExit) as ended:
        compare.main([str(a), str(tmp_path / "nowhere")])
    assert ended.value.code == 2
    assert "fedlit: 1 mistake; nothing was compared" in capsys.readouterr().err
