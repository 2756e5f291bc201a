"""The figures as Prometheus and OpenMetrics read them: the only user of `prometheus_client`.

Nothing is counted here. A scrape asks the desk, which asks the store, so that the figures are right over restarts and over several dispatchers; names and labels are
stable (`docs/reference/metrics.md`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from hindscan.runs.figures import BOUNDS, Figures, Histogram

__all__ = ["MEDIA_TYPES", "exposition"]

#: What can be asked for by Accept; the first is the default.
MEDIA_TYPES: Final = ("text/plain", "application/openmetrics-text")


def exposition(figures: Figures, accept: str) -> tuple[bytes, str]:
    """Write figures in the format that was asked for; give the text and its media type."""
    encode, media_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(figures))
    return encode(registry), media_type


class _Given(Collector):
    """Figures that were read before."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Give each figure as the library has it."""
        figures = self._figures
        yield _counter(
            "hindscan_events_received", "Events received, by way; what is no event included.", "way", figures.received
        )
        yield _counter(
            "hindscan_events_quarantined",
            "Events set aside, by trigger; the empty trigger: what is no event.",
            "trigger",
            figures.quarantined,
        )
        yield _counter("hindscan_slices", "Slices by what became of them.", "state", figures.slices)
        yield _gauge(
            "hindscan_runs", "Runs by state.", ("state",), (((state,), n) for state, n in figures.runs.items())
        )
        yield _gauge(
            "hindscan_intake_lag",
            "Offsets between what a trigger has recorded and the end of a partition.",
            ("trigger", "cluster", "topic", "partition"),
            (((lag.trigger, lag.cluster, lag.topic, str(lag.partition)), lag.offsets) for lag in figures.lags),
        )
        yield _gauge(
            "hindscan_cluster_up",
            "Whether a Kafka cluster with triggers answers (1) or not (0).",
            ("cluster",),
            (((cluster,), int(up)) for cluster, up in figures.clusters.items()),
        )
        for place, (name, text) in enumerate(
            (
                ("hindscan_outbox_pending", "Events of runs that wait to be sent, by outlet."),
                ("hindscan_outbox_oldest_seconds", "How long the oldest of them has waited."),
                ("hindscan_outbox_refused", "Events of runs that were given up, and are kept, by outlet."),
            )
        ):
            yield _gauge(name, text, ("outlet",), (((one,), told[place]) for one, told in figures.outlets.items()))
        yield _histogram(
            "hindscan_event_to_start_seconds",
            "From the receipt of an event to the first start of a run that it opened.",
            figures.event_to_start,
        )


def _counter(name: str, doc: str, label: str, numbers: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, doc, labels=[label])
    for value, number in sorted(numbers.items()):
        family.add_metric([value], number)
    return family


def _gauge(name: str, doc: str, labels: tuple[str, ...], numbers: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, doc, labels=labels)
    for values, number in numbers:
        family.add_metric(values, number)
    return family


def _histogram(name: str, doc: str, seen: Histogram) -> Metric:
    bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(seen.counts)), strict=True))
    return HistogramMetricFamily(name, doc, buckets=buckets, sum_value=seen.seconds)
