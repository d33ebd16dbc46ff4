"""Folders of runs that try to harm whoever opens them: each is a small change of an honest run's folder.

Each function of `VARIANTS` edits a copy of the run. A harm is visible in the canary: a folder with one file, whose content and
neighbours must stay; and in a secret environment variable, which no command may print.
"""

import hashlib
import json
import os
import pickle

import torch
import yaml
from PIL import Image

SECRET_VARIABLE, SECRET = "FEDLIT_TEST_SECRET", "the-secret-of-the-user"
VARIANTS = {}
"""Each variant by its name: the function, the commands that must refuse it, and whether it fires if nothing is checked."""
COMMANDS = ("evaluate", "replay", "resume", "report", "compare")
BUILDING = ("evaluate", "replay", "resume")
"""Commands that make objects from a configuration."""
PARTIAL = "fedlit.experiment.config.instantiate.partial"
"""A name of ours that takes any argument."""


def variant(*refused, fires=False):
    def register(edit):
        VARIANTS[edit.__name__] = (edit, refused, fires)
        return edit

    return register


class Canary:
    """A folder with one file that must not change."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder, self.file = folder, folder / "canary"
        self.file.write_text("alive")

    @property
    def is_alive(self):
        return [path.name for path in self.folder.iterdir()] == ["canary"] and self.file.read_text() == "alive"

    @property
    def command(self):
        return f"echo dead > {self.file}"


class Bomb:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def bomb(canary):
    return pickle.dumps(Bomb(canary.command))


def hub(folder, canary):
    """A node that runs a hubconf.py of the folder."""
    (folder / "hubconf.py").write_text(f"import os\nos.system({canary.command!r})\ndef net():\n    pass\n")
    return {"_target_": "torch.hub.load", "repo_or_dir": str(folder), "model": "net", "source": "local"}


def flow(node):
    """A node as one line that a resolver reads."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in node.items()) + "}"


def edit_config(folder, key, value):
    """Change one dotted key of the configuration."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    node = config
    *above, last = key.split(".")
    for name in above:
        node = node.setdefault(name, {})
    node[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def edit_overrides(folder, *overrides):
    (folder / "command.json").write_text(json.dumps({"overrides": overrides, "flags": []}))


def add_overrides(folder, *overrides):
    command = json.loads((folder / "command.json").read_text())
    edit_overrides(folder, *command["overrides"], *overrides)


def both(folder, key, value, override):
    """Change the configuration for evaluate and replay, and the command for resume."""
    edit_config(folder, key, value)
    add_overrides(folder, *([override] if isinstance(override, str) else override))


# names


@variant(*BUILDING, fires=True)
def target_is_a_shell(folder, canary):
    both(folder, "data", {"_target_": "os.system", "command": canary.command}, "data._target_=os.system")


@variant(*BUILDING, fires=True)
def target_is_exec(folder, canary):
    code = f"import os; os.system({canary.command!r})"
    both(folder, "data", {"_target_": "builtins.exec", "_args_": [code]}, "data._target_=builtins.exec")


@variant(*BUILDING, fires=True)
def target_is_anothers_module_inside_ours(folder, canary):
    node = {"_target_": "fedlit.executors.pool.worker_pool.subprocess.getoutput", "cmd": canary.command}
    both(folder, "data", node, f"data._target_={node['_target_']}")


@variant(*BUILDING, fires=True)
def target_unpickles_a_message_between_our_processes(folder, canary):
    (folder / "message").write_bytes(bomb(canary))
    path = {"_target_": "pathlib.Path", "_args_": [str(folder / "message")]}
    read = {"_target_": "pathlib.Path.read_bytes", "_args_": [path]}
    node = {"_target_": "fedlit.executors.pool.transport.deserialize_worker", "content": read}
    both(folder, "data", node, f"data._target_={node['_target_']}")


@variant(*BUILDING, fires=True)
def target_unpickles_with_our_own_readers(folder, canary):
    (folder / "message").write_bytes(bomb(canary))
    path = {"_target_": "fedlit.data.sources.images.Path", "_args_": [str(folder / "message")]}
    read = {"_target_": "fedlit.data.sources.images.Path.read_bytes", "_args_": [path]}
    both(
        folder,
        "algorithm",
        {"_target_": "fedlit.executors.pool.transport.pickle.loads", "_args_": [read]},
        "algorithm._target_=fedlit.executors.pool.transport.pickle.loads",
    )


@variant("resume")
def target_unpickles_while_a_hint_is_tried(folder, canary):
    """A command that cannot be composed: its keys get hints, which are tried with the other values of the group."""
    (folder / "message").write_bytes(bomb(canary))
    path = f"{{_target_: fedlit.runs.parsing.Path, _args_: ['{folder / 'message'}']}}"
    read = f"{{_target_: fedlit.runs.parsing.read_bytes, path: {path}}}"
    load = f"{{_target_: fedlit.executors.pool.transport.deserialize_worker, content: {read}}}"
    add_overrides(folder, f"executor._target_={PARTIAL}", f"executor.zzqq={load}")


@variant("resume")
def images_are_cached_elsewhere_while_a_hint_is_tried(folder, canary):
    for split in ("train", "test"):
        (folder / "images" / split / "cat").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / "images" / split / "cat" / "1.png")
    data = f"{{_target_: fedlit.data.image_folder, root: '{folder / 'images'}', size: 4, cache: '{canary.folder}'}}"
    add_overrides(folder, f"executor._target_={PARTIAL}", f"executor.zzqq={data}")


@variant(*BUILDING, fires=True)
def target_runs_a_hub_file(folder, canary):
    both(folder, "sampler", hub(folder, canary), "sampler._target_=torch.hub.load")


@variant(*BUILDING)
def target_loads_an_address(folder, canary):
    (folder / "weights.pth").write_bytes(bomb(canary))
    node = {
        "_target_": "torchvision._internally_replaced_utils.load_state_dict_from_url",
        "url": f"file://{folder}/weights.pth",
        "model_dir": str(canary.folder),
        "weights_only": False,
    }
    both(folder, "data", node, f"data._target_={node['_target_']}")


@variant(*BUILDING)
def executor_connects_to_a_cluster_elsewhere(folder, canary):
    """Its actors answer with pickles."""
    node = {"_target_": "fedlit.executors.Ray", "address": "127.0.0.1:9"}
    both(folder, "executor", node, ["executor=ray", "executor.address='127.0.0.1:9'"])


@variant(*BUILDING, fires=True)
def target_is_torch_load(folder, canary):
    (folder / "weights.pth").write_bytes(bomb(canary))
    node = {"_target_": "torch.load", "f": str(folder / "weights.pth"), "weights_only": False}
    both(folder, "partition", node, "partition._target_=torch.load")


@variant(*BUILDING, fires=True)
def target_is_a_lightning_checkpoint(folder, canary):
    (folder / "weights.pth").write_bytes(bomb(canary))
    node = {
        "_target_": "fedlit.models.Classifier.load_from_checkpoint",
        "checkpoint_path": str(folder / "weights.pth"),
        "weights_only": False,
    }
    both(folder, "model", node, f"model._target_={node['_target_']}")


@variant(*BUILDING, fires=True)
def partial_of_a_shell(folder, canary):
    nested = {"_target_": "os.system", "command": canary.command, "_partial_": False}
    node = {"_target_": "fedlit.data.digits", "_partial_": True, "augment": nested}
    both(folder, "data", node, ["+data._partial_=true", "data.augment={_target_: os.system}"])


@variant(*BUILDING)
def not_recursive_around_a_shell(folder, canary):
    nested = {"_target_": "os.system", "command": canary.command}
    node = {"_target_": "fedlit.data.digits", "_recursive_": False, "augment": nested}
    both(folder, "data", node, ["+data._recursive_=false", "data.augment={_target_: os.system}"])


@variant(*BUILDING, fires=True)
def shell_deep_in_lists(folder, canary):
    nested = {"_target_": "os.system", "command": canary.command}
    node = {"_target_": "torch.nn.Sequential", "modules": [[{"a": [nested]}]]}
    both(folder, "trainer.callbacks", {"mine": node}, "+trainer.callbacks.mine={a: [[{_target_: os.system}]]}")


@variant(*BUILDING)
def positional_network(folder, canary):
    node = {
        "_target_": "fedlit.models.Classifier",
        "_args_": ["hostile.Net", [1, 8, 8], 10, {"name": "sgd", "lr": 0.1}],
    }
    both(folder, "model", node, "+model._args_=[hostile.Net]")


@variant(*BUILDING)
def network_is_a_function_that_runs_code(folder, canary):
    both(folder, "model.network", "os.system", "model.network=os.system")


@variant(*BUILDING)
def network_is_a_data_source_without_its_rules(folder, canary):
    both(folder, "model.network", "fedlit.data.image_folder", "model.network=fedlit.data.image_folder")


@variant(*BUILDING)
def callback_writes_elsewhere(folder, canary):
    node = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": str(canary.folder)}
    override = f"+trainer.callbacks={{mine: {{_target_: {node['_target_']}, dirpath: {canary.folder}}}}}"
    both(folder, "trainer.callbacks", {"mine": node}, override)


@variant("resume", fires=True)
def observer_writes_elsewhere(folder, canary):
    node = {"_target_": "shutil.copyfile", "src": str(folder / "config.yaml"), "dst": str(canary.folder / "copy")}
    edit_config(folder, "observers", {"mine": node})
    add_overrides(folder, f"+observers.mine={flow(node)}")


@variant(*BUILDING)
def data_set_that_unpickles_its_cache(folder, canary):
    node = {"_target_": "fedlit.data.torchvision_images", "name": "LSUN", "root": str(folder), "mean": [0], "std": [1]}
    overrides = [f"data={name}" for name in ("mnist",)] + ["data.name=LSUN", f"data.root={folder}"]
    both(folder, "data", node, overrides)


@variant(*BUILDING)
def images_that_are_cached_elsewhere(folder, canary):
    node = {"_target_": "fedlit.data.image_folder", "root": str(folder), "cache": str(canary.folder)}
    both(folder, "data", node, ["data=image_folder", f"data.root={folder}", f"data.cache={canary.folder}"])


# interpolations


@variant(*BUILDING, fires=True)
def resolver_creates_a_target(folder, canary):
    node = flow(hub(folder, canary))
    both(folder, "data", f"${{oc.create:{node}}}", f"data.augment='${{oc.create:{node}}}'")


@variant(*BUILDING, fires=True)
def escaped_resolver_creates_a_target(folder, canary):
    node = flow(hub(folder, canary))
    both(folder, "data.augment", f"\\${{oc.create:{node}}}", f"data.augment='\\${{oc.create:{node}}}'")


@variant(*BUILDING)
def twice_escaped_resolver_in_a_list(folder, canary):
    node = flow(hub(folder, canary))
    both(folder, "data.mean", [f"\\\\\\${{oc.create:{node}}}"], f"data.mean=['\\\\\\${{oc.create:{node}}}']")


@variant(*BUILDING, fires=True)
def resolver_reads_the_environment(folder, canary):
    text = f"${{oc.env:{SECRET_VARIABLE}}}"
    both(folder, "model.network", text, f"model.network='{text}'")


@variant("resume", fires=True)
def resolver_with_escaped_braces_in_the_command(folder, canary):
    add_overrides(folder, rf"model.network=$\{{oc.env:{SECRET_VARIABLE}\}}")


@variant(*BUILDING)
def resolver_in_a_key(folder, canary):
    both(folder, f"model.${{oc.env:{SECRET_VARIABLE}}}", 1, "model=${oc.env:" + SECRET_VARIABLE + "}")


# YAML and JSON


@variant(*COMMANDS)
def yaml_tag_runs_a_command(folder, canary):
    tag = f"!!python/object/apply:os.system [{json.dumps(canary.command)}]"
    (folder / "config.yaml").write_text(f"seed: {tag}\n")


@variant(*COMMANDS)
def yaml_aliases_grow_exponentially(folder, canary):
    lines = ["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    (folder / "config.yaml").write_text("\n".join(lines))


@variant(*COMMANDS)
def yaml_alias_contains_itself(folder, canary):
    (folder / "config.yaml").write_text("seed: 1\nmodel: &a {b: *a}\n")


@variant(*COMMANDS)
def yaml_is_deep(folder, canary):
    (folder / "config.yaml").write_text("a: " + "[" * 5000 + "]" * 5000)


@variant("evaluate")
def summary_is_empty(folder, canary):
    (folder / "summary.json").write_text("{}")


@variant("evaluate", "report", "compare")
def json_is_deep(folder, canary):
    (folder / "summary.json").write_text("[" * 100_000)


@variant("evaluate", "replay", "report", "compare")
def record_is_deep(folder, canary):
    (folder / "rounds.jsonl").write_text('{"round": 1, "a": ' + "[" * 100_000 + "]" * 100_000 + "}\n")


@variant("resume")
def command_is_deep(folder, canary):
    (folder / "command.json").write_text('{"overrides": ' + "[" * 100_000)


@variant("resume", "report", "compare")
def configuration_is_a_pipe(folder, canary):
    (folder / "config.yaml").unlink()
    os.mkfifo(folder / "config.yaml")


# weights and checkpoints


@variant("evaluate", fires=True)
def best_ckpt_is_a_pickle(folder, canary):
    (folder / "best.ckpt").write_bytes(bomb(canary))


@variant("evaluate", fires=True)
def best_ckpt_hides_a_pickle_in_its_zip(folder, canary):
    torch.save({"state_dict": {"a": Bomb(canary.command)}}, folder / "best.ckpt")


@variant("replay", "resume", fires=True)
def initial_weights_are_a_pickle(folder, canary):
    (folder / "start.ckpt").write_bytes(bomb(canary))
    both(folder, "model.init_from", str(folder / "start.ckpt"), f"model.init_from={folder}/start.ckpt")


@variant("resume")
def safetensors_with_a_huge_header(folder, canary):
    for path in folder.glob("checkpoints/*/state.safetensors"):
        path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
        resign(path)


@variant("resume")
def safetensors_with_a_deep_name(folder, canary):
    header = json.dumps({"[" * 100_000: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    for path in folder.glob("checkpoints/*/state.safetensors"):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        resign(path)


@variant()
def manifest_names_a_file_elsewhere(folder, canary):
    for path in folder.glob("checkpoints/*/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["files"][f"../../../{canary.folder.name}/canary"] = {"size": 5, "sha256": "0"}
        path.write_text(json.dumps(manifest))


@variant()
def ledger_names_a_file_elsewhere(folder, canary):
    for path in folder.glob("checkpoints/*/round.json"):
        note = json.loads(path.read_text())
        line = {"round": f"../../{canary.folder.name}", "size": 5, "sha256": "0", "clients": [0], "removed": []}
        line = json.dumps(line) + "\n"
        note["clients"] = {"offset": 0, "line": line, "sha256": hashlib.sha256(line.encode()).hexdigest()}
        path.write_text(json.dumps(note))
        resign(path)


def resign(path):
    """Make the manifest agree with a changed file."""
    from fedlit.server.checkpoint.format import file_digest

    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"][path.name] = file_digest(path.read_bytes())
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


# links


def link(folder, name, target):
    path = folder / name
    if path.is_dir():
        path.rename(folder / "was")
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


@variant("resume", fires=True)
def log_is_a_link(folder, canary):
    link(folder, "train.log", canary.file)


@variant("resume", fires=True)
def hydra_folder_is_a_link(folder, canary):
    link(folder, ".hydra", canary.folder)


@variant("resume")
def lock_is_a_link(folder, canary):
    link(folder, "lock", canary.folder / "new")


@variant("resume")
def temporary_file_is_a_link(folder, canary):
    link(folder, "config.yaml.tmp", canary.file)


@variant("resume")
def journal_and_checkpoints_are_links(folder, canary):
    link(folder, "checkpoints/round-000009", canary.folder)


@variant("resume")
def report_files_are_links(folder, canary):
    for name in ("report.csv", "report.html", "report.md", "report.json", "curves.png", "curves.svg"):
        link(folder, name, canary.file)
        link(folder, f"{name}.tmp", canary.file)


# names with paths, commands with Hydra's keys


@variant("resume")
def overrides_are_flags(folder, canary):
    edit_overrides(folder, f"--config-dir={folder}")


@variant()
def hydras_own_keys(folder, canary):
    log = f"hydra.job_logging.handlers.file.filename={canary.file}"
    add_overrides(folder, f"hydra.run.dir={canary.folder}", "hydra/launcher=joblib", log)


@variant("resume")
def group_in_hydras_own_part(folder, canary):
    add_overrides(folder, "+model@hydra.callbacks.mine=mlp")


@variant("evaluate", "replay", "compare")
def client_numbers_are_paths(folder, canary):
    path = folder / "rounds.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record["cohort"] = [f"../{canary.folder.name}/canary"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@variant()
def job_and_client_names_lead_elsewhere(folder, canary):
    name = f"../{canary.folder.name}/canary"
    job = {"overrides": [f"hydra.run.dir={name}", name], "call": name, "swept": [name, f"=/{canary.folder}"]}
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "index.json").write_text(json.dumps({name: name}))
    (folder / "partition.json").write_text(json.dumps({"clients": {name: 1}, name: name}))
    edit_config(folder, "sweep.name", name)
    path = folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": {name: name}}))


@variant()
def texts_hold_terminal_escapes(folder, canary):
    path = folder / "rounds.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record["failures"] = [{"client": 9, "outcome": "\x1b[31mred", "reason": "\x1b]0;title\x07"}]
        record["test/\x1b[2J"] = 1.0
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = json.loads((folder / "summary.json").read_text())
    summary["versions"] = {"\x1b[2J\x9b2J": "\x1b[2J"}
    (folder / "summary.json").write_text(json.dumps(summary))
    edit_config(folder, "sweep.name", "\x1b]8;;http://evil\x07link")


@variant(*BUILDING)
def refused_name_holds_terminal_escapes(folder, canary):
    text = "\x1b[2Jhostile.\x07Net\u202e"
    both(folder, "model._target_", text, f"model._target_='{text}'")


@variant()
def labels_hold_markup_and_formulas(folder, canary):
    edit_config(folder, "sweep.name", "[bold]$\\badcommand{$ =1+1 [/x] |<script>")


def is_printable(text):
    """True if a terminal only prints the text."""
    return all(sign.isprintable() or sign in "\n\t\r" for sign in text)
