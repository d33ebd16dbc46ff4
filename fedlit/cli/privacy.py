"""Epsilon over the rounds of a configuration, and noise for a target.

Nothing is trained. Lightning and the data are used only if the accountant depends on the data.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from hydra import compose

from fedlit import __version__
from fedlit.cli.command_line import PRIMARY, config_loader, parse_command
from fedlit.cli.overrides.texts import expand_home
from fedlit.core.errors import ConfigError, ConfigErrors, print_errors
from fedlit.core.text.escape import escape_tracebacks
from fedlit.core.text.steps import show_steps, steps
from fedlit.experiment.config.optimizer import run_values


def privacy_command(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m fedlit.privacy`.

    Exit status 2 for an error in the command line or configuration.

    Args:
        arguments: the command line; None for that of the process.
    """
    escape_tracebacks()
    sys.path.insert(0, os.getcwd())  # so that a mechanism or sampler of the user is found
    parser = argparse.ArgumentParser(
        prog="python -m fedlit.privacy",
        description="Print epsilon over the rounds of a configuration, without training.",
    )
    help_text = "overrides as of fedlit.train, such as privacy=central schedule.rounds=100"
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=help_text)
    help_text = "print the noise multiplier that spends this epsilon in the planned rounds; can be repeated"
    parser.add_argument("--target", type=float, action="append", default=[], metavar="EPSILON", help=help_text)
    parser.add_argument("--config-dir", metavar="FOLDER", help="a folder with choices of your own")
    parser.add_argument("--config-name", metavar="NAME", help="a primary configuration of your own in that folder")
    parser.add_argument("--version", action="version", version=f"fedlit {__version__}")
    options = parser.parse_intermixed_args(arguments)
    try:
        values = _compose(expand_home(options.overrides), options.config_dir, options.config_name)
        show_steps()
        steps.info("importing torch")
        from fedlit.experiment.plan.privacy_tables import print_privacy  # here: it takes seconds

        print_privacy(values, options.target)
    except (ConfigError, ConfigErrors) as error:
        print_errors(error.errors, "; nothing was computed")
        sys.exit(2)


def _compose(overrides: list[str], folder: str | None, name: str | None) -> dict[str, Any]:
    """The configuration of the overrides, as plain values.

    Raises:
        ConfigErrors: with all errors that are found without torch.
    """
    flags = [f"--config-dir={folder}"] if folder else []
    command = parse_command([*flags, *([f"--config-name={name}"] if name else []), *overrides])
    if command.errors:
        raise ConfigErrors(command.errors)
    if resumed := [text for text in overrides if text.lstrip("+").startswith("resume=")]:
        hint = "give the overrides of the run, which are in its command.json"
        raise ConfigErrors([ConfigError(resumed[0], "", "names a run, and this command takes a configuration", hint)])
    with config_loader(folder):
        config = compose((name or PRIMARY).removesuffix(".yaml"), [*command.first, *overrides])
        return run_values(config, overrides)
