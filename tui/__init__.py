"""The Textual console: a protocol client like any other."""
