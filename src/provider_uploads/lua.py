"""Redis scripts, read from the ``.lua`` files beside the modules that run them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources


def read_script(package: str, *names: str, constants: Mapping[str, float] = {}) -> str:
    """Return the script that the files ``<name>.lua`` of a package make, one after another.

    A file of shared functions comes first; ``constants`` become Lua locals above all of them.
    """
    folder = resources.files(package)
    head = "".join(f"local {name} = {value!r}\n" for name, value in constants.items())
    return head + "\n".join(folder.joinpath(f"{name}.lua").read_text("utf-8") for name in names)
