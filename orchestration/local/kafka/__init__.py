"""The local broker: Apache Kafka on a Java runtime from a wheel.

In: a folder and ports. Out: a running broker with the project's topics.
"""
