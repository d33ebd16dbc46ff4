"""Messages between server and clients, server state, results of a round's jobs."""

from fedlit.core.messages.jobs import EvaluateJob, Exchange, ExchangeJob, Job, LossJob, TrainJob
from fedlit.core.messages.results import (
    LOSS_QUERY,
    OUTCOMES,
    Aggregate,
    ClientFailure,
    EvalResult,
    ExchangeResult,
    LossResult,
    Outcome,
    PartialAggregate,
    Result,
)
from fedlit.core.messages.state import ServerState, Shared, StageState, Update

__all__ = [
    "LOSS_QUERY",
    "OUTCOMES",
    "Aggregate",
    "ClientFailure",
    "EvalResult",
    "EvaluateJob",
    "Exchange",
    "ExchangeJob",
    "ExchangeResult",
    "Job",
    "LossJob",
    "LossResult",
    "Outcome",
    "PartialAggregate",
    "Result",
    "ServerState",
    "Shared",
    "StageState",
    "TrainJob",
    "Update",
]
