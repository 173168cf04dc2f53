"""What ends a run of the benchmarks."""


class BenchmarkError(Exception):
    """Something that was measured did not happen as it should; its figures would be worthless."""
