"""The one room that imports the Kafka library."""
