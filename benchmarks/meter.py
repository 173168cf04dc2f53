"""What a process used: CPU time and memory, seen from outside."""

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
    """Reads one process; the same way for us and for a peer."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process = psutil.Process(pid)

    def cpu_ms(self) -> float:
        """User and system time so far, of all its threads."""
        with self._alive():
            times = self._process.cpu_times()
        return float(times.user + times.system) * 1000

    def memory_mib(self) -> float:
        """Resident memory now."""
        with self._alive():
            return float(self._process.memory_info().rss) / _MIB

    @contextmanager
    def peak(self) -> Iterator[list[float]]:
        """Watch the resident memory; afterwards the list holds its highest value in MiB.

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

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except psutil.NoSuchProcess:
            raise BenchmarkError(f"process {self._pid} ended while it was measured") from None

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
