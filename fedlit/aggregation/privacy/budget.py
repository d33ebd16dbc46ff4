"""The privacy budget of a run: epsilon, delta, noise multiplier."""

from __future__ import annotations

from collections.abc import Iterator

from fedlit.aggregation.channel.stage import Stage
from fedlit.aggregation.privacy.accounting import Accountant, calibrate
from fedlit.core.errors import ConfigError, require, require_positive


def budget_errors(
    noise_multiplier: float | None, epsilon: float | None, delta: float | None
) -> Iterator[ConfigError | None]:
    """Yield errors of a budget, and None for valid values."""
    if noise_multiplier is not None and epsilon is not None:
        problem = f"calibrates the noise, and noise_multiplier={noise_multiplier} gives it"
        yield ConfigError("epsilon", epsilon, problem, "set one of them to null")
    if noise_multiplier is not None:
        yield require(
            0 <= noise_multiplier < float("inf"),
            "noise_multiplier",
            noise_multiplier,
            "must be a number of at least 0",
            "0 adds no noise",
        )
    if epsilon is not None:
        yield require(epsilon > 0, "epsilon", epsilon, "must be greater than 0", "inf adds no noise")
    if delta is not None:
        yield require(0 < delta < 1, "delta", delta, "must be greater than 0 and less than 1", "null is clients^(-1.1)")


def clip_error(clip: float) -> ConfigError | None:
    """An error unless a clipping norm is finite and greater than 0."""
    hint = "noise in proportion to an infinite norm is infinite; privacy=none adds none" if clip == float("inf") else ""
    return require_positive("clip", clip, hint)


def default_delta(clients: int) -> float:
    """The delta of a federation: clients^(-1.1).

    Source: McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
    https://arxiv.org/abs/1710.06963

    Args:
        clients: number of clients, >= 1.
    """
    return max(clients, 2) ** -1.1


def bound_accountant(stage: Stage) -> Accountant:
    """The accountant of a bound mechanism.

    Raises:
        ValueError: if the mechanism is not bound.
    """
    if stage.accountant is None:
        raise ValueError(f"{type(stage).__name__} has no accountant before `bind`")
    return stage.accountant


def privacy_statement(stage: Stage, noise_multiplier: float | None, attacker: str) -> str | None:
    """The sentence of a mechanism's summary; None before `bind`.

    Args:
        stage: the mechanism.
        noise_multiplier: its noise multiplier; 0 protects nothing.
        attacker: against whom the noise protects.
    """
    if stage.accountant is None:
        return None
    if not noise_multiplier:
        return "Nothing is protected: updates are clipped, and no noise is added."
    return stage.accountant.statement("all data of one client", attacker)


def calibrate_noise(stage: Stage, epsilon: float, rounds: int) -> float:
    """The smallest noise multiplier whose releases spend at most epsilon.

    Raises:
        ConfigError: if epsilon cannot be reached.
    """
    try:
        return calibrate(bound_accountant(stage), epsilon, rounds)
    except ConfigError as error:
        raise error.prefixed("privacy") from error


def check_budget(
    noise_multiplier: float | None, epsilon: float | None, delta: float | None, clients: int
) -> Iterator[ConfigError]:
    """Yield an error for no budget, a warning for large delta."""
    if noise_multiplier is None and epsilon is None:
        hint = (
            "set privacy.epsilon, which calibrates the noise to the planned rounds, or privacy.noise_multiplier, the noise / "
            "the clipping norm"
        )
        yield ConfigError("privacy.epsilon", None, "leaves the noise undecided", hint)
    if delta is not None and delta >= 1 / clients:
        problem = (
            f"is not below 1 / {clients:,} clients: a mechanism that publishes one client at random would satisfy it"
        )
        yield ConfigError("privacy.delta", delta, problem, "delta=null is clients^(-1.1)", warning=True)
