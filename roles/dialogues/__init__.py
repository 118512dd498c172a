"""Dialogue regression: scripts of what characters must and must never say, and their runner."""
