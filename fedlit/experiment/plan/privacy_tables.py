"""Tables of epsilon over rounds, and of noise for targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fedlit.aggregation.privacy.accounting import calibrate
from fedlit.core.facts import Sampling
from fedlit.core.text.console import PlainConsole
from fedlit.core.text.steps import steps
from fedlit.experiment.plan.early_privacy import EarlyPrivacy, find_accountant, spread_rounds


def print_privacy(config: Mapping[str, Any], targets: Sequence[float], console: Console | None = None) -> None:
    """Print the tables of a configuration.

    Args:
        config: the resolved configuration, plain values.
        targets: values of epsilon whose noise multiplier is printed.
        console: console to print on; None for the standard output.

    Raises:
        ConfigErrors: if the configuration has errors.
        ConfigError: if it has no differential privacy, or no noise multiplier spends a target.
    """
    console, privacy = console or PlainConsole(), find_accountant(config)
    if privacy is None:
        steps.info("importing Lightning, since the accountant depends on the data")
        from fedlit.experiment.plan.example_tables import build, example_tables  # here: it takes seconds

        run = build(config)
        if run.federation.trainer_config.privacy is not None:
            console.print(*example_tables(run, targets), sep="\n")
            return
        federation = run.federation
        clients, rounds = len(federation.registry), federation.schedule.rounds
        privacy = EarlyPrivacy.of(federation.channel, federation.sampling, clients, rounds)
    console.print(facts_table(privacy))
    console.print(epsilon_table(privacy))
    if targets:
        console.print(noise_table(privacy, targets))


def facts_table(privacy: EarlyPrivacy) -> Table:
    """The facts that decide epsilon, a row for each."""
    accountant = privacy.accountant
    table = Table(show_header=False, title="privacy: nothing was trained", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("clients", f"{privacy.clients:,}; {sampling_text(privacy.sampling, accountant.is_per_client)}")
    table.add_row("rounds", f"{privacy.rounds:,}")
    table.add_row("noise multiplier", f"{accountant.noise_multiplier:.6g}")
    table.add_row("delta", f"{accountant.delta:.4g}")
    table.add_row("accountant", f"{accountant.method}, {accountant.relation}")
    if privacy.statement:
        table.add_row("protected", privacy.statement)
    return table


def sampling_text(sampling: Sampling, is_per_client: bool = False) -> str:
    """The choice of cohorts in words, and whether it amplifies privacy."""
    texts = {
        "poisson": f"each is in a cohort with probability {sampling.probability or 0:.4g}",
        "fixed": f"{sampling.size or 0:,} of them in each cohort, drawn uniformly",
        "every": "all of them in each cohort",
        "separated": f"at least {sampling.separation} rounds from one round of a client to the next",
        "other": "cohorts of another kind",
    }
    amplifies = sampling.kind in ("poisson", "fixed") and not is_per_client
    return texts[sampling.kind] + ("" if amplifies else "; sampling does not amplify privacy")


def epsilon_table(privacy: EarlyPrivacy) -> Table:
    """Epsilon after some rounds, up to the planned ones."""
    table = Table(title="epsilon spent", title_justify="left")
    table.add_column("rounds of a client" if privacy.accountant.is_per_client else "rounds", justify="right")
    table.add_column("epsilon", justify="right")
    for rounds in spread_rounds(privacy.charged_rounds):
        table.add_row(f"{rounds:,}", f"{privacy.accountant.epsilon(rounds):.4g}")
    return table


def noise_table(privacy: EarlyPrivacy, targets: Sequence[float]) -> Table:
    """The noise multiplier for each target of epsilon.

    Raises:
        ConfigError: if no noise multiplier spends a target.
    """
    rounds = privacy.charged_rounds
    table = Table(title=f"noise for {rounds:,} round{'s' * (rounds != 1)}", title_justify="left")
    table.add_column("epsilon", justify="right")
    table.add_column("noise multiplier", justify="right")
    table.add_column("spends", justify="right")
    for target in targets:
        noise = calibrate(privacy.accountant, target, rounds)
        spent = privacy.accountant.with_noise(noise).epsilon(rounds)
        table.add_row(f"{target:g}", f"{noise:.4g}", f"{spent:.4g}")
    return table
