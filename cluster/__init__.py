"""Engines past one machine: replicas on a Ray cluster, and servers that speak OpenAI's API."""
