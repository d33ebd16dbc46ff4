"""TODO."""

from __future__ import annotations

JOB = "job.json"
FAILURE = "failure.json"
INDEX = "index.json"
SUMMARY = "summary.json"
COMMAND = "command.json"


FOLDER = "checkpoints"
JOURNAL = "rounds.jsonl"
