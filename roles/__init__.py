"""Worlds and who lives in them: manager, director, characters, books, memory, saves."""
