import re
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from gate.metrics import BUCKETS_S, ClientMetrics, Metrics

DECLARING = pytest.mark.parametrize("declaring", [Metrics, ClientMetrics])


def exposed(metrics: Metrics) -> dict[str, tuple[str, str]]:
    return {
        family.name: (family.type, family.documentation) for family in text_string_to_metric_families(metrics.render().decode())
    }


def test_what_is_declared_is_what_is_exposed() -> None:
    shown = {name: facts for name, facts in exposed(Metrics()).items() if name.startswith("gate_")}

    assert {metric.name.removesuffix("_total"): (metric.kind, metric.meaning) for metric in Metrics.declared()} == shown


@DECLARING
def test_names_follow_the_conventions_of_prometheus(declaring: type[Metrics]) -> None:
    for metric in declaring.declared():
        assert re.fullmatch(r"gate_[a-z_]+", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert metric.kind != "histogram" or metric.unit == "seconds"
        assert metric.meaning
        assert all(re.fullmatch(r"[a-z_]+", label) for label in metric.labels)


def test_no_label_can_hold_what_comes_from_outside() -> None:
    bounded = {
        "status",
        "cause",
        "action",
        "source",
        "field",
        "outcome",
        "result",
        "partition",
        "reason",
        "client",
        "version",
        "chain",
    }

    assert bounded >= {
        label for declaring in (Metrics, ClientMetrics) for metric in declaring.declared() for label in metric.labels
    }


def test_process_figures_are_exposed_too() -> None:
    assert {"process_resident_memory_bytes", "python_info", "python_gc_objects_collected"} <= exposed(Metrics()).keys()


def test_values_arrive_in_the_text() -> None:
    metrics = Metrics()

    metrics.attempts_received_total.inc()
    metrics.decisions_total.labels("denied", "access_denied", "deny-by-location").inc(2)
    metrics.in_flight.set(5)
    metrics.in_flight.dec()
    metrics.oldest_in_flight_seconds.set_function(lambda: 1.5)

    read = metrics.registry.get_sample_value
    assert 1 == read("gate_attempts_received_total")
    assert 2 == read("gate_decisions_total", {"status": "denied", "cause": "access_denied", "action": "deny-by-location"})
    assert 4 == read("gate_in_flight")
    assert 1.5 == read("gate_oldest_in_flight_seconds")


def test_a_histogram_counts_upper_bounds_inclusively_and_cumulatively() -> None:
    metrics = Metrics()

    for seconds in (-0.1, 0.0, 0.001, 0.0011, 20.0, 31.0):
        metrics.queue_wait_seconds.observe(seconds)

    read = metrics.registry.get_sample_value
    counts = [read("gate_queue_wait_seconds_bucket", {"le": str(edge)}) for edge in (*BUCKETS_S, "+Inf")]
    assert [3, 4] == counts[:2]
    assert [5, 5, 6] == counts[-3:]
    assert all(a <= b for a, b in pairwise(counts))
    assert 6 == read("gate_queue_wait_seconds_count") == metrics.queue_wait_seconds.count
    assert pytest.approx(50.9021) == read("gate_queue_wait_seconds_sum")


def test_labels_by_position_and_by_name_are_the_same_instrument() -> None:
    decisions = Metrics().decisions_total

    assert decisions.labels("denied", "conflict", "") is decisions.labels(action="", cause="conflict", status="denied")


@pytest.mark.parametrize(("values", "named"), [(("denied",), {}), ((), {"status": "denied"}), (("denied", "x"), {"action": "y"})])
def test_labels_must_be_those_that_were_declared(values: tuple[str, ...], named: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="labels are status, cause, action"):
        Metrics().decisions_total.labels(*values, **named)


def test_a_partition_that_was_taken_away_is_no_longer_shown() -> None:
    metrics = Metrics()
    metrics.partition_lag.labels(3).set(7)

    metrics.partition_lag.remove(3)
    metrics.partition_lag.remove(4)

    assert metrics.registry.get_sample_value("gate_partition_lag", {"partition": "3"}) is None


def test_two_workers_in_one_process_do_not_share_values() -> None:
    first, second = Metrics(), Metrics()

    first.attempts_received_total.inc()

    assert 0 == second.attempts_received_total.value


def test_a_program_can_expose_its_client_in_its_own_registry() -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics()

    registry.register(metrics)
    metrics.ask_duration_seconds.labels("approved").observe(0.004)

    assert 1 == registry.get_sample_value("gate_ask_duration_seconds_count", {"outcome": "approved"})
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(ClientMetrics())
