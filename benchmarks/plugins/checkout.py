"""An environment for asv in which commits are compared without installing anything; asv.conf.json loads it.

asv's own environments install all requirements and every commit with pip, and its "existing" environment
cannot check out commits. This one runs the present interpreter with its packages, and puts the tree of the
measured commit in front of them.

The folder has no __init__.py on purpose: asv imports every module of the suite in its own environments, too,
where asv itself is not installed.
"""

import os
import sys
from typing import Any

from asv import util
from asv.environment import Environment


class Checkout(Environment):
    """The present interpreter, importing the package from a clone at the commit that is measured."""

    tool_name = "checkout"

    def __init__(self, conf: Any, python: str, requirements: dict, tagged_env_vars: dict) -> None:
        self._requirements: dict[str, str] = {}  # needed for the name already
        super().__init__(conf, python, self._requirements, tagged_env_vars)
        self._build_command = self._install_command = self._uninstall_command = []

    @property
    def env_vars(self) -> dict[str, str]:
        # The first is asv's, for the benchmarks; the second is for the processes that they start.
        return {**super().env_vars, "ASV_PYTHONPATH": self._build_root, "PYTHONPATH": self._build_root}

    def _setup(self) -> None:
        os.makedirs(self._path)

    def run(self, args: list[str], **kwargs: Any) -> str:
        return util.check_output([sys.executable, *args], **kwargs)
