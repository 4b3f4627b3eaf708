"""What the metrics of this process say."""

from prometheus_client import REGISTRY


def measured(name: str, **labels: str) -> float:
    """The value of one series; 0 when there is none yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Moved:
    """How far series have moved since this was made, because the tests of a process share its counters."""

    def __init__(self) -> None:
        self._before = self._samples()

    def __getitem__(self, series: tuple[str, str]) -> float:
        return self._samples().get(series, 0.0) - self._before.get(series, 0.0)

    @staticmethod
    def _samples() -> dict[tuple[str, str], float]:
        """By name and the values of the labels, as `"queued manual"`."""
        return {
            (sample.name, " ".join(sample.labels.values())): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }
