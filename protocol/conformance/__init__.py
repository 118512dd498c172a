"""Does a server, or a client, follow SPEC.md? Checks named by its sections."""
