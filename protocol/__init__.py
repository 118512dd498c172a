"""The wire: messages, codec, session, client, server. SPEC.md is the authority."""
