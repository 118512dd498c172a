"""Measures of plain text: content words, overlap, sentences, language, style. No models."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?\u2026]+(?=\s|$|[\"'\u201d\u2019)])")
_FUNCTION_WORDS = {
    "en": "the a an and or but if of in on at to for with from by as is are was were be been it "
    "its this that these those i you he she we they my your his her our their me him us them "
    "not no do does did have has had will would can could there here who what where when how why "
    "so than then into up down out over under again all any some one only very just about",
    "de": "der die das und oder aber wenn von in auf zu mit aus bei als ist sind war waren sein es "
    "dies ich du er sie wir ihr mein dein nicht kein ein eine einen einem einer hat haben wird "
    "kann da wer was wo wann wie warum so dann nur sehr noch auch",
    "es": "el la los las y o pero si de en a para con por como es son era ser lo este esta yo tu "
    "ella nosotros mi su no un una hay que quien donde cuando muy ya se le del al más",
    "fr": "le la les et ou mais si de dans sur à pour avec par comme est sont était être ce cette "
    "je tu il elle nous vous ils mon son ne pas un une il y a que qui où quand très du des au se",
    "it": "il lo la i gli le e o ma se di in su a per con da come è sono era essere questo questa "
    "io tu lui lei noi voi mio suo non un una c'è che chi dove quando molto del della al si",
    "pt": "o a os as e ou mas se de em para com por como é são era ser este esta eu tu ele ela nós "
    "meu seu não um uma há que quem onde quando muito do da dos das ao já",
}
LANGUAGES = tuple(_FUNCTION_WORDS)
_STOP = frozenset(_FUNCTION_WORDS["en"].split())


def words(text: str) -> list[str]:
    """The words of a text, lower-case, apostrophes kept."""
    return [word.casefold().replace("\u2019", "'") for word in _WORD.findall(text)]


def plain(text: str) -> str:
    """The text for comparing: lower-case, straight quotes, single spaces."""
    straight = text.replace("\u2019", "'").replace("\u2018", "'")
    straight = straight.replace("\u201c", '"').replace("\u201d", '"')
    return " ".join(straight.casefold().split())


def content_words(text: str) -> set[str]:
    """The words that carry meaning (English function words left out), cut to their stems."""
    return {stem(word) for word in words(text) if word not in _STOP}


def stem(word: str) -> str:
    """A word without its commonest English endings; "hides", "hid" stay different words."""
    word = word.removesuffix("'s")
    for ending in ("ing", "ies", "es", "ed", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def overlap(said: str, fact: str, known: Iterable[str] = ()) -> float:
    """Share (0 to 1) of a fact's content words that are said.

    Args:
        said: the line.
        fact: what may have been told.
        known: texts whose words don't count, such as the question, which may name half the
            fact itself. Where they leave nothing, the whole fact counts.
    """
    wanted = content_words(fact)
    fresh = wanted - set().union(*map(content_words, known))
    wanted = fresh or wanted
    return len(wanted & content_words(said)) / len(wanted) if wanted else 0.0


def num_sentences(text: str) -> int:
    """How many sentences a line has; words without a full stop count as one."""
    rest = text.strip()
    if not rest:
        return 0
    ends = list(_SENTENCE_END.finditer(rest))
    return len(ends) + bool(not ends or words(rest[ends[-1].end() :]))


def language(text: str) -> str:
    """The likeliest of `LANGUAGES` by its function words, or "" where there are none."""
    spoken = words(text)
    scores = {code: _function_share(spoken, code) for code in LANGUAGES}
    best = max(scores, key=lambda code: scores[code])
    return best if scores[best] > 0 else ""


def _function_share(spoken: list[str], code: str) -> float:
    listed = set(_FUNCTION_WORDS[code].split())
    return sum(word in listed for word in spoken) / max(1, len(spoken))


def style(lines: Iterable[str]) -> dict[str, float]:
    """What a voice is like, in numbers: sizes of words, sentences, lines; marks; variety."""
    texts = [text for text in lines if text.strip()]
    spoken = [words(text) for text in texts]
    total = sum(map(len, spoken)) or 1
    num_lines = len(texts) or 1
    everything = "".join(texts)
    return {
        "words per line": total / num_lines,
        "sentences per line": sum(map(num_sentences, texts)) / num_lines,
        "letters per word": sum(len(word) for line in spoken for word in line) / total,
        "different words": len({word for line in spoken for word in line}) / total,
        "questions per line": everything.count("?") / num_lines,
        "exclamations per line": everything.count("!") / num_lines,
        "commas per line": everything.count(",") / num_lines,
    }


def divergence(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Jensen-Shannon divergence of two weightings, 0 (alike) to 1 bit (Lin 1991)."""
    sum_a, sum_b = sum(a.values()), sum(b.values())
    if not sum_a or not sum_b:
        return 0.0 if sum_a == sum_b else 1.0
    result = 0.0
    for key in {*a, *b}:
        p, q = a.get(key, 0) / sum_a, b.get(key, 0) / sum_b
        middle = (p + q) / 2
        result += sum(x * math.log2(x / middle) / 2 for x in (p, q) if x)
    return max(0.0, min(1.0, result))


def vocabulary(lines: Iterable[str]) -> Counter[str]:
    """How often each word is used."""
    return Counter(word for line in lines for word in words(line))
