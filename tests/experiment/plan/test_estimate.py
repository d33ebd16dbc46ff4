"""The plan of a run before round 1 has the figures of the run."""

import io
import time
from dataclasses import replace

import pytest
from configured import build
from rich.console import Console

from fedlit.experiment.plan.estimate import _memory_bytes, estimate_run
from fedlit.experiment.plan.table import format_duration, plan_table

pytestmark = pytest.mark.slow  # whole runs


def test_figures_of_the_plan_equal_those_of_the_run():
    run = build("schedule.rounds=2", "data.batch_size=16", "model.norm=batch", "algorithm.buffers=server")
    begin = time.perf_counter()
    figures = estimate_run(run)
    assert figures["clients"] == 10
    assert figures["samples_per_client"]["max"] == max(run.partition["sizes"])
    assert figures["steps_per_client"]["max"] == 2 * -(-max(run.partition["sizes"]) // 16)
    assert (figures["parameters"], figures["buffers"]) == (53_194, 194)
    assert figures["federated"] == 53_194
    assert len(figures["stay"]) == 6
    records = list(run.federation.run())
    assert figures["up_bytes_per_round"] == records[0].metrics["comm/up_bytes"]
    assert figures["down_bytes_per_round"] == records[0].metrics["comm/down_bytes"]
    assert figures["bytes"] == 2 * (figures["up_bytes_per_round"] + figures["down_bytes_per_round"])
    assert 0 < figures["batch_s"] < time.perf_counter() - begin
    assert figures["seconds"] > 0


@pytest.mark.parametrize("codec", ["half", "int8", "qsgd", "topk", "randk", "sign", "powersgd"])
def test_bytes_of_the_plan_are_those_that_are_packed(codec):
    down = {"topk": "half", "randk": "int8", "sign": "qsgd"}.get(codec, "none")
    overrides = ["schedule.rounds=1", "schedule.local_steps=1", "model.norm=batch"]
    run = build(f"compression={codec}", f"compression/down={down}", *overrides)
    figures, (record,) = estimate_run(run), list(run.federation.run())
    assert figures["up_bytes_per_round"] == record.metrics["comm/up_bytes"]
    assert figures["down_bytes_per_round"] == record.metrics["comm/down_bytes"]


def test_cohorts_of_the_plan_are_those_of_the_run():
    run = build("sampler=poisson", "sampler.q=0.4", "schedule.rounds=4", "schedule.local_steps=1")
    figures, out = estimate_run(run), io.StringIO()
    sizes = [len(record.cohort) for record in run.federation.run()]
    assert (figures["cohort"], figures["cohorts"]) == (sum(sizes) / 4, [min(sizes), max(sizes)])
    Console(file=out, width=80).print(plan_table(run, figures))
    assert f"10, {min(sizes)} to {max(sizes)}, {sum(sizes) / 4:.1f} on average, in a round" in out.getvalue()


def test_candidates_are_in_the_plan():
    run = build("sampler=power_of_choice", "sampler.candidates=5", "schedule.rounds=1", "schedule.local_steps=1")
    figures, out = estimate_run(run), io.StringIO()
    (record,) = run.federation.run()
    assert (figures["cohort"], figures["asked"]) == (3, record.metrics["clients/asked"])
    assert figures["up_bytes_per_round"] == record.metrics["comm/up_bytes"]
    assert figures["down_bytes_per_round"] == record.metrics["comm/down_bytes"]
    Console(file=out, width=80).print(plan_table(run, figures))
    assert "3 of 5 candidates in a round" in out.getvalue()


def test_measuring_changes_no_result():
    measured, fresh = build("schedule.rounds=1"), build("schedule.rounds=1")
    estimate_run(measured)
    assert [r.sha256 for r in measured.federation.run()] == [r.sha256 for r in fresh.federation.run()]


def test_steps_depend_on_accumulation_and_drop_last():
    run = build("data.drop_last=true", "trainer.accumulate_grad_batches=2", "partition=iid", "partition.num_clients=4")
    sizes = run.partition["sizes"]
    assert estimate_run(run)["steps_per_client"]["max"] == 2 * -(-(max(sizes) // 16) // 2)


@pytest.mark.parametrize(("limit", "batches"), [("3", 3), ("0.3", 6)])
def test_steps_depend_on_a_limit_of_batches_as_in_the_run(limit, batches):
    iid = ["partition=iid", "partition.num_clients=4", "schedule.local_epochs=1", "schedule.rounds=1"]
    run = build(f"+trainer.limit_train_batches={limit}", *iid, "schedule.clients_per_round=1", "data.val_fraction=0")
    assert estimate_run(run)["steps_per_client"]["max"] == batches
    (record,) = run.federation.run()
    assert record.metrics["clients/steps"] == batches


def test_plan_table_fits_a_terminal_and_lists_the_files():
    run, out = build(), io.StringIO()
    Console(file=out, width=80).print(plan_table(run, estimate_run(run)))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for part in ("10, 3 in a round, 20 rounds", "53,002 parameters", "rounds.jsonl", "one batch", "the whole run"):
        assert part in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.3, "1 second"), (5, "5 seconds"), (120, "2.0 minutes"), (9000, "2.5 hours")]
)
def test_durations_are_in_a_readable_unit(seconds, text):
    assert format_duration(seconds) == text


def test_plan_of_a_resumed_run_has_the_remaining_work():
    run, out = build("schedule.eval_every=5"), io.StringIO()
    figures, whole = (estimate_run(replace(run, finished_rounds=(None,) * done)) for done in (7, 0))
    assert (figures["rounds"], figures["done"], whole["done"]) == (20, 7, 0)
    assert figures["bytes"] * 20 == whole["bytes"] * 13
    assert figures["steps"] * 20 == pytest.approx(whole["steps"] * 13)
    Console(file=out, width=80).print(plan_table(run, figures))
    for part in ("20 rounds, 7 done, 13 left", "bytes left", "the rest"):
        assert part in out.getvalue()


def test_the_servers_memory_counts_what_stays_with_the_server():
    setting = ("privacy=ftrl", "privacy.noise_multiplier=1", "sampler=min_separation", "algorithm.weights=uniform")
    memory = {}
    for bands in (1, 3):
        federation = build(*setting, f"privacy.bands={bands}", "schedule.client_fraction=0.2").federation
        layout = federation.update_layout(federation.initial_state())
        memory[bands] = _memory_bytes(federation, layout, 2.0)
    strategy = 2 * 8 * 2 * federation.schedule.rounds  # one number a round and band
    assert memory[3] - memory[1] == 2 * 8 * 2 * layout.size + strategy
