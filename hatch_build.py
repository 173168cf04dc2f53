"""Puts the workers' code into the wheel, where it is nobody's top-level package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WorkersInTheWheel(BuildHookInterface):
    """``tasks/`` and ``config/`` go to ``provider_uploads/_workers/``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Map the folders, but for an editable install, which uses the checkout."""
        if version == "editable":
            return
        for folder in ("tasks", "config"):
            if (Path(self.root) / folder).is_dir():  # the image has them beside the package
                build_data["force_include"][folder] = f"provider_uploads/_workers/{folder}"
