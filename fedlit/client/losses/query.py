"""A candidate's answer to the question for its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite, nan

from fedlit.client.failures import FailureReports
from fedlit.core.messages import LOSS_QUERY, ClientFailure, LossResult


def answer_loss_query(client: int, measure: Callable[[], float], retries: int, reports: FailureReports) -> LossResult:
    """Measure a candidate's loss; retry failures.

    Args:
        client: id of the candidate.
        measure: measures the loss.
        retries: retries after a failure, >= 0.
        reports: the reports of failing clients.
    """
    result = _try_once(client, measure, reports)
    for _ in range(retries):
        result = result if result.failure is None else _try_once(client, measure, reports)
    return result


def _try_once(client: int, measure: Callable[[], float], reports: FailureReports) -> LossResult:
    try:
        loss = measure()
    except Exception as error:
        failure = reports.classify(client, error)
    else:
        if isfinite(loss):
            return LossResult(client, loss)
        failure = ClientFailure(client, "not_finite", f"loss {loss}")
    return LossResult(client, nan, replace(failure, reason=f"{failure.reason}, {LOSS_QUERY}"))
