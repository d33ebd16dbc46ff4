"""The order of a channel's stages, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from fedlit.aggregation.basis import find_basis
from fedlit.aggregation.channel.codec import Codec, Float32
from fedlit.aggregation.channel.stage import Clip, Order, Stage
from fedlit.aggregation.secure.secure_stage import SecureStage
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts


def sort_stages(stages: Iterable[Any]) -> tuple[list[Stage], list[Codec]]:
    """Sort stages by their order.

    Returns:
        The stages, and the codecs among them: at most one.

    Raises:
        ConfigError: if a stage is of another type or has no order, or if there are two codecs.
    """
    stages = list(stages)
    codecs = [stage for stage in stages if isinstance(stage, Codec)]
    others = [stage for stage in stages if not isinstance(stage, Codec)]
    for stage in others:
        if not isinstance(stage, Stage):
            hint = "subclass fedlit.Stage or fedlit.Codec"
            raise ConfigError("channel", type(stage).__name__, "is not a stage of the channel", hint)
        if not hasattr(stage, "order"):
            hint = "set order = Order.PROJECT, Order.CLIP or Order.PROTECT in the class"
            raise ConfigError("channel", type(stage).__name__, "has no `order` among the stages", hint)
    if len(codecs) > 1:
        named = " and ".join(type(codec).__name__ for codec in codecs)
        raise ConfigError("channel", named, "both make the bytes of an update", "leave one of them out")
    return sorted(others, key=lambda stage: (stage.order, isinstance(stage, SecureStage))), codecs


def raise_if_invalid(stages: Sequence[Stage], codec: Codec, error_feedback: bool, down: Codec | None) -> None:
    """Check stages, and the codecs of both directions, against each other.

    Raises:
        ConfigError: if two of them have one name, or do not go together.
    """
    _raise_if_not_alone(stages, codec)
    names = [codec.name, *(stage.name for stage in stages)]
    for stage in stages:
        if names.count(stage.name) > 1:
            raise ConfigError("channel", stage.name, "names two stages", "give one of them another `name`")
        if stage.order == Order.CLIP and not isinstance(stage, Clip):
            problem = "has order CLIP and is not a Clip, so it could do more than shorten a vector"
            raise ConfigError("channel", stage.name, problem, "subclass fedlit.Clip")
        if stage.order == Order.PROTECT and not codec.lossless:
            problem = "loses digits, and the noise of privacy and the masks of encryption need all of them"
            raise ConfigError("compression", codec.name, problem, "compression=none")
        if stage.order != Order.PROJECT and not codec.linear:
            problem = "takes a vote, and clipping, privacy and encryption need the sum of the updates"
            raise ConfigError("compression", codec.name, problem, "compression=none")
    protections = [stage for stage in stages if stage.order == Order.PROTECT]
    for stage in stages if protections else ():
        if stage.needs_exact_clip:
            problem = (
                "changes updates after privacy has clipped them: they can become longer than the norm in its epsilon"
            )
            hint = "take encryption=none, or privacy=distributed with encryption=secagg"
            raise ConfigError("encryption", "", problem, hint)
    secure = [stage.name for stage in stages if isinstance(stage, SecureStage)]
    if len(secure) > 1:
        raise ConfigError("channel", " and ".join(secure), "both make a secure sum", "leave one of them out")
    if secure and type(codec) is not Float32:
        problem = "makes the bytes of float32 numbers, and encryption sends integers"
        raise ConfigError("compression", codec.name, problem, "compression=none")
    if error_feedback and not codec.contracts:
        problem = (
            f"needs a codec whose error is shorter than the update. The error of {codec.name} can be longer with these "
            "settings, and a client would add more of it in each round"
        )
        raise ConfigError("compression.error_feedback", "true", problem, "compression.error_feedback=false")
    if down is not None and not (isinstance(down, Codec) and down.packs_weights):
        problem = "suits updates, and the server sends weights, in which a small number is not a small change"
        raise ConfigError("compression.down", down.name, problem, "compression/down=none")


def _raise_if_not_alone(stages: Sequence[Stage], codec: Codec) -> None:
    """Raise ConfigError if a stage with two exchanges has company."""
    basis = find_basis(stages)
    others = [stage.name for stage in stages if stage is not basis]
    others += [] if type(codec) is Float32 else [codec.name]
    if basis is not None and others:
        problem = f"sends an update in two exchanges, and {others[0]} needs all of it in one message"
        raise ConfigError("compression", basis.name, problem, "compression=none")


def find_secure(stages: Sequence[Stage]) -> SecureStage | None:
    """The secure stage among others; None without one."""
    return next((stage for stage in stages if isinstance(stage, SecureStage)), None)


def with_secure_sum(facts: FederationFacts, stages: Sequence[Stage]) -> FederationFacts:
    """The facts of a federation with the groups of its secure sum."""
    secure = find_secure(stages)
    sums = None if secure is None else secure.sum_facts(facts)
    if sums is not None:
        sums = replace(sums, has_noise=any(stage.makes_grid for stage in stages))
    return replace(facts, secure_sum=sums)


def bind_stages(stages: Sequence[Stage], facts: FederationFacts) -> list[Stage]:
    """The stages for one federation; a secure sum gets another's grid.

    Raises:
        ConfigError: if a stage does not suit it.
    """
    facts = with_secure_sum(facts, stages)
    bound = [stage.bind(facts) for stage in stages]
    grid, secure = next((stage.grid for stage in bound if stage.grid is not None), None), find_secure(bound)
    if grid is not None and secure is not None:
        bound[-1] = secure.with_noise(grid)
    return bound
