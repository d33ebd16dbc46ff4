"""The commands for one finished run, up to the import of torch.

Flags and overrides may come in any order.
"""

from __future__ import annotations

import argparse
import os
import sys
from argparse import ArgumentParser
from pathlib import Path

from fedlit import __version__
from fedlit.core.errors import ConfigError, ConfigErrors, print_errors
from fedlit.core.text.escape import escape_tracebacks
from fedlit.core.text.steps import show_steps, steps
from fedlit.runs.folder import is_finished, read_summary, require_files, user_errors
from fedlit.runs.layout import BEST_CKPT, CKPTS, CONFIG, JOURNAL, SUMMARY


def evaluate_command() -> None:
    """Run `python -m fedlit.evaluate`.

    Exit status 2 for an error in the command line.
    """
    parser = _make_parser("evaluate", "Evaluate a finished run's model again.")
    help_text = "another value for a key of the run's configuration, such as data.root=FOLDER"
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=help_text)
    help_text = "model of the best round (default) or of the last"
    parser.add_argument("--checkpoint", choices=[*CKPTS], default="best", help=help_text)
    help_text = "split to evaluate, can be repeated; by default all splits of the run"
    parser.add_argument("--split", action="append", choices=["val", "test"], help=help_text)
    options = parser.parse_intermixed_args()
    try:
        _require_checkpoint(options.run, options.checkpoint)
        _begin_import()
        from fedlit.cli.evaluate import print_evaluation

        print_evaluation(options.run, options.overrides, options.checkpoint, options.split, options.allow)
    except ConfigErrors as error:
        print_errors(error.errors, "; nothing was evaluated")
        sys.exit(2)


def replay_command() -> None:
    """Run `python -m fedlit.replay`.

    Exit status 1 if the debugger is left, 2 for an error in the command line.
    """
    parser = _make_parser("replay", "Repeat one client's local training in a round; the results are bit-identical.")
    parser.add_argument("--round", type=int, required=True, help="number of the round, counted from 1")
    parser.add_argument("--client", type=int, required=True, help="a client of the round's cohort")
    help_text = "train the rest of the cohort too, and compare the round's digest"
    parser.add_argument("--whole", action="store_true", help=help_text)
    parser.add_argument("--debug", action="store_true", help="start pdb at the first line of the client's rule")
    options = parser.parse_intermixed_args()
    try:
        require_files(options.run, (CONFIG, JOURNAL), "run", "name the folder of a run")
        if options.debug and not sys.stdin.isatty():
            hint = "run the command in a terminal, without a pipe for its input"
            raise ConfigErrors([ConfigError("--debug", "", "starts a debugger, which needs a terminal", hint)])
        _begin_import()
        from fedlit.cli.replay import print_replay

        print_replay(options)
    except ConfigErrors as error:
        print_errors(error.errors, "; nothing was repeated")
        sys.exit(2)


def _make_parser(command: str, description: str) -> ArgumentParser:
    escape_tracebacks()
    parser = argparse.ArgumentParser(prog=f"python -m fedlit.{command}", description=description)
    parser.add_argument("--version", action="version", version=f"fedlit {__version__}")
    parser.add_argument("run", type=_folder, metavar="RUN", help="folder of a run")
    help_text = "module of your own that a configuration from elsewhere may call; can be repeated"
    parser.add_argument("--allow", action="append", default=[], metavar="MODULE", help=help_text)
    return parser


def _folder(text: str) -> Path:
    return Path(text).expanduser()


def _require_checkpoint(run: Path, checkpoint: str) -> None:
    """Raise ConfigErrors if a finished run's model is missing."""
    hint = "name the folder of a finished run"
    require_files(run, (CONFIG, SUMMARY, JOURNAL), "run", hint)
    if checkpoint == "best" and is_finished(run) and not (run / BEST_CKPT).is_file():
        with user_errors(run, "run", hint):
            monitor = read_summary(run).get("monitor")
        problem = f"has no {BEST_CKPT}: {monitor} was not a finite number in any round, so no round is the best"
        raise ConfigErrors([ConfigError("run", run, problem, "--checkpoint model evaluates the last round's model")])
    require_files(run, (CKPTS[checkpoint],), "run", hint)


def _begin_import() -> None:
    """Print the first step, and let the user's modules be found."""
    sys.path.insert(0, os.getcwd())
    show_steps()
    steps.info("importing torch and Lightning")


def print_commands() -> None:
    """Print the commands of fedlit."""
    print(
        "fedlit: federated-learning experiments on PyTorch Lightning and Hydra\n\n"
        "  python -m fedlit.train      train a federated model, or run a sweep\n"
        "  python -m fedlit.evaluate   evaluate a finished run on a split\n"
        "  python -m fedlit.replay     repeat one client's training of a round\n"
        "  python -m fedlit.privacy    epsilon over the rounds of a configuration\n"
        "  python -m fedlit.report     compare runs and sweeps, grouped over seeds\n"
        "  python -m fedlit.compare    list the differences between two runs\n\n"
        "Each command has --help and --version. `fedlit` is short for the first one."
    )
