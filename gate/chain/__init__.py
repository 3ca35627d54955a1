"""Run actions on an event; knows no Kafka."""
