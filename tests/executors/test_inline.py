"""The executor `Inline`, and the properties of every executor."""

import sys

import pytest
import torch
from plain import Plain, plain_state

from fedlit.core.messages import TrainJob
from fedlit.executors import Auto, Executor, Inline, Processes


def test_no_python_frame_stands_between_the_loop_and_the_worker():
    callers = []

    class RecordsCallers(Plain):
        def __call__(self, job, state):
            callers.append(sys._getframe(1))
            return super().__call__(job, state)

    state = plain_state(2.0)
    with Inline().open(RecordsCallers(torch.arange(3)), 1) as execute:
        totals = [partial.total.item() for partial in execute([TrainJob(0, 0, (3,)), TrainJob(0, 1, (4,))], state)]
    assert totals == [6.0, 8.0]
    assert {frame.f_code.co_filename for frame in callers} == {__file__}


@pytest.mark.parametrize(
    ("executor", "has_worker_processes", "timeout_s"),
    [
        (Inline(), False, None),
        (Processes(), True, None),
        (Processes(wall_timeout_s=3.0), True, 3.0),
        (Processes(wall_timeout_s=0.01), True, 0.01),
        (Auto(wall_timeout_s=4.0), True, 4.0),
    ],
)
def test_executor_reports_its_worker_processes_and_their_timeout(executor, has_worker_processes, timeout_s):
    assert isinstance(executor, Executor)
    assert (executor.has_worker_processes, executor.timeout_s) == (has_worker_processes, timeout_s)


def test_executor_without_open_is_abstract():
    with pytest.raises(TypeError, match="open"):
        type("Empty", (Executor,), {})()
