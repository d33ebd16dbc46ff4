"""What may befall clients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from fedlit import FedAvg
from fedlit.client.worker import FatalClientFailure
from fedlit.core.errors import LostRounds
from fedlit.data import Population
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.simulation.faults import Corrupt, Drop, FailurePolicy, FaultPlan, Raise
from matrix.commit_rows import unbroken
from matrix.lab import Broken, Quick, Rows, must, run, same

ROWS = Rows()


def struck(fault: Any, **options: Any) -> FailurePolicy:
    """A fault that strikes clients 1 and 2 whenever they take part in rounds 2 and 3."""
    return FailurePolicy(
        **{"max_lost_rounds": 9, **options}, plans=(FaultPlan(fault, 1.0, clients=(1, 2), rounds=(2, 3)),)
    )


def left_out(folder: Path, fault: Any, outcome: str, **options: Any) -> str:
    """Raises Broken unless a fault's clients are left out, with the others' bits as if they had never been asked."""
    wanted = run(folder / "dropped", faults=struck(Drop()))
    found = run(folder / "struck", faults=struck(fault, **options))
    for name in ("state", "memories", "files"):
        must(found[name] == wanted[name], f"{name}: not what it is with the clients dropped as planned")
    booked(folder / "struck", outcome)
    must(all(map(_finite, _model(folder / "struck"))), "the model is not finite")
    return ""


def booked(folder: Path, outcome: str) -> None:
    failures = [f for r in _records(folder) for f in r["failures"]]
    must(bool(failures), "nobody was struck")
    odd = [f for f in failures if f["outcome"] != outcome or f["client"] not in (1, 2) or not f["reason"]]
    must(not odd, f"booked as {odd}")


def _records(folder: Path) -> list[Any]:
    saved = DiskCheckpointer(folder).load()
    assert saved is not None
    return list(saved.records)


def _model(folder: Path) -> list[torch.Tensor]:
    saved = DiskCheckpointer(folder).load()
    assert saved is not None
    return list(saved.state.model.parameters.values())


def _finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())


@ROWS("clients that send NaN", "left out, counted, model finite")
def not_a_number(folder: Path) -> str:
    return left_out(folder, Corrupt("nan"), "not_finite")


@ROWS("clients that send Inf", "left out, counted, model finite")
def infinite(folder: Path) -> str:
    return left_out(folder, Corrupt("inf"), "not_finite")


@ROWS("clients that send huge numbers", "left out under faults.max_norm")
def huge(folder: Path) -> str:
    return left_out(folder, Corrupt("huge"), "not_finite", max_norm=1e6)


@ROWS("clients that send other shapes", "left out, with the names")
def wrong_shape(folder: Path) -> str:
    left_out(folder, Corrupt("wrong_shape"), "bad_shape")
    reasons = {f["reason"] for r in _records(folder / "struck") for f in r["failures"]}
    must(all("parameters/net.0." in reason and ", not float32" in reason for reason in reasons), f"said {reasons}")
    return ""


@ROWS("clients that send one flipped bit", "the same clients and bits each time")
def bit_flip(folder: Path) -> str:
    one, two = (run(folder / name, faults=struck(Corrupt("bit_flip"))) for name in ("one", "two"))
    same(one, two)
    must(one["state"] != unbroken()["state"], "no bit was flipped")
    return ""


@ROWS("clients lost before, or after they trained", "left out, memories as before")
def dropped(folder: Path) -> str:
    left_out(folder, Drop("after"), "planned")
    return ""


@dataclass(frozen=True)
class Failing(Quick):
    """Raises in the client rule of clients 1 and 2 in rounds 2 and 3, so often."""

    error: type[Exception] = ValueError
    path: Path | None = None

    def client(self, local: Any, shared: Any, memory: Any) -> Any:
        mark = None if self.path is None else self.path / f"{local.round}-{local.client}"
        if local.client in (1, 2) and local.round in (1, 2) and local.examples and not (mark and mark.exists()):
            if mark:
                mark.touch()
            raise self.error("went wrong")
        return super().client(local, shared, memory)


@ROWS("clients that raise, faults.on_error=drop", "left out, with the reason")
def raising(folder: Path) -> str:
    left_out(folder, Raise(), "exception")
    wanted = run(folder / "wanted", faults=struck(Drop()))
    found = run(folder / "raising", algorithm=Failing())
    must(found["state"] == wanted["state"], "the others' bits differ")
    must("ValueError: went wrong (client_rows.py:" in str(_records(folder / "raising")), "the place is not told")
    return ""


@ROWS("clients that raise once, on_error=retry", "same seeds, same bits as without")
def retried(folder: Path) -> str:
    same(run(folder / "run", algorithm=Failing(path=folder), faults=FailurePolicy("retry")), unbroken())
    must(len(list(folder.glob("*-*"))) > 1, "nobody was struck")
    return ""


@ROWS("clients that raise, on_error=fail", "the run ends, last round whole")
def failing(folder: Path) -> str:
    try:
        run(folder / "run", algorithm=Failing(), faults=FailurePolicy("fail"))
    except FatalClientFailure as error:
        must("exception: ValueError: went wrong" in str(error), f"said {error}")
    else:
        raise Broken("the run went on")
    with patch.object(Failing, "client", Quick.client):  # the same algorithm, mended
        same(run(folder / "run", algorithm=Failing()), unbroken())
    return ""


@ROWS("clients that run out of memory", "left out, the worker goes on")
def out_of_memory(folder: Path) -> str:
    for error in (torch.OutOfMemoryError, MemoryError):
        run(folder / error.__name__, algorithm=Failing(error=error))
        booked(folder / error.__name__, "out_of_memory")
    return "a simulated one"


@ROWS("clients of 0, of 1, of examples of 1 class", "ordinary clients")
def small(folder: Path) -> str:
    def shares(train: Any, generator: np.random.Generator) -> Population:
        labels = train.labels()
        owner = np.where(labels == labels[0], 3, 2)
        owner[0] = 1  # client 0 has nothing
        return Population.of(owner, 4)

    options = {"partition": shares, "algorithm": FedAvg(), "clients_per_round": 4, "local_steps": 2}
    found = run(folder / "run", **options)
    must(all(record["failures"] == "[]" for record in found["records"]), "they count as failures")
    must(all(record["clients/trained"] == "4" for record in found["records"]), "they are left out")
    must(all(map(_finite, _model(folder / "run"))), "the model is not finite")
    return ""


@ROWS("a round in which nothing weighs anything", "lost, the model stays, goes on")
def weightless(folder: Path) -> str:
    def shares(train: Any, generator: np.random.Generator) -> Population:
        return Population.of(np.zeros(len(train), dtype=np.int64), 4)  # client 0 has all

    found = run(folder / "run", partition=shares, algorithm=FedAvg(), clients_per_round=1, rounds=6,
                faults=FailurePolicy(max_lost_rounds=9))  # fmt: skip
    lost = [record["lost"] for record in found["records"]]
    must({"'no update weighs anything'", "None"} == set(lost), f"said {lost}")
    return f"{6 - lost.count('None')} of 6 rounds"


@ROWS("fewer survivors than schedule.quorum", "lost, model and memories stay")
def quorum(folder: Path) -> str:
    faults = FailurePolicy(plans=(FaultPlan(Drop(), 1.0, rounds=(2, 3)),))
    found = run(folder / "run", faults=faults, quorum=2)
    digests = [record["state_sha256"] for record in found["records"]]
    must(digests[0] == digests[1] == digests[2] != digests[3], "the model did not stay")
    lost = [record["lost"] for record in found["records"]]
    must(lost == ["None", *["'0 good updates, and schedule.quorum=2'"] * 2, "None"], f"said {lost}")
    must(set(dict(found["memories"].values())) <= {1, 4}, "memories of a lost round were kept")
    return ""


@ROWS("more lost rounds than max_lost_rounds", "the run ends; resumed, it bears as many again")
def all_lost(folder: Path) -> str:
    faults = FailurePolicy(max_lost_rounds=2, plans=(FaultPlan(Drop(), 1.0, rounds=(2, 3, 4, 5)),))
    for again, rounds in (("", 3), (" resumed", 5)):
        try:
            run(folder / "run", faults=faults, rounds=6)
        except LostRounds as error:
            must("2 rounds in a row" in str(error), f"said {error}")
        else:
            raise Broken(f"the run{again} went on")
        must(len(_records(folder / "run")) == rounds, "the lost rounds are not in the record")
    run(folder / "run", faults=faults, rounds=6)
    must(len(_records(folder / "run")) == 6, "the run did not go on to its end")
    return ""
