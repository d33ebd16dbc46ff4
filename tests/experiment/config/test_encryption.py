"""The group `encryption` of a configuration: its choices, its errors, its plan, its extra."""

import io
import subprocess
import sys

import pytest
from configured import build, errors_of
from rich.console import Console

from fedlit.experiment.plan.estimate import estimate_run
from fedlit.experiment.plan.table import plan_table
from fedlit.experiment.summary import protections

pytestmark = pytest.mark.slow  # builds configurations

SMALL = ("schedule.clients_per_round=4", "schedule.rounds=1", "schedule.local_steps=1", "executor=inline")


@pytest.mark.parametrize("overrides", [("encryption=secagg",), ("encryption=ideal", "encryption.neighbours=2")])
def test_the_plan_has_the_losses_and_the_bytes_of_the_run(overrides):
    run = build(*overrides, *SMALL)
    figures, out = estimate_run(run), io.StringIO()
    assert figures["secure_sum"] == "one group of 4 clients, of which 1 can be lost: 3 must answer"
    (record,) = run.federation.run()
    assert record.lost is None
    assert figures["up_bytes_per_round"] == record.metrics["comm/up_bytes"]
    assert figures["down_bytes_per_round"] == record.metrics["comm/down_bytes"]
    assert record.metrics["comm/up_bytes"] < 1.1 * 4 * 4 * figures["federated"]
    Console(file=out, width=80).print(plan_table(run, figures))
    assert "1 can be lost" in out.getvalue()


def test_the_plan_of_homomorphic_encryption_has_its_bytes_and_the_limit_of_a_shared_key():
    run = build("encryption=he", *SMALL)
    figures = estimate_run(run)
    (record,) = run.federation.run()
    for name in ("up_bytes", "down_bytes"):
        assert figures[f"{name}_per_round"] == pytest.approx(record.metrics[f"comm/{name}"], rel=1e-3)
    limit = (
        "3 keepers of a group have the secret key, and one of them must answer. The server reads every update if one"
    )
    assert figures["secure_sum"].startswith("one group of 4 clients, of which 1 can be lost: 3 must answer; " + limit)
    assert figures["memory_bytes"] > 4 * 16 * figures["federated"]  # sums of ciphertexts, 16 bytes a number
    assert "that key opens the update of every client" in protections(run.federation)[0]


@pytest.mark.parametrize("executor", ["inline", "vectorized"])
def test_all_choices_have_the_same_bits(executor):
    runs = [build(f"encryption={name}", *SMALL, f"executor={executor}") for name in ("secagg", "ideal", "he")]
    assert len({next(run.federation.run()).sha256 for run in runs}) == 1


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        (("encryption.scheme=ckks",), "encryption.scheme", "Li and Micciancio 2021"),
        (("encryption.scheme=paillier",), "encryption.scheme", "must be one of bfv"),
        (("encryption.keepers=0",), "encryption.keepers", "at least 1"),
        (("encryption.bits=31",), "encryption.ring", "is too small"),
        (("schedule.clients_per_round=2",), "encryption", "cohorts of 3 clients or more"),
        (("sampler=power_of_choice",), "encryption", "asks for their losses"),
        (("model.norm=batch",), "encryption", "num_batches_tracked"),
        (("compression=int8",), "compression", "need all of them"),
        (("privacy=central", "privacy.noise_multiplier=1"), "encryption", "can become longer than the norm"),
        (("faults=drop", "faults.plans.drop.fault.exchange=5"), "faults.plans.drop.fault.exchange", "from 1 to 4"),
    ],
)
def test_settings_that_do_not_go_with_homomorphic_encryption_are_refused(overrides, key, text):
    assert text in errors_of("encryption=he", "schedule.rounds=1", *overrides)[key]


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        (("schedule.clients_per_round=2",), "encryption", "cohorts of 3 clients or more"),
        (("sampler=power_of_choice",), "encryption", "asks for their losses"),
        (("model.norm=batch",), "encryption", "num_batches_tracked"),
        (("encryption.bits=31",), "encryption.ring", "is too small"),
        (("encryption.threshold=0.3",), "encryption.threshold", "greater than 0.5"),
        (("encryption.range=0",), "encryption.range", "range"),
        (("faults=drop", "faults.plans.drop.fault.exchange=5"), "faults.plans.drop.fault.exchange", "from 1 to 4"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides, key, text):
    errors = errors_of("encryption=secagg", "schedule.rounds=1", *overrides)
    assert text in errors[key]


@pytest.mark.parametrize(
    ("library", "name", "extra"),
    [
        ("cryptography", "SecAgg", "fedlit[secure]"),
        ("tenseal", "HomomorphicSum", "fedlit[he]"),
    ],
)
def test_without_the_library_the_error_names_the_extra(library, name, extra):
    program = (
        f"import sys; sys.modules['{library}'] = None\n"
        "from fedlit.core.errors import ConfigError\n"
        "from fedlit.aggregation.secure import IdealSum\n"
        f"try:\n    from fedlit.aggregation.secure import {name}\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert f"pip install '{extra}'" in output
