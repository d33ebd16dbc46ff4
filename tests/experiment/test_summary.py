"""The summary names the processor, on which the bits of results depend."""

import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import federation

from fedlit.aggregation import Channel
from fedlit.aggregation.compression import TopK
from fedlit.experiment.summary import RunTracker, describe_processor


def test_the_summary_names_processor_and_instruction_set(monkeypatch):
    for key in ("ATEN_CPU_CAPABILITY", "MKL_CBWR"):
        monkeypatch.delenv(key, raising=False)
    fed = federation(rounds=1)
    tracker = RunTracker(fed.monitor)
    for record in fed.run():
        tracker.add(record)
    processor = tracker.summary(1.0, 0)["processor"]
    assert processor == describe_processor()
    assert processor["name"]
    assert processor["instruction_set"] == torch.backends.cpu.get_cpu_capability()
    assert not {"ATEN_CPU_CAPABILITY", "MKL_CBWR"} & processor.keys()


def test_the_summary_has_the_bytes_of_all_rounds_and_their_ratio():
    fed = federation(rounds=2)
    fed = fed.with_worker(replace(fed.worker, channel=Channel.of([TopK(0.01)])))
    tracker, packed = RunTracker(fed.monitor), 0
    for record in fed.run():
        tracker.add(record)
        packed += record.metrics["comm/up_bytes"]
    summary = tracker.summary(1.0, 0)
    numbers = summary["parameters"]
    assert summary["up_bytes"] == packed
    assert summary["compression_ratio"] == pytest.approx(2 * 2 * (8 + 4 * numbers) / packed)
    assert 70 < summary["compression_ratio"] < 80


def test_a_variable_that_limits_instruction_sets_is_named(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert describe_processor()["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_the_processor_has_a_name_on_every_system(monkeypatch):
    text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: other\n"
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert describe_processor()["name"] == "AMD EPYC, family 25, model 17"
    monkeypatch.setattr(Path, "read_text", lambda path: "processor\t: 0\nCPU part\t: 0xd40\n")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert describe_processor()["name"] == platform.machine()
