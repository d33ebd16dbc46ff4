"""The end of a run whose rounds are lost."""

import subprocess
import sys

import pytest

from fedlit.core.errors import LostRounds
from fedlit.core.messages import ClientFailure
from fedlit.experiment.lost_rounds import explain_lost_rounds
from fedlit.experiment.summary import RunTracker
from fedlit.runs.record import RoundRecord
from fedlit.server.monitor import Monitor

METRICS = {"comm/up_bytes": 0, "comm/down_bytes": 0}
NAN = "4 of 4 numbers are NaN or infinite"


def track(tracker, number, failures, lost="0 updates arrived, and schedule.quorum=1"):
    tracker.add(RoundRecord(number=number, cohort=(0, 1, 2), metrics=METRICS, failures=failures, lost=lost))


def end(tracker, error=None):
    with explain_lost_rounds(tracker):
        if error is not None:
            raise error


def test_a_run_in_which_every_round_is_lost_has_failed_and_says_what_happened_to_whom():
    tracker = RunTracker(Monitor())
    track(tracker, 1, (ClientFailure(0, "exception", "KeyError"),))
    track(tracker, 2, tuple(ClientFailure(client, "not_finite", NAN) for client in (2, 0, 1)))
    with pytest.raises(LostRounds) as error:
        end(tracker)
    assert str(error.value) == (
        "all 2 rounds were lost. Round 2: 0 updates arrived, and schedule.quorum=1; clients 2, 0, 1 are left out, "
        f"not_finite: {NAN}"
    )
    assert "a lower learning rate" in error.value.remedy
    assert "gradient clipping" in error.value.remedy


def test_too_many_lost_rounds_are_explained_and_can_be_resumed_if_the_updates_are_finite():
    tracker = RunTracker(Monitor())
    track(tracker, 1, (), lost=None)
    track(tracker, 2, (ClientFailure(0, "exception", "KeyError"), ClientFailure(1, "not_finite", NAN)))
    with pytest.raises(LostRounds) as error:
        end(tracker, LostRounds("1 rounds in a row were lost"))
    assert str(error.value).startswith("1 rounds in a row were lost. Round 2: 0 updates arrived")
    assert f"client 0 is left out, exception: KeyError; client 1 is left out, not_finite: {NAN}" in str(error.value)
    assert error.value.remedy == ""


@pytest.mark.parametrize("lost", [None, "no client was sampled"])
def test_a_run_with_one_round_that_trained_has_not_failed(lost):
    tracker = RunTracker(Monitor())
    track(tracker, 1, (), lost=None)
    track(tracker, 2, (), lost=lost)
    end(tracker)


@pytest.mark.slow
def test_a_rate_at_which_every_round_is_lost_ends_with_status_1_and_the_usual_remedy(tmp_path):
    overrides = ["model.optimizer.lr=1e10", "schedule.rounds=2", "executor=inline", "observers=none"]
    end = subprocess.run(
        [sys.executable, "-m", "fedlit.train", *overrides],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert end.returncode == 1
    assert "fedlit: all 2 rounds were lost. Round 2: " in end.stderr
    assert "a lower learning rate (model.optimizer.lr) or gradient clipping" in end.stderr
    assert "resume" not in end.stderr
    (folder,) = tmp_path.glob("outputs/runs/*/*")
    shown = f"fedlit: training in {folder.relative_to(tmp_path)}"
    assert end.stdout.splitlines()[-1] == shown  # also without an observer
    assert not (folder / "summary.json").exists()
