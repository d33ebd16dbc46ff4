#!/usr/bin/env python
"""Print digests of all that small runs leave behind.

    scripts/golden.py --out A                      # of the checkout that holds this script
    scripts/golden.py --root CHECKOUT --out B      # of another one
    scripts/golden.py --compare A B                # the lines that differ

The script uses the command line and the files of a run alone, so it fits checkouts of any layout. Each line is
`section  case  thing  digest`. `results` are numbers, `names` have names of classes and hashes over them, `texts` are
words and pictures. Times, versions and paths are in none. The exit status is 1 if a command or a comparison fails.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SECTIONS = ("results", "names", "texts")
SHORT = "schedule.rounds=3 executor=inline"
ALL = f"{SHORT} schedule.client_fraction=1.0"
OWN = "data.client_test_fraction=0.2"
WORKERS = "schedule.rounds=3 executor=processes executor.workers=2"
ONE = "{0} faults.plans.{0}.probability=1 faults.plans.{0}.rounds=[2] faults.plans.{0}.clients=[9]"
CRASH = "algorithm=scaffold faults=crash_server faults.server.step=rename"
HOSPITALS = "data=heart_disease partition=natural model=logistic schedule.local_steps=20 eval.clients=all"
SPEAKERS = "data=shakespeare partition=natural model=char_lstm schedule.clients_per_round=2 schedule.local_steps=3"
RAISE = "faults=raise faults.plans.raise.probability=0.3"
CORRUPT = "faults=corrupt faults.plans.corrupt.probability=0.4 faults.max_norm=100 schedule.quorum=8"
OTHERS = "fednova,fedavgm,fedadam,fedyogi,fedadagrad,qfedavg,fedper,fedrep,local,finetune,centralised"
CASES = {
    "workers": WORKERS,
    "default": SHORT,
    "crash-worker": f"{WORKERS} faults={ONE.format('crash_worker')}",
    "hang": f"{WORKERS} executor.wall_timeout_s=8 faults={ONE.format('hang')}",
    "resume": f"{SHORT} {CRASH}; resume=run; resume=run schedule.rounds=4",
    "hospitals": f"{ALL} {HOSPITALS} data.val_fraction=0",
    "speakers": f"{SHORT} {SPEAKERS}",
    "scaffold": f"{SHORT} algorithm=scaffold checkpoint.every=1",
    "feddyn": f"{SHORT} algorithm=feddyn checkpoint.every=1",
    "moon": f"{ALL} algorithm=moon",
    "ditto": f"{SHORT} algorithm=ditto {OWN} eval.clients=all checkpoint.every=1",
    "fedbn": f"{SHORT} algorithm=fedbn algorithm@algorithm.inner=scaffold model.norm=batch {OWN}",
    "norm": f"{SHORT} model.norm=batch",
    "late": f"-m {SHORT} algorithm=fedprox clock=lognormal clock.deadline_s=1 clock.late=drop,cut",
    "surplus": f"{SHORT} clock=lognormal clock.deadline_s=4 schedule.over_select=2",
    "failing": f"-m {ALL} faults=drop,raise,corrupt faults.on_error=retry",
    "corrupt": f"-m {ALL} {CORRUPT} faults.plans.corrupt.fault.how=huge,bit_flip,wrong_shape",
    "choice": f"{SHORT} sampler=power_of_choice algorithm.weights=uniform {RAISE}",
    "keep": f"{ALL} schedule.client_state=keep",
    "sweep": f"-m {SHORT} algorithm=fedavg,fedprox seed=1,2",
    "algorithms": f"-m {SHORT} {OWN} algorithm={OTHERS}",
    "partitions": f"-m {SHORT} model=mlp partition=dirichlet_client,shards,classes,quantity,noise,iid",
    "samplers": f"-m {SHORT} sampler=weighted,round_robin,poisson,available schedule.lr=cosine",
}
"""Words after `python -m fedlit.train`, by case, commands parted by `; `. A single run lies in the folder `run`."""

KILLED = "faults=crash_server"
LEFT_OUT = {"seconds", "wall_s", "versions", "platform", "folder", "failed_jobs", "reason", "why"}
NAMES = ("_target_", "network")


def digest(content: Any) -> str:
    """The start of the SHA-256 of bytes, or of a value as JSON."""
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True, default=str).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def is_time(key: str) -> bool:
    """Tell seconds on the wall from other measurements."""
    return "time/" in key and not key.endswith("time/simulated_s")


def comparable(value: Any, *without: str) -> Any:
    """A value without times, versions, paths, names of classes, and some more keys.

    Tensors become their dtype, shape and digest. Failures keep client and outcome. A lost round keeps that it is lost.
    """
    if isinstance(value, Mapping):
        left = {str(key): part for key, part in value.items() if not is_time(str(key))}
        left = {key: part for key, part in left.items() if key not in {*LEFT_OUT, *NAMES, *without}}
        return {key: part is not None if key == "lost" else comparable(part, *without) for key, part in left.items()}
    if isinstance(value, list | tuple):
        return [comparable(part, *without) for part in value]
    if isinstance(value, torch.Tensor):
        numbers = value.contiguous().view(-1).view(torch.uint8)
        return [str(value.dtype), list(value.shape), digest(numbers.numpy().tobytes())]
    return None if isinstance(value, str) and Path(value).is_absolute() else value


def named(value: Any, key: str = "config") -> Iterator[tuple[str, str]]:
    """Names of classes in a configuration, each under its dotted key."""
    for name, part in value.items() if isinstance(value, Mapping) else ():
        if name in NAMES:
            yield f"{key}.{name}", str(part)
        yield from named(part, f"{key}.{name}")


def read(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_bytes())


Line = tuple[str, str, str]
"""Section, thing, digest."""


def lines_of_run(run: Path) -> Iterator[Line]:
    """The lines of one run."""
    files = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    yield "results", "files", digest([re.sub(r"events\.out.*", "events", name) for name in files])
    for record in map(json.loads, (run / "rounds.jsonl").read_text().splitlines()):
        number = f"round-{record['round']}"
        yield "results", f"{number}/state", record["state_sha256"][:16]
        yield "results", f"{number}/record", digest(comparable(record))
        if reasons := [failure["reason"] for failure in record["failures"]]:
            yield "texts", f"{number}/reasons", digest(reasons)
        if record["lost"] is not None:
            yield "texts", f"{number}/lost", digest(record["lost"])
    summary = read(run / "summary.json")
    yield "results", "summary", digest(comparable(summary, "state_sha256", "digest"))
    yield from (("results", f"digest/{name}", value[:16]) for name, value in summary["digest"].items())
    yield "results", "partition", digest(read(run / "partition.json"))
    yield "results", "model.safetensors", digest((run / "model.safetensors").read_bytes())
    for name in ("model.ckpt", "best.ckpt"):
        checkpoint = torch.load(run / name, map_location="cpu", weights_only=True)
        yield "results", name, digest(comparable(checkpoint, "pytorch-lightning_version"))
        yield "names", f"{name}/bytes", digest((run / name).read_bytes())
    config = yaml.safe_load((run / "config.yaml").read_bytes())
    yield "results", "config", digest(comparable(config))
    yield from (("names", key, name) for key, name in named(config))
    for path in sorted((run / "checkpoints").glob("*/*.safetensors")):
        yield "results", f"{path.parent.name}/{path.stem}", digest(path.read_bytes())
    last = max((run / "checkpoints").glob("round-*"))
    yield "names", "experiment", digest(read(last / "round.json")["experiment"])
    folder = next(run.glob("*/events.out.tfevents*")).parent
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    for tag in sorted(tag for tag in events.Tags()["scalars"] if not is_time(tag)):
        yield "results", f"scalar/{tag}", digest([(event.step, event.value) for event in events.Scalars(tag)])
    yield "texts", "partition.png", digest((run / "partition.png").read_bytes())


def lines_of_sweep(sweep: Path) -> Iterator[Line]:
    """The lines of a sweep and its jobs."""
    yield "names", "sweep", sweep.name
    jobs = {" ".join(read(path)["overrides"]): path.parent for path in sweep.glob("*/job.json")}
    swept = [[word for word in job.split() if not all(word in other.split() for other in jobs)] for job in jobs]
    for words, job in sorted(zip(swept, jobs.values(), strict=True)):
        label = ",".join(words)
        yield "names", f"{label}/folder", job.name
        yield from ((section, f"{label}/{thing}", value) for section, thing, value in lines_of_run(job))
    report = comparable(read(sweep / "report.json"))
    report["runs"].sort(key=digest)  # they stand in the order of their folders' names
    yield "results", "report.json", digest(report)
    with (sweep / "report.csv").open(newline="") as file:
        yield "results", "report.csv", digest(sorted(comparable(list(csv.DictReader(file))), key=digest))
    head, costs, rest = re.split(r"(?s)(## whole runs\n.*?\narea:)", (sweep / "report.md").read_text())
    costs = re.sub(r"\|[^|]*\|\n", "|\n", costs)  # without the last column, of wall time
    yield "texts", "report.md", digest(head + costs + rest)
    yield from (("texts", path.name, digest(path.read_bytes())) for path in sorted(sweep.glob("*.png")))


def lines_of(case: str, root: Path) -> list[Line] | str:
    """The lines of a case, or what went wrong with it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("FEDLIT_", "HYDRA_"))}
    environment = {**inherited, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with TemporaryDirectory(prefix="fedlit-golden-") as folder:
        for typed in CASES[case].split("; "):
            words = [*typed.split(), *([] if typed.startswith(("-m", "resume=")) else ["hydra.run.dir=run"])]
            command = [sys.executable, "-m", "fedlit.train", *words]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            wanted = -9 if KILLED in words else 0
            if done.returncode != wanted:
                tail = "\n    ".join([" ".join(words), *done.stderr.splitlines()[-15:]])
                return f"{case}: status {done.returncode} in place of {wanted}\n    {tail}"
        sweeps = [*Path(folder).glob("outputs/sweeps/*")]
        try:
            return [*(lines_of_sweep(sweeps[0]) if sweeps else lines_of_run(Path(folder) / "run"))]
        except (OSError, KeyError, ValueError) as error:
            return f"{case}: its files cannot be read: {error!r}"


def collect(root: Path, cases: Iterable[str]) -> tuple[list[str], list[str]]:
    """All lines, and what went wrong; two cases run at a time."""
    found: dict[str, list[Line]] = {}
    wrong: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        for case, lines in zip(cases, pool.map(lambda case: lines_of(case, root), cases), strict=True):
            if isinstance(lines, str):
                wrong.append(lines)
            else:
                found[case] = lines
    text: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for case, lines in sorted(found.items()):
        for section, thing, value in lines:
            text[section].append(f"{section}  {case}  {thing}  {value}")
    totals = [f"total  {section}  {len(lines)} lines  {digest(lines)}" for section, lines in text.items()]
    return [line for lines in text.values() for line in lines] + totals, wrong


def compare(before: Path, after: Path) -> bool:
    """Print the lines that two outputs do not share; return whether the results are the same."""
    old, new = ({line for line in path.read_text().splitlines() if line[:6] != "total "} for path in (before, after))
    places = {line: (SECTIONS.index(line.split()[0]), line.rpartition("  ")[0], line in new) for line in old ^ new}
    for line in sorted(places, key=places.__getitem__):
        print("+" if line in new else "-", line)
    results, differing = ([line for line in lines if line.startswith("results ")] for lines in (old, places))
    return bool(results) and not differing


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the checkout that runs")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--out", type=Path, help="a file that gets the lines too")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two such files; nothing runs")
    typed = parser.parse_args()
    if typed.compare:
        sys.exit(not compare(*typed.compare))
    root = typed.root.resolve()
    if not (root / "fedlit").is_dir():  # else an installed one would run in its place
        parser.error(f"{root} holds no fedlit")
    lines, wrong = collect(root, typed.only or CASES)
    text = "".join(f"{line}\n" for line in lines)
    print(text, end="")
    if typed.out:
        typed.out.write_text(text)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
