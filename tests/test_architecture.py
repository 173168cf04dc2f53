"""The rooms that docs/architecture.md draws: few arrows, small modules, one place to plug in."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from provider_uploads import protocol
from provider_uploads.sources.open import OPENERS
from tests.nodes import ROOT

LIBRARY = ROOT / "src" / "provider_uploads"
#: By the name they are imported under.
TREES = {"provider_uploads": LIBRARY, "tasks": ROOT / "tasks", "config": ROOT / "config"}


def modules() -> dict[str, Path]:
    """Every module of ours by its full name."""
    found = {}
    for name, folder in TREES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((name, *(part for part in parts if part != "__init__")))] = path
    return found


def room(module: str) -> str:
    """A subpackage of the library, a module at its top, ``tasks`` or ``config``."""
    return (
        ".".join(module.split(".")[:2])
        if module.startswith("provider_uploads")
        else (module.split(".")[0])
    )


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else node.module


def arrows() -> set[tuple[str, str]]:
    known = modules()
    return {
        (room(module), room(target))
        for module, path in known.items()
        for target in imported(path, known)
        if target in known and room(target) != room(module)
    }


def test_imports_between_rooms_are_few() -> None:
    found = arrows()
    assert ("tasks", "provider_uploads.ledger") in found
    assert len(found) <= 177


def test_arrows_go_down_and_in_no_circle() -> None:
    """The layers stand in pyproject.toml."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_has_a_layer() -> None:
    layers = (ROOT / "pyproject.toml").read_text("utf-8")
    # The emulator has a contract of its own: it imports nothing.
    missing = {room(name) for name in modules()} - {"provider_uploads"}
    assert [name for name in sorted(missing) if name not in layers] == []


def test_modules_are_small_and_few_stand_at_the_top() -> None:
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lines.items() if count > 350} == {}
    assert statistics.median(lines.values()) <= 150
    assert len([*LIBRARY.glob("*.py")]) <= 18


def test_every_source_scheme_can_be_opened() -> None:
    assert set(OPENERS) == set(protocol.SOURCE_SCHEMES)


def test_only_the_providers_know_gemini() -> None:
    """The factory decides; a second provider touches none of the others."""
    named = {
        room(name)
        for name, path in modules().items()
        if "providers.gemini" in path.read_text("utf-8")
    }
    assert named == {"provider_uploads.providers"}
