"""The actors of Ray that run jobs, on one machine or several.

A message crosses as bytes: Ray's own pickling of tensors copies them. The server state is stored
once a round; each node fetches it once.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from fedlit.core.errors import ConfigError, ConfigErrors, LostWorkers
from fedlit.core.messages import Job, Result, ServerState
from fedlit.executors.cluster.job_runner import JobRunner
from fedlit.executors.pool.dispatch import JobBatch, Merge, Task
from fedlit.executors.pool.transport import Buffers, decode_message, encode_message
from fedlit.executors.pool.worker_pool import MALLOC_SETTINGS, MAX_FAILED_STARTS

log = logging.getLogger(__name__)

MAX_WAIT_S = 300.0
"""Seconds without any running actor after which a run ends."""


@dataclass(eq=False)
class _Actor:
    """An actor with the call that it works at.

    Args:
        handle: Ray's handle.
        call: the result of the call; that of `build` until the actor is ready.
        task: the job of the call; None for `build`.
        since: time of the call.
    """

    handle: Any
    call: Any
    task: Task | None = None
    since: float = 0.0


class ActorPool:
    """The actors of a run.

    Args:
        num_cpus: cores that an actor reserves.
        num_gpus: GPUs that an actor reserves.
        timeout_s: seconds after which an actor that gives no answer is replaced; None for never.
        merge: see `Worker.merge`.
    """

    def __init__(self, num_cpus: int, num_gpus: float, timeout_s: float | None, merge: Merge) -> None:
        self._timeout_s, self._merge, self._num_cpus, self._num_gpus = timeout_s, merge, num_cpus, num_gpus
        options: Mapping[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": 0}
        actor_class: Any = ray.remote(JobRunner)
        self._class = actor_class.options(runtime_env={"env_vars": MALLOC_SETTINGS}, **options)
        self._actors: list[_Actor] = []
        self._setup: Any = None
        self._state: ServerState | None = None
        self._stored_state: Any = None
        self._state_number, self._failed_starts, self._last_answer = 0, 0, 0.0

    def start(self, count: int | None, settings: Mapping[str, Any], content: bytes, large: bytes) -> None:
        """Start the actors, and wait until one is ready.

        Args:
            count: number of actors; None for as many as the cluster has room for.
            settings: see `torch_settings`.
            content: the worker: see `serialize_worker`.
            large: content of the file with its large tensors.

        Raises:
            ConfigErrors: if the cluster has no room for an actor.
        """
        resources = ray.cluster_resources()
        room = {"num_cpus": resources.get("CPU", 0.0) // self._num_cpus}
        room |= {"num_gpus": resources.get("GPU", 0.0) / self._num_gpus} if self._num_gpus else {}
        if min(room.values()) < 1:
            problem = (
                f"does not fit: the cluster has {resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g} GPUs"
            )
            given = f"{self._num_cpus} cores and {self._num_gpus:g} GPUs an actor"
            raise ConfigErrors([ConfigError("executor", given, problem)])
        self._setup = ray.put([sys.path, dict(settings), content, np.frombuffer(large, np.uint8)])
        self._actors = [self._make_actor() for _ in range(count or int(min(room.values()) + 1e-9))]
        log.info("%d actors of Ray start on %d nodes", len(self._actors), sum(n["Alive"] for n in ray.nodes()))
        self._last_answer = time.monotonic()
        while all(actor.task is None and actor.call is not None for actor in self._actors):
            self._process_answers()

    def close(self) -> None:
        """End all actors."""
        while self._actors:
            with suppress(RayError):
                ray.kill(self._actors.pop().handle)

    def execute(self, jobs: Iterable[Job], state: ServerState) -> Iterator[Result]:
        """Yield the results in the order of the jobs.

        The number of jobs that are assigned, or whose result was not yielded yet, is at most twice that of actors.

        Raises:
            Exception: any exception that a job raises.
            LostWorkers: if the cluster has no room for an actor any more.
        """
        if self._state is not state:  # the state of a round's evaluation is that of the next round: store it once
            self._state, parts = state, encode_message(replace(state, private={}))
            self._stored_state = ray.put([np.frombuffer(part, np.uint8) for part in parts])
            self._state_number += 1
        batch = JobBatch(jobs, (), self._state_number, self._merge, len(self._actors))
        self._last_answer = time.monotonic()
        for index in range(batch.total):
            batch.next_index = index
            while index not in batch.done:
                self._dispatch(batch)
                self._process_answers()
                batch.raise_if_failed()
            yield batch.done.pop(index)

    def _make_actor(self) -> _Actor:
        handle = self._class.remote()
        return _Actor(handle, handle.build.remote(self._setup))

    def _dispatch(self, batch: JobBatch) -> None:
        for actor in self._actors:
            if actor.call is None and batch.tasks:
                if batch.is_far_ahead(len(self._actors)):
                    return
                actor.task, actor.since = batch.tasks.popleft(), time.monotonic()
                (job, *buffers) = encode_message(batch.job(actor.task))
                parts = [bytes(job), *(np.frombuffer(buffer, np.uint8) for buffer in buffers)]
                actor.call = actor.handle.run.remote(parts, batch.number, self._stored_state)

    def _process_answers(self) -> None:
        """Wait for at least one answer, and store all that have arrived."""
        for actor, parts in self._wait():
            task, actor.task, actor.call = actor.task, None, None
            if parts is None:
                self._replace(actor, task)
            elif task is None:
                self._confirm_start(parts)
            if task is not None:
                task.batch.lose(task) if parts is None else task.batch.take(task, parts)

    def _wait(self) -> Sequence[tuple[_Actor, Buffers | None]]:
        """Return (actor, answer) for each actor with an answer.

        The answer is None for an actor that is lost or exceeds the timeout.

        Raises:
            LostWorkers: if there is no running actor for too long.
        """
        waiting = {actor.call: actor for actor in self._actors if actor.call is not None}
        busy = [actor for actor in waiting.values() if actor.task is not None]
        ready, _ = ray.wait([*waiting], timeout=1.0)
        if ready:
            self._last_answer = time.monotonic()
            return [(waiting[call], self._read(call)) for call in ready]
        now = time.monotonic()
        if not busy and len(waiting) == len(self._actors) and now - self._last_answer > MAX_WAIT_S:
            raise LostWorkers(f"the cluster has had no room for an actor for {MAX_WAIT_S:.0f} s")
        if self._timeout_s is not None and busy:
            oldest = min(busy, key=lambda actor: actor.since)
            if now - oldest.since > self._timeout_s:
                log.warning("an actor gave no answer for %.0f s", self._timeout_s)
                return [(oldest, None)]
        return []

    def _read(self, call: Any) -> Buffers | None:
        try:
            return [bytearray(part) for part in ray.get(call)]  # Ray's own memory cannot be written
        except RayTaskError:
            raise
        except RayError:  # the actor, its node, or the object with its answer is lost
            return None

    def _confirm_start(self, parts: Buffers) -> None:
        kind, content = decode_message(parts)
        if kind != "ready":
            raise LostWorkers(f"an actor cannot build its worker: {content}")
        self._failed_starts = 0

    def _replace(self, actor: _Actor, task: Task | None) -> None:
        with suppress(RayError):
            ray.kill(actor.handle)
        self._failed_starts += task is None
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise LostWorkers(f"{MAX_FAILED_STARTS} actors ended while they started")
        log.warning("an actor is lost; a new one replaces it when the cluster has room for it")
        self._actors[self._actors.index(actor)] = self._make_actor()
