"""A trial of the files that a run writes."""

from __future__ import annotations

from fedlit.core.errors import ConfigError, describe_exception
from fedlit.core.serialization import flatten_state, to_safetensors
from fedlit.experiment.trial.causes import TRACEBACK_HINT, module_name
from fedlit.experiment.weights import ckpt_bytes, safetensors_bytes
from fedlit.runs.layout import LAST_CKPT, WEIGHTS
from fedlit.server.setup import Federation


def try_files(federation: Federation) -> list[ConfigError]:
    """Make the files of the initial weights in memory.

    Errors say what cannot be written, warnings what is left out.
    """
    replica, name = federation.worker.replica, module_name(federation)
    file = LAST_CKPT
    try:
        ckpt_bytes(replica, federation.trainer_config, federation.initial)
        file = WEIGHTS
        _, entries = safetensors_bytes(replica, federation.initial)
        file = "its state in a checkpoint"
        to_safetensors(flatten_state(federation.initial_state()))
    except Exception as error:  # hooks of the module, and objects that it keeps
        problem = f"cannot be written as {file}: {describe_exception(error)}"
        hint = "on_save_checkpoint gets a checkpoint without optimizer states, and may add only what can be pickled"
        found = ConfigError("model", name, problem, f"{hint}; {TRACEBACK_HINT}")
        found.__cause__ = error
        return [found]
    if not entries:
        return []
    names = ", ".join(entries[:5]) + (f" and {len(entries) - 5} more" if len(entries) > 5 else "")
    problem = f"has state that is not a tensor: {WEIGHTS} is without {names}"
    return [ConfigError("model", name, problem, f"{LAST_CKPT} has all of it", warning=True)]
