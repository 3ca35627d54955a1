"""Every metric of the gate, declared once with its type, unit, labels and meaning.

The instruments are our own: prometheus_client's take a lock for each value and cost 1.07 µs an observation and 0.50 µs
an increment against 0.18 and 0.09 µs here, and an attempt makes a dozen of both. They belong to one thread, that of the
event loop which also serves /metrics. prometheus_client does the rest: registry, process figures, text format.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate
from typing import Any, Final, Generic, Literal, TypeVar, cast, overload

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX: Final = "gate_"
CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)
"""Upper bounds of the histograms' buckets; 20 s is the chain's budget, 30 s the default patience (DESIGN.md section 7)."""

_EDGES: Final = [*map(str, BUCKETS_S), "+Inf"]


# -- Instruments --------------------------------------------------------------------------------------------------------


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add `amount`."""
        self.value += amount


class Gauge:
    """A number that goes up and down, or is asked for when it is read."""

    __slots__ = ("_read", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._read: Callable[[], float] | None = None

    @property
    def value(self) -> float:
        """What /metrics shows."""
        return self._value if self._read is None else self._read()

    def set(self, value: float) -> None:
        """Make it `value`."""
        self._value = value

    def inc(self, amount: float = 1) -> None:
        """Add `amount`."""
        self._value += amount

    def dec(self, amount: float = 1) -> None:
        """Take `amount` away."""
        self._value -= amount

    def set_function(self, read: Callable[[], float]) -> None:
        """Call `read` for the value whenever /metrics is asked for: nothing to do on the hot path."""
        self._read = read


class Histogram:
    """Durations in seconds, counted in the buckets of `BUCKETS_S`."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * len(_EDGES)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)


InstrumentT = TypeVar("InstrumentT", Counter, Gauge, Histogram)
T_co = TypeVar("T_co", covariant=True)


class Labelled(Generic[InstrumentT]):
    """One instrument for each combination of label values. Keep what `labels()` returns where it is used often."""

    __slots__ = ("_make", "_names", "children")

    def __init__(self, names: tuple[str, ...], make: Callable[[], InstrumentT]) -> None:
        self._names = names
        self._make: Callable[[], InstrumentT] = make
        self.children: dict[tuple[str, ...], InstrumentT] = {}

    def labels(self, *values: object, **named: object) -> InstrumentT:
        """Return the instrument of these label values, in the declared order or by name."""
        if named:
            if values or named.keys() != set(self._names):
                raise ValueError(f"labels are {', '.join(self._names)}, not {', '.join(named)}")
            values = tuple(named[name] for name in self._names)
        elif len(values) != len(self._names):
            raise ValueError(f"labels are {', '.join(self._names)}: {len(self._names)} values, not {len(values)}")

        key = tuple(map(str, values))
        child = self.children.get(key)
        if child is None:
            child = self.children[key] = self._make()
        return child

    def remove(self, *values: object) -> None:
        """Forget these label values, such as a partition that was taken away; nothing happens if there are none."""
        self.children.pop(tuple(map(str, values)), None)


# -- Declaring ----------------------------------------------------------------------------------------------------------

Kind = Literal["counter", "gauge", "histogram"]

_INSTRUMENTS: Final[dict[Kind, Callable[[], Counter | Gauge | Histogram]]] = {
    "counter": Counter,
    "gauge": Gauge,
    "histogram": Histogram,
}


@dataclass(slots=True, kw_only=True)
class Declared(Generic[T_co]):
    """What is said about one metric; read as an attribute of the object it is declared in, it is the instrument."""

    kind: Kind
    meaning: str
    labels: tuple[str, ...]
    attribute: str = ""  # its name without the prefix

    @property
    def name(self) -> str:
        """The name in /metrics."""
        return PREFIX + self.attribute

    @property
    def unit(self) -> str:
        """`seconds`, or nothing for plain numbers."""
        return "seconds" if self.attribute.endswith("_seconds") else ""

    def make(self) -> object:
        """Return a new instrument."""
        make = _INSTRUMENTS[self.kind]
        return Labelled(self.labels, cast(Callable[[], Counter], make)) if self.labels else make()

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute

    def __get__(self, owner: object, _type: type) -> T_co:
        # Reached only on the class: an instance has its instrument in its __dict__, which comes first.
        return cast(T_co, self)


@overload
def _counter(meaning: str) -> Declared[Counter]: ...
@overload
def _counter(meaning: str, label: str, /, *labels: str) -> Declared[Labelled[Counter]]: ...
def _counter(meaning: str, *labels: str) -> Declared[Any]:
    return Declared(kind="counter", meaning=meaning, labels=labels)


@overload
def _gauge(meaning: str) -> Declared[Gauge]: ...
@overload
def _gauge(meaning: str, label: str, /, *labels: str) -> Declared[Labelled[Gauge]]: ...
def _gauge(meaning: str, *labels: str) -> Declared[Any]:
    return Declared(kind="gauge", meaning=meaning, labels=labels)


@overload
def _histogram(meaning: str) -> Declared[Histogram]: ...
@overload
def _histogram(meaning: str, label: str, /, *labels: str) -> Declared[Labelled[Histogram]]: ...
def _histogram(meaning: str, *labels: str) -> Declared[Any]:
    return Declared(kind="histogram", meaning=meaning, labels=labels)


class _Declarations(Collector):
    """Instruments made from the declarations of the class, read by any prometheus_client registry."""

    def __init__(self) -> None:
        for metric in self.declared():
            setattr(self, metric.attribute, metric.make())

    @classmethod
    def declared(cls) -> list[Declared[object]]:
        """Return the declarations in the order in which they are written."""
        return [value for value in vars(cls).values() if isinstance(value, Declared)]

    def describe(self) -> Iterable[Metric]:
        """Return the names without reading the values (a registry asks for them when it is told of us)."""
        return [_family(metric) for metric in self.declared()]

    def collect(self) -> Iterator[Metric]:
        """Return all values as they are now."""
        for metric in self.declared():
            family = _family(metric)
            instrument = getattr(self, metric.attribute)
            for labels, child in list(instrument.children.items()) if metric.labels else [((), instrument)]:
                if isinstance(family, HistogramMetricFamily):
                    family.add_metric(labels, list(zip(_EDGES, accumulate(child.counts), strict=True)), child.sum)
                else:
                    family.add_metric(labels, child.value)
            yield family


_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
_FAMILIES: Final[dict[Kind, Callable[..., _Family]]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _family(metric: Declared[object]) -> _Family:
    return _FAMILIES[metric.kind](metric.name, metric.meaning, labels=metric.labels, unit=metric.unit)


# -- The metrics --------------------------------------------------------------------------------------------------------


class Metrics(_Declarations):
    """What a worker counts and measures (DESIGN.md section 7). Labels are bounded: nothing that comes from outside."""

    # Attempts and decisions
    attempts_received_total = _counter("Attempts taken from the attempts topic, redelivered ones included")
    decisions_total = _counter(
        "Decisions of this worker that became the decision; cause is empty for an approval, action where no action decided",
        "status",
        "cause",
        "action",
    )
    decision_duration_seconds = _histogram("From an attempt's delivery to the acknowledgement of its reply")
    queue_wait_seconds = _histogram("From an attempt's record timestamp to the start of its chain")
    end_to_end_seconds = _histogram("From an attempt's record timestamp to the acknowledgement of its reply")
    duplicates_total = _counter("Attempts that were known already; source is redelivery, client or other_worker", "source")
    miskeyed_attempts_total = _counter(
        "Attempts whose key is not their id or whose partition is not that of their key: retries may miss their decision"
    )
    ignored_fields_total = _counter("Events that brought a field which only the gate sets, by field", "field")

    # Actions
    action_duration_seconds = _histogram("Time in one action", "action", "outcome")
    action_outbound_seconds = _histogram("Calls through api.http; result is a status class, timeout or error", "action", "result")
    late_api_calls_total = _counter("Calls on an api after its action had returned; they are ignored")
    abandoned_threads_total = _counter("Threads given up because a plain `def` action did not come back in time")
    event_loop_lag_seconds = _histogram("How late the event loop ran a timer")
    event_loop_tasks = _gauge("Tasks of the event loop: a number that only grows is a leak")
    event_loop_blocked_total = _counter(
        "Times that the event loop was blocked for 250 ms or more; action is empty where no action did it", "action"
    )
    action_retries_total = _counter("Tries of an action after the first one", "action")
    chain_reloads_total = _counter("Chains loaded while the worker ran; result is changed, unchanged or refused", "result")

    # Work in hand
    in_flight = _gauge("Attempts between being taken and their reply's acknowledgement")
    in_flight_limit = _gauge("GATE_MAX_IN_FLIGHT")
    oldest_in_flight_seconds = _gauge("Age of the oldest attempt in flight")
    partition_lag = _gauge("Attempts behind the committed offset", "partition")
    partition_span = _gauge("Offsets between the oldest incomplete attempt and the newest taken", "partition")

    # Replies, ledger, dead letters
    replies_total = _counter("Replies by what became of them", "result")
    ledger_append_seconds = _histogram("Time until a batch of decisions was acknowledged")
    ledger_gaps_total = _counter("Appends behind which another worker's records had to be read first")
    ledger_rewinds_total = _counter("Times that the ledger had to be read again from an earlier offset")
    ledger_entries = _gauge("Decisions in the ledger table")
    dlq_total = _counter("Dead letters, by reason", "reason")

    # Group and clients
    rebalances_total = _counter("Rebalances of the consumer group")
    rebalance_duration_seconds = _histogram("From losing the partitions to having them assigned again")
    partitions_assigned = _gauge("Partitions assigned to this worker")
    commit_duration_seconds = _histogram("Time of an offset commit")
    commit_failures_total = _counter("Offset commits that failed; the next one carries the same offsets")
    client_restarts_total = _counter("Kafka clients that were made anew because they did not recover", "client")
    build_info = _gauge("1, labelled with the version and the hash of the chain", "version", "chain")

    def __init__(self) -> None:
        super().__init__()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def set_build_info(self, chain: str, *, before: str | None = None) -> None:
        """Say which version and which chain (its hash) these are the metrics of; `before` was the chain until now."""
        if before is not None:
            self.build_info.remove(version("registration-gate"), before)
        self.build_info.labels(version("registration-gate"), chain).set(1)

    def render(self) -> bytes:
        """Return the text of /metrics (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)


class ClientMetrics(_Declarations):
    """What a client counts and measures. To expose it, register it: `prometheus_client.REGISTRY.register(metrics)`."""

    ask_duration_seconds = _histogram("From asking to the answer; outcome is approved, denied, timeout or error", "outcome")
    ask_timeouts_total = _counter("Asks without an answer in time")
    late_replies_total = _counter("Replies that came after their asker had stopped waiting")
    unmatched_replies_total = _counter("Replies to asks that this client did not make or has forgotten")
