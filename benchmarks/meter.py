"""What processes used: CPU time and memory, seen from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.errors import BenchmarkError

_MIB = 1024**2
_SAMPLE_S = 0.01


class Meter:
    """Reads processes and what they started; the same way for us and for a peer."""

    def __init__(self, pid: int, *others: int) -> None:
        self._pid = pid
        self._process = psutil.Process(pid)
        self._roots = [self._process, *map(psutil.Process, others)]

    def cpu_ms(self) -> float:
        """User and system time so far, of all threads of the whole tree."""
        with self._alive():
            times = [process.cpu_times() for process in self._tree()]
        return float(sum(used.user + used.system for used in times)) * 1000

    def tree_mib(self) -> float:
        """Memory of the whole tree now; on Linux a page that n processes share counts 1/n each."""
        with self._alive():
            found = [process.memory_full_info() for process in self._tree()]
        return float(sum(getattr(info, "pss", info.uss) for info in found)) / _MIB

    def memory_mib(self) -> float:
        """Resident memory of the first process now."""
        with self._alive():
            return float(self._process.memory_info().rss) / _MIB

    @contextmanager
    def peak(self) -> Iterator[list[float]]:
        """Watch the first process's resident memory; the list then holds its highest value in MiB.

        Linux keeps that mark itself (VmHWM) and can set it back first, so that start-up does not
        count and nothing is missed; elsewhere it is sampled.
        """
        found: list[float] = []
        if self._mark_set_back():
            yield found
            found.append(self._mark_mib())
            return
        samples, over = [self.memory_mib()], threading.Event()

        def sample() -> None:
            while not over.wait(_SAMPLE_S):
                samples.append(self.memory_mib())

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join()
        found.append(max(samples))

    def _tree(self) -> list[psutil.Process]:
        return [
            process for root in self._roots for process in (root, *root.children(recursive=True))
        ]

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except psutil.NoSuchProcess as error:
            raise BenchmarkError(f"process {error.pid} ended while it was measured") from None

    def _mark_set_back(self) -> bool:
        try:
            Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def _mark_mib(self) -> float:
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise OSError(f"/proc/{self._pid}/status has no VmHWM")
