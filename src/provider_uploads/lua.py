"""Redis scripts, read from the ``.lua`` files beside the modules that run them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any


def read_script(package: str, *names: str, constants: Mapping[str, float] = {}) -> str:
    """Return the script that the files ``<name>.lua`` of a package make, one after another.

    A file of shared functions comes first; ``constants`` become Lua locals above all of them.
    """
    folder = resources.files(package)
    head = "".join(f"local {name} = {value!r}\n" for name, value in constants.items())
    return head + "\n".join(folder.joinpath(f"{name}.lua").read_text("utf-8") for name in names)


class LuaScript:
    """A script as a command: Redis knows it by the SHA-1 of its text."""

    #: All of them, for a Redis that does not know one yet.
    texts: dict[str, str] = {}  # noqa: RUF012 - filled by the constructor

    def __init__(self, package: str, *names: str, constants: Mapping[str, float] = {}) -> None:
        text = read_script(package, *names, constants=constants)
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.texts[self.sha] = text

    def command(self, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, ...]:
        """Return the command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)
