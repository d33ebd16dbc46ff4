"""Accounting: epsilon of a run's releases, and noise for an epsilon.

Its extra is `fedlit[dp]`. Nothing is imported from dp-accounting before an epsilon is computed.
"""

from fedlit.aggregation.privacy.accounting.accountant import Accountant, signal_to_noise
from fedlit.aggregation.privacy.accounting.calibration import calibrate
from fedlit.aggregation.privacy.accounting.examples import epsilon_quantiles, example_epsilon

__all__ = ["Accountant", "calibrate", "epsilon_quantiles", "example_epsilon", "signal_to_noise"]
