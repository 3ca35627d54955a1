import pytest
from aiokafka import AIOKafkaProducer

pytestmark = pytest.mark.kafka


async def test_round_trip(topics):
    async with AIOKafkaProducer(bootstrap_servers=topics.bootstrap_servers, acks="all") as producer:
        sent = await producer.send_and_wait(topics.attempts_topic, b"hello", partition=1)
    assert (1, 0) == (sent.partition, sent.offset)
