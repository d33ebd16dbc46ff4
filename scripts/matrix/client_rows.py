"""Faults of clients."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from fedlit import FedAvg
from fedlit.core.errors import FatalClientFailure, LostRounds
from fedlit.data import Population
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.simulation import Corrupt, Drop, FailurePolicy, Fault, FaultPlan, Raise
from matrix.checkpoint_rows import reference_run
from matrix.lab import Broken, Quick, Rows, expect, expect_same, run

ROWS = Rows()


def two_client_policy(fault: Fault, **options: Any) -> FailurePolicy:
    """A policy with a fault that strikes clients 1 and 2 in rounds 2 and 3."""
    return FailurePolicy(
        **{"max_lost_rounds": 9, **options}, plans=(FaultPlan(fault, 1.0, clients=(1, 2), rounds=(2, 3)),)
    )


def expect_left_out(folder: Path, fault: Fault, outcome: str, **options: Any) -> str:
    """Raise Broken unless the faulty clients are left out, and the rest is bit-identical to a run in which they drop out."""
    expected = run(folder / "dropped", faults=two_client_policy(Drop()))
    result = run(folder / "struck", faults=two_client_policy(fault, **options))
    for name in ("state", "client_states", "files"):
        expect(result[name] == expected[name], f"{name}: differs from the run in which these clients drop out")
    expect_failures(folder / "struck", outcome)
    expect(all(map(_finite, _model(folder / "struck"))), "the model is not finite")
    return ""


def expect_failures(folder: Path, outcome: str) -> None:
    """Raise Broken unless clients 1 and 2 failed with an outcome and a reason."""
    failures = [f for r in _records(folder) for f in r["failures"]]
    expect(bool(failures), "no client failed")
    wrong = [f for f in failures if f["outcome"] != outcome or f["client"] not in (1, 2) or not f["reason"]]
    expect(not wrong, f"recorded failures: {wrong}")


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
    return expect_left_out(folder, Corrupt("nan"), "not_finite")


@ROWS("clients that send Inf", "left out, counted, model finite")
def infinite(folder: Path) -> str:
    return expect_left_out(folder, Corrupt("inf"), "not_finite")


@ROWS("clients that send huge numbers", "left out under faults.max_norm")
def huge(folder: Path) -> str:
    return expect_left_out(folder, Corrupt("huge"), "not_finite", max_norm=1e6)


@ROWS("clients that send other shapes", "left out, with the names")
def wrong_shape(folder: Path) -> str:
    expect_left_out(folder, Corrupt("wrong_shape"), "bad_shape")
    reasons = {f["reason"] for r in _records(folder / "struck") for f in r["failures"]}
    expect(
        all("parameters/net.0." in reason and ", not float32" in reason for reason in reasons), f"reasons: {reasons}"
    )
    return ""


@ROWS("clients that send one flipped bit", "same clients and same bits each time")
def bit_flip(folder: Path) -> str:
    one, two = (run(folder / name, faults=two_client_policy(Corrupt("bit_flip"))) for name in ("one", "two"))
    expect_same(one, two)
    expect(one["state"] != reference_run()["state"], "no bit was flipped")
    return ""


@ROWS("clients that drop out before or after training", "left out, client state unchanged")
def dropped(folder: Path) -> str:
    expect_left_out(folder, Drop("after"), "planned")
    return ""


@dataclass(frozen=True)
class Failing(Quick):
    """Raises an error in the client rule of clients 1 and 2 in rounds 2 and 3.

    Args:
        error: class of the error.
        path: folder with a file for each error, so that each is raised once; None to raise it every time.
    """

    error: type[Exception] = ValueError
    path: Path | None = None

    def client(self, local: Any, shared: Any, client_state: Any) -> Any:
        if local.examples and local.client in (1, 2) and local.round in (1, 2):
            mark = None if self.path is None else self.path / f"{local.round}-{local.client}"
            if mark is None or not mark.exists():
                if mark is not None:
                    mark.touch()
                raise self.error("went wrong")
        return super().client(local, shared, client_state)


@ROWS("clients that raise, faults.on_error=drop", "left out, with the reason")
def raising(folder: Path) -> str:
    expect_left_out(folder, Raise(), "exception")
    expected = run(folder / "wanted", faults=two_client_policy(Drop()))
    result = run(folder / "raising", algorithm=Failing())
    expect(result["state"] == expected["state"], "the other clients' results differ")
    reasons = str(_records(folder / "raising"))
    expect(
        re.search(r"ValueError: went wrong, at \S*client_rows\.py:\d+ in client: raise", reasons) is not None,
        "the reason lacks the file and the line",
    )
    return ""


@ROWS("clients that raise once, on_error=retry", "same seeds, same bits")
def retried(folder: Path) -> str:
    expect_same(run(folder / "run", algorithm=Failing(path=folder), faults=FailurePolicy("retry")), reference_run())
    expect(len(list(folder.glob("*-*"))) > 1, "no client failed")
    return ""


@ROWS("clients that raise, on_error=fail", "the run ends, its last round is complete")
def failing(folder: Path) -> str:
    try:
        run(folder / "run", algorithm=Failing(), faults=FailurePolicy("fail"))
    except FatalClientFailure as error:
        expect("exception: ValueError: went wrong" in str(error), f"message: {error}")
    else:
        raise Broken("no error was raised")
    with patch.object(Failing, "client", Quick.client):  # the same algorithm without the error
        expect_same(run(folder / "run", algorithm=Failing()), reference_run())
    return ""


@ROWS("clients that run out of memory", "left out, the worker continues")
def out_of_memory(folder: Path) -> str:
    for error in (torch.OutOfMemoryError, MemoryError):
        run(folder / error.__name__, algorithm=Failing(error=error))
        expect_failures(folder / error.__name__, "out_of_memory")
    return "simulated"


@ROWS("clients of 0, of 1, of examples of 1 class", "ordinary clients")
def small(folder: Path) -> str:
    def partition(train: Any, generator: np.random.Generator) -> Population:
        labels = train.labels()
        owner = np.where(labels == labels[0], 3, 2)
        owner[0] = 1  # client 0 has no sample
        return Population.of(owner, 4)

    options = {"partition": partition, "algorithm": FedAvg(), "clients_per_round": 4, "local_steps": 2}
    result = run(folder / "run", **options)
    expect(all(record["failures"] == "[]" for record in result["records"]), "these clients count as failures")
    expect(all(record["clients/trained"] == "4" for record in result["records"]), "these clients are left out")
    expect(all(map(_finite, _model(folder / "run"))), "the model is not finite")
    return ""


@ROWS("a round of total weight 0", "lost, the model stays, the run continues")
def weightless(folder: Path) -> str:
    def partition(train: Any, generator: np.random.Generator) -> Population:
        return Population.of(np.zeros(len(train), dtype=np.int64), 4)  # client 0 has all samples

    result = run(folder / "run", partition=partition, algorithm=FedAvg(), clients_per_round=1, rounds=6,
                faults=FailurePolicy(max_lost_rounds=9))  # fmt: skip
    lost = [record["lost"] for record in result["records"]]
    expect({"'the weights of all updates are 0'", "None"} == set(lost), f"reasons: {lost}")
    return f"{6 - lost.count('None')} of 6 rounds"


@ROWS("fewer updates than schedule.quorum", "lost, model and client state stay")
def quorum(folder: Path) -> str:
    faults = FailurePolicy(plans=(FaultPlan(Drop(), 1.0, rounds=(2, 3)),))
    result = run(folder / "run", faults=faults, quorum=2)
    digests = [record["state_sha256"] for record in result["records"]]
    expect(digests[0] == digests[1] == digests[2] != digests[3], "the model of a lost round changed")
    lost = [record["lost"] for record in result["records"]]
    expect(lost == ["None", *["'0 updates arrived, and schedule.quorum=2'"] * 2, "None"], f"reasons: {lost}")
    expect(set(dict(result["client_states"].values())) <= {1, 4}, "client state of a lost round was kept")
    return ""


@ROWS("more lost rounds than max_lost_rounds", "the run ends; on resume the count starts again")
def all_lost(folder: Path) -> str:
    faults = FailurePolicy(max_lost_rounds=2, plans=(FaultPlan(Drop(), 1.0, rounds=(2, 3, 4, 5)),))
    for again, rounds in (("", 3), (" resumed", 5)):
        try:
            run(folder / "run", faults=faults, rounds=6)
        except LostRounds as error:
            expect("2 rounds in a row" in str(error), f"message: {error}")
        else:
            raise Broken(f"the run{again} raised no error")
        expect(len(_records(folder / "run")) == rounds, "the lost rounds have no record")
    run(folder / "run", faults=faults, rounds=6)
    expect(len(_records(folder / "run")) == 6, "the run did not finish")
    return ""
