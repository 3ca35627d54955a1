"""The partitioner that co-partitioning rests on: any difference to Kafka's own loses first decisions."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as aiokafkas
from hypothesis import example, given
from hypothesis import strategies as st

from gate.kafka.partitioner import murmur2, partition_of


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff\xff\xff")
@example(b"\x80\x80\x80\x80\x80")
def test_murmur2_is_aiokafkas(key: bytes) -> None:
    assert aiokafkas(key) & 0xFFFFFFFF == murmur2(key)


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_kafkas_own_tests(key: bytes, signed: int) -> None:
    """The table of org.apache.kafka.common.utils.UtilsTest#testMurmur2."""
    assert signed & 0xFFFFFFFF == murmur2(key)


@given(key=st.binary(min_size=1, max_size=60), count=st.integers(1, 1000))
def test_partition_is_the_one_that_aiokafkas_producer_chooses(key: bytes, count: int) -> None:
    partitions = list(range(count))

    assert DefaultPartitioner()(key, partitions, partitions) == partition_of(key, count)
