"""Tables of epsilon and noise for DP-SGD in the clients' training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from fedlit.experiment.config.build import build_run
from fedlit.experiment.plan.early_privacy import spread_rounds
from fedlit.experiment.plan.example_privacy import ExampleEstimate, estimate_examples
from fedlit.experiment.plan.privacy import most_rounds
from fedlit.experiment.run import Run

CLIENTS = ("smallest", "median", "largest")
"""Clients whose columns a table has, by their numbers of examples."""


def example_tables(run: Run, targets: Sequence[float]) -> Iterator[Table]:
    """Yield the facts, epsilon over the rounds, and the noise for targets.

    Args:
        run: a run with privacy in the clients' training.
        targets: values of epsilon, each in the largest possible number of rounds of one client.

    Raises:
        ConfigError: if no noise multiplier spends a target.
    """
    rounds = most_rounds(run)
    planned, privacy = _estimate(run, rounds), run.federation.trainer_config.privacy
    assert privacy is not None
    facts = Table(show_header=False, title="privacy: nothing was trained", title_justify="left")
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in {**planned.rows(), "protected": privacy.statement()}.items():
        facts.add_row(name, text)
    yield facts
    spent = _client_table("epsilon spent, by the size of a client", "rounds of a client")
    spent.add_row("examples", *(f"{count:,}" for count in planned.examples), end_section=True)
    for count in spread_rounds(rounds):
        spent.add_row(f"{count:,}", *_texts(_estimate(run, count).epsilons))
    yield spent
    if not targets:
        return
    noise = _client_table(f"noise multiplier for {rounds:,} rounds of a client", "epsilon")
    for target in targets:
        config = run.federation.trainer_config
        aimed = replace(privacy, epsilon=target, noise_multiplier=None, rounds=rounds)
        federation = replace(run.federation, trainer_config=replace(config, privacy=aimed))
        noise.add_row(f"{target:g}", *_texts(_estimate(replace(run, federation=federation), rounds).noise_multipliers))
    yield noise


def build(config: Mapping[str, Any]) -> Run:
    """Build the run of a configuration.

    Raises:
        ConfigErrors: with all errors of the configuration.
    """
    return build_run(config, Path(), {})[0]


def _estimate(run: Run, rounds: int) -> ExampleEstimate:
    estimate = estimate_examples(run, rounds)
    assert estimate is not None  # a federation without examples is refused
    return estimate


def _client_table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in (first, *(f"{client} client" for client in CLIENTS)):
        table.add_column(name, justify="right")
    return table


def _texts(values: Sequence[float]) -> list[str]:
    return [f"{value:.4g}" for value in values]
