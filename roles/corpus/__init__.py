"""Training text, composed from a writer's grammar and rendered as live requests are.

from roles.corpus import write_corpus

write_corpus(world_folder, Path("runs/corpus"), seed=1)
"""

from roles.corpus.files import CorpusFile, write_corpus

__all__ = ["CorpusFile", "write_corpus"]
