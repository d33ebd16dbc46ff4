"""Client rules of one job, whose fits run as stacked models."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedlit.client.fit.call import FitCall, LocalWork
from fedlit.client.vectorized.gather import Answer, Outcome, run_together
from fedlit.client.vectorized.joint_fit import STACK_BYTES, fit_together, stack_signature
from fedlit.client.vectorized.memory import StackMemory
from fedlit.client.vectorized.recording.recorded import RecordedSteps
from fedlit.core.tensors import Layout

DIFFERENCE = "vectorized_difference"
"""Name of the metric of the first round."""

SLOW_OPERATION = r"There is a performance drop because we have not yet implemented the batching rule for ([\w:]+)"
"""The warning of torch for an operation that it runs for one client after the other."""


@dataclass
class StackTraining:
    """Trains the clients of a job as stacked models.

    Args:
        recorded: the recorded operations of the module's steps.
        max_bytes: weights of a stack on a CPU; None for stacks of all clients. Results depend on it in their last bits.
        memory: memory of stacked weights.
    """

    recorded: RecordedSteps = field(default_factory=RecordedSteps)
    max_bytes: int | None = STACK_BYTES
    memory: StackMemory = field(default_factory=StackMemory)

    def train(
        self,
        rules: Sequence[Callable[[LocalWork], Any]],
        take: Callable[[Any], None],
        tries_again: Callable[[Any, int], bool],
        train_alone: Callable[[int], Any] | None = None,
    ) -> None:
        """Run the rules of several clients; train the clients together.

        Args:
            rules: functions that return a failure, or update and local training of one client.
            take: gets the replies in the order of the rules.
            tries_again: function of a reply and the number of replies before it; True if the client is tried again.
            train_alone: trains a client alone and returns its reply, to compare it with its training in a stack; None for no
                comparison.

        Raises:
            BaseException: any exception that a rule does not catch.
        """
        replies: list[Any] = []
        add = take if train_alone is None else replies.append
        run_together(rules, self._fit_quietly, lambda reply: add(_with_own_state(reply)), tries_again)
        if train_alone is not None:
            _add_difference(replies, train_alone)
            for reply in replies:
                take(reply)

    def _fit_quietly(self, calls: Sequence[FitCall], answer: Answer) -> None:
        filters, show = [*warnings.filters], warnings.showwarning

        def answer_as_outside(place: int, outcome: Outcome) -> None:
            """Answer a call, with the warnings of the caller."""
            with warnings.catch_warnings():
                warnings.filters, warnings.showwarning = filters, show
                answer(place, outcome)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=SLOW_OPERATION)  # the check before round 1 has reported it
            self.fit(calls, answer_as_outside)

    def fit(self, calls: Sequence[FitCall], answer: Answer) -> None:
        """Train calls with equal signatures together."""
        groups: dict[Any, list[int]] = {}
        for index, call in enumerate(calls):
            groups.setdefault(stack_signature(call), []).append(index)
        for members in groups.values():
            part = {index: calls[index] for index in members}
            fit_together(part, self.recorded, self.memory, self.max_bytes, answer)


def _with_own_state(reply: Any) -> Any:
    """Copy the client state, which would keep the stack in memory."""
    if not isinstance(reply, tuple) or not reply[0].client_state:
        return reply
    update, local = reply
    state = {
        group: {name: tensor.clone() for name, tensor in tensors.items()}
        for group, tensors in update.client_state.items()
    }
    return replace(update, client_state=state), local


def _add_difference(replies: Sequence[Any], train_alone: Callable[[int], Any]) -> None:
    """Compare one client of a stack with itself alone.

    The metric `vectorized_difference` of the first fit is ||u - v|| / ||v||, with u its update in the stack and v its update
    alone. It is large for a module that draws random numbers, since a stack draws others.

    Args:
        replies: a failure, or update and local training of each client; the last one that trained is compared.
        train_alone: trains a client alone, and returns its reply.
    """
    trained = [reply for reply in replies if isinstance(reply, tuple) and reply[1].results]
    alone = train_alone(trained[-1][1].client) if trained else None
    if isinstance(alone, tuple):
        update, local = trained[-1]
        layout = Layout.of(alone[0].groups)
        single, stacked = (layout.vector(groups).double() for groups in (alone[0].groups, update.groups))
        difference = float((stacked - single).norm() / single.norm().clamp(min=1e-30))
        first = local.results[0]
        local.results[0] = replace(first, metrics={**first.metrics, DIFFERENCE: difference})
