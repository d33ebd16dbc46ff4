"""Stacked steps as recorded operations of torch.

A step of several clients runs the module's Python code and the transforms of torch once for each shape of its batches. After
that its recorded operations run alone: the same operations on other tensors, with the same bits.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlit.client.vectorized.recording.arena import Arena
from fedlit.client.vectorized.recording.operations import NotRecordable, OperationRecorder
from fedlit.client.vectorized.recording.program import Program
from fedlit.client.vectorized.streams import get_generators, set_generators
from fedlit.core.tensors import has_same_bits
from fedlit.core.torch_operations import observe_operations

Step = Callable[[Sequence[Tensor]], tuple[list[Tensor], Any]]
"""A function of tensors that returns tensors, and facts about them that depend on names and shapes alone."""

MAX_RECORDINGS = 256
"""Kinds of steps that are recorded; further ones run as Python."""


@dataclass
class Recording:
    """The operations of a step.

    Args:
        run: function of the step's tensors.
        facts: what the step returned beside its tensors.
        make_other: makes a program without late products; None if `run` has none.
        is_checked: True if a second step agreed with them.
    """

    run: Program
    facts: Any
    make_other: Callable[[], Program] | None = None
    is_checked: bool = False


class RecordedSteps:
    """Runs steps, by their recorded operations where these agree.

    After some steps of a kind the next one is recorded. The one after that runs both ways. If one bit differs, or if the module
    uses random numbers of Python or NumPy, all steps run as Python from then on.

    Args:
        patience: steps of a kind that run as Python before one is recorded, since a recording costs more than a step.
        is_pure: True if it is known that steps change none of their tensors in place.

    Attributes:
        is_refused: True if steps run as Python alone.
        changes_tensors: True if a recorded step changed one of its tensors in place.
    """

    def __init__(self, patience: int = 2, is_pure: bool = False) -> None:
        self.is_refused = self.changes_tensors = False
        self.is_pure = is_pure
        self._patience = patience
        self._counts: Counter[Any] = Counter()
        self._recordings: dict[Any, Recording] = {}
        self._arena = Arena()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle: another process records for itself."""
        return {**self.__dict__, "_counts": Counter(), "_recordings": {}, "_arena": Arena()}

    def run(
        self, key: Any, step: Step, tensors: Sequence[Tensor], num_lasting: int | None = None
    ) -> tuple[Sequence[Any], Any]:
        """Return what a step returns.

        Args:
            key: what the step depends on besides names, shapes and values of its tensors; None if it must run as Python.
            step: the step.
            tensors: its tensors.
            num_lasting: number of the last tensors that do not change before the outputs are used. Then large products of
                matrices may be returned as a `Product`; None to get tensors alone.
        """
        if key is None or self.is_refused:
            return step(tensors)
        key = (key, num_lasting, tuple((tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors))
        recording = self._recordings.get(key)
        if recording is None:
            self._counts[key] += 1
            is_due = self._counts[key] > self._patience and len(self._recordings) < MAX_RECORDINGS
            return self._record(key, step, tensors, num_lasting) if is_due else step(tensors)
        if not recording.is_checked:
            return self._check(recording, step, tensors)
        with torch.no_grad():
            return recording.run(*tensors), recording.facts

    def _record(
        self, key: Any, step: Step, tensors: Sequence[Tensor], num_lasting: int | None
    ) -> tuple[Sequence[Tensor], Any]:
        recorder, before = OperationRecorder(tensors), _python_generators()
        with observe_operations(recorder.add):
            outputs, facts = step(tensors)
        try:
            if _python_generators() != before:
                raise NotRecordable("random numbers of Python or NumPy")
            self.changes_tensors |= recorder.changes_inputs
            if not self.is_refused:
                values = recorder.outputs(outputs)
                make = partial(Program, recorder.inputs, recorder.operations, values, self._arena)
                program = make(num_lasting)
                self._recordings[key] = Recording(program, facts, make if program.has_late_products else None)
        except NotRecordable:
            self.refuse()
        return outputs, facts

    def _check(self, recording: Recording, step: Step, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Any]:
        """Run a step both ways, and compare the bits of all results."""
        before = get_generators()
        copies = [_copy(tensor) for tensor in tensors]
        with torch.no_grad():
            again = [output.clone() for output in recording.run(*copies)]
        after = get_generators()
        set_generators(before)
        outputs, facts = step(tensors)
        pairs = [*zip(again, outputs, strict=True), *zip(copies, tensors, strict=True)]
        if facts == recording.facts and _same(after, get_generators()) and all(has_same_bits(*pair) for pair in pairs):
            recording.is_checked, recording.make_other = True, None  # which keeps tensors
        elif recording.make_other is not None:  # late products may have other bits, which the next step shows
            recording.run, recording.make_other = recording.make_other(), None
        else:
            self.refuse()
        return outputs, facts

    def refuse(self) -> None:
        """Run all steps as Python from now on."""
        self.is_refused = True
        self._counts.clear()
        self._recordings.clear()


def _python_generators() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, np.asarray(keys).tobytes(), *rest


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy; one of shared weights stays shared."""
    if tensor.dim() and len(tensor) > 1 and tensor.stride(0) == 0:
        return tensor[:1].clone().expand(tensor.shape)
    return tensor.clone()


def _same(states: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return True if the generators of torch have the same states."""
    pairs = [(states[0], others[0]), (states[3], others[3])]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a is b for a, b in pairs)
