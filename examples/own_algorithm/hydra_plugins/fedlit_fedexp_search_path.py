"""Hydra finds this module by its folder: an installed package adds its configurations without any flag."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class FedExPSearchPath(SearchPathPlugin):
    """Adds the folder `conf` of the package."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder to Hydra's own."""
        search_path.append(provider="fedlit-fedexp", path="pkg://fedlit_fedexp.conf")
