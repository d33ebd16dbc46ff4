"""The HPARAMS tab of TensorBoard: one row a run.

TensorBoard sorts hyper-parameters by whether they differ between runs, then by name, and opens on the first five of them and on
the first five metrics. The value of a metric is the last one of its curve; values of the best round are hyper-parameters, since
they would be curves of a single point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from fedlit.core.files import flatten
from fedlit.experiment.run import Run
from fedlit.experiment.summary import evaluation_metrics
from fedlit.runs.metric_names import counterpart, split_of

Value = bool | float | str

COSTS = ("comm/up_bytes", "comm/ratio", "privacy/epsilon", "privacy/clipped_fraction")
"""Metrics of a run's costs, which stand behind those of its model."""

_KINDS: Mapping[type, tuple[str, Any]] = {
    bool: ("bool_value", "DATA_TYPE_BOOL"),
    int: ("number_value", "DATA_TYPE_FLOAT64"),
    float: ("number_value", "DATA_TYPE_FLOAT64"),
    str: ("string_value", "DATA_TYPE_STRING"),
}
"""The field of a protobuf value and the type of the hyper-parameter, by the class of the value."""


@dataclass(frozen=True)
class HparamsTable:
    """A row of the HPARAMS tab.

    Args:
        first: values that tell runs apart: what was swept or overridden, the seed, the algorithm, metrics of the best round.
        rest: the configuration.
        metrics: names of scalars whose last value is a column; the monitored one first.
    """

    first: Mapping[str, Value]
    rest: Mapping[str, Value]
    metrics: Sequence[str]


def hparams_table(run: Run, varied: Sequence[str], summary: Mapping[str, Any]) -> HparamsTable:
    """Return the row of a finished run.

    Args:
        run: the run.
        varied: overrides that tell the run from others.
        summary: content of summary.json.
    """
    choices = {key: name for key, name in run.names.items() if name and not key.startswith("hydra")}
    values = {**hparam_values(run.config), **choices}
    best = {f"best/{name}": float(value) for name, value in _shown_metrics(run, summary["best"]["metrics"]).items()}
    keys = {text.partition("=")[0] for text in varied}
    keys |= {"seed", "algorithm", *[*best][:2]}
    values |= {key: value if math.isfinite(value) else str(value) for key, value in best.items()}
    first = {key: value for key, value in values.items() if key in keys}
    rest = {key: value for key, value in values.items() if key not in keys}
    last = summary["last"]["metrics"]
    return HparamsTable(first, rest, [*_shown_metrics(run, last), *(name for name in COSTS if name in last)])


def hparam_values(config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the configuration as dotted keys with values for the HPARAMS tab."""
    values = {key: value for key, value in flatten(config).items() if not isinstance(value, Mapping)}
    return {
        key: value if isinstance(value, bool | int | float) and math.isfinite(value) else str(value)
        for key, value in values.items()
    }


def _shown_metrics(run: Run, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of evaluations, the monitored ones first, and of training."""
    name = run.monitored
    order = [name, counterpart(name, "test"), counterpart(name, "own")] if name else []
    shown = evaluation_metrics(metrics) | {name: value for name, value in metrics.items() if split_of(name) == "train"}
    return dict(sorted(shown.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def hparams_summaries(table: HparamsTable) -> Iterator[Any]:
    """Yield the summaries that TensorBoard reads the row from.

    `SummaryWriter.add_hparams` would mark no hyper-parameter as one that differs, and would add a curve of a single point for
    each metric.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # type: ignore[attr-defined]
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    # modules that protobuf fills as they are imported
    api, plugin_data = cast(Any, api_pb2), cast(Any, plugin_data_pb2)
    experiment = api.Experiment(metric_infos=[api.MetricInfo(name=api.MetricName(tag=name)) for name in table.metrics])
    start = plugin_data.SessionStartInfo()
    for values, differs in ((table.first, True), (table.rest, False)):
        for name, value in values.items():
            field, kind = _KINDS[type(value)]
            setattr(start.hparams[name], field, value)
            experiment.hparam_infos.add(name=name, type=kind, differs=differs)
    end = plugin_data.SessionEndInfo(status=api.Status.Value("STATUS_SUCCESS"))
    parts = (
        (metadata.EXPERIMENT_TAG, {"experiment": experiment}),
        (metadata.SESSION_START_INFO_TAG, {"session_start_info": start}),
        (metadata.SESSION_END_INFO_TAG, {"session_end_info": end}),
    )
    for tag, part in parts:
        content = plugin_data.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **part).SerializeToString()
        plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content)
        yield Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])
