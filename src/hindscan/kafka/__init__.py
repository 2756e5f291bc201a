"""Kafka as hindscan sees it.

The rest of the package speaks of clusters by a mapping of librdkafka properties and gets back hindscan's own values and errors, so that nothing else depends on the
client's classes, codes or habits: only this folder imports confluent_kafka.
"""
