from __future__ import annotations

from pathlib import Path

from books.generation import write_replies
from books.prompt import Evidence, Note
from books.students import load_student
from engine.constraints import ConstraintCompiler
from engine.template import ChatTemplate
from tests.books.conftest import tiny_student


def test_a_reply_is_one_of_its_choices_whatever_the_model_would_say(
    tmp_path: Path, base: Path
) -> None:
    student = load_student(tiny_student(tmp_path / "tides", base)).eval()
    template = ChatTemplate(base)
    end = template.end_id
    assert end is not None
    notes = [Note(question="Deep?", answer=f'It\u2019s "{depth}" deep.') for depth in ("so", "not")]
    evidence = [Evidence(passages=("p",), notes=notes[:count]) for count in (1, 2, 0)]
    choices = [one.choices() for one in evidence]
    assert choices[2] is None
    compiler = ConstraintCompiler(template.tokenizer, [end], student.config.vocab_size)
    prompts = [template.encode_words(text) for text in ("how deep?", "is it?", "and now?")]
    written = write_replies(student, prompts, end, choices=choices, compiler=compiler)
    said = [template.decode(ids) for ids in written]
    allowed = [f"[{n}] {note.answer}" for n, note in enumerate(notes, start=1)]
    assert said[0] == allowed[0]
    assert said[1] in allowed
    assert said[2] not in allowed
