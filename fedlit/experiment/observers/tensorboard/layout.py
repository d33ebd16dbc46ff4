"""The CUSTOM SCALARS tab of TensorBoard: charts of what belongs together."""

from __future__ import annotations

import re
from typing import Any

from fedlit.runs.metric_names import bare_name


def custom_layout(monitored: str | None) -> Any:
    """Return the summary that TensorBoard reads the layout from.

    Args:
        monitored: name of the monitored metric, or None.
    """
    from torch.utils.tensorboard.summary import custom_scalars  # here: slow to import, and not every run needs it

    return custom_scalars(layout_charts(monitored))


def layout_charts(monitored: str | None) -> dict[str, dict[str, list]]:
    """Return the charts by category: their kind, and regular expressions of tags.

    A margin has three tags: the mean and its two ends.
    """
    metrics = ["accuracy", "loss"]
    if monitored and bare_name(monitored) not in metrics:
        metrics.insert(0, bare_name(monitored))
    quality: dict[str, list] = {}
    for name in metrics:
        quality[name] = ["Multiline", [rf"^(train|val|test|own)[/_]?{re.escape(name)}$"]]
        own = f"own/{name}"
        quality[f"{name}, tenths of clients"] = ["Margin", [own, f"{own}_lowest_tenth", f"{own}_highest_tenth"]]
        quality[f"{name}, unevenness over clients"] = ["Multiline", [rf"^own/{re.escape(name)}_(std|gini)$"]]
    return {
        "quality": quality,
        "bytes": {
            "bytes of a round": ["Multiline", [r"^comm/(up|down)_bytes$"]],
            "compression ratio": ["Multiline", [r"^comm/ratio$"]],
        },
        "drift": {
            "distances": ["Multiline", [r"^drift/(mean_distance|update_norm|control_norm)$"]],
            "cosine to the mean": ["Multiline", [r"^drift/mean_cosine$"]],
        },
        "privacy": {
            "epsilon": ["Multiline", [r"^privacy/epsilon"]],
            "clipping": ["Multiline", [r"^privacy/(clip|clipped_fraction)$"]],
            "signal to noise": ["Multiline", [r"^privacy/signal_to_noise$"]],
        },
        "failures": {
            "by outcome": ["Multiline", [r"^failures/"]],
            "clients": ["Multiline", [r"^clients/(trained|failed|cut)$"]],
        },
        "time": {"seconds of a round": ["Multiline", [r"^time/"]]},
    }
