import json
import pickle

import pytest
import torch

from fedlit.core.errors import ConfigError
from fedlit.core.messages import ClientFailure, ServerState, Shared
from fedlit.core.model import FitResult, Model
from fedlit.runs.record import RoundRecord

MODEL = Model({"w": torch.tensor([1.0, 2.0])}, {"mean": torch.tensor([0.5]), "count": torch.tensor(7)})


def test_a_step_moves_floats_and_rounds_integers():
    moved = MODEL.add(
        {
            "parameters": {"w": torch.tensor([0.5, -0.5], dtype=torch.float64)},
            "buffers": {"mean": torch.tensor([1.0]), "count": torch.tensor(2.6)},
        }
    )
    assert moved.parameters["w"].tolist() == [1.5, 1.5]
    assert moved.buffers["mean"].tolist() == [1.5]
    assert moved.buffers["count"] == 10
    assert moved.buffers["count"].dtype == torch.int64
    assert moved.parameters["w"].dtype == torch.float32


def test_tensors_that_are_not_in_the_step_stay_the_same():
    assert MODEL.add({}).buffers["count"] is MODEL.buffers["count"]
    assert MODEL.add({"parameters": {}}).parameters["w"] is MODEL.parameters["w"]


def test_a_step_is_added_in_float64():
    big = Model({"w": torch.tensor([1.0])}, {})
    tiny = torch.tensor([2.0**-24], dtype=torch.float64)
    assert big.add({"parameters": {"w": tiny * 1.5}}).parameters["w"].item() == 1.0 + 2.0**-23


def test_delta_is_model_less_start_for_both_groups():
    after = MODEL.add({"parameters": {"w": torch.tensor([1.0, 1.0])}, "buffers": {"count": torch.tensor(3)}})
    delta = FitResult(after, 1, 1, {}).delta(MODEL)
    assert delta["parameters"]["w"].tolist() == [1.0, 1.0]
    assert delta["buffers"]["count"] == 3


def test_a_record_is_json_and_a_state_pickles():
    record = RoundRecord(
        number=1,
        cohort=(2, 5),
        metrics={"train/loss": 0.5},
        failures=(ClientFailure(5, "not_finite", "NaN"),),
        sha256="abc",
        model=MODEL,
    ).to_dict()
    assert json.loads(json.dumps(record)) == {
        "round": 1,
        "cohort": [2, 5],
        "train/loss": 0.5,
        "lost": None,
        "state_sha256": "abc",
        "failures": [{"client": 5, "outcome": "not_finite", "reason": "NaN"}],
    }
    assert torch.equal(
        pickle.loads(pickle.dumps(ServerState(3, Shared(MODEL)))).model.parameters["w"], MODEL.parameters["w"]
    )


def test_constant_infinities_and_booleans_can_be_sent():
    start = Model({}, {"mask": torch.tensor([0.0, float("-inf")]), "seen": torch.tensor([True, False])})
    after = Model({}, {"mask": torch.tensor([0.5, float("-inf")]), "seen": torch.tensor([True, True])})
    delta = FitResult(after, 1, 1, {}).delta(start)["buffers"]
    assert delta["mask"].tolist() == [0.5, 0.0]
    assert delta["seen"].tolist() == [0, 1]
    moved = start.add({"buffers": {name: tensor.double() for name, tensor in delta.items()}}).buffers
    assert moved["mask"].tolist() == [0.5, float("-inf")]
    assert moved["seen"].tolist() == [True, True]


def test_integers_move_exactly_or_are_an_error():
    start = Model({}, {"far": torch.tensor([2**60, 5]), "small": torch.tensor([250], dtype=torch.uint8)})
    after = Model({}, {"far": torch.tensor([2**60 + 2**24, 4]), "small": torch.tensor([3], dtype=torch.uint8)})
    delta = FitResult(after, 1, 1, {}).delta(start)["buffers"]
    assert delta["small"].tolist() == [-247]
    moved = start.add({"buffers": {name: tensor.double() for name, tensor in delta.items()}}).buffers
    assert all(torch.equal(moved[name], after.buffers[name]) for name in moved)
    too_far = FitResult(Model({}, {**after.buffers, "far": torch.tensor([2**60 + 2**24 + 1, 4])}), 1, 1, {})
    with pytest.raises(ConfigError, match="cannot average far") as error:
        too_far.delta(start)
    assert error.value.key == "algorithm.buffers"
    assert too_far.delta(start, buffers=False) == {"parameters": {}}
