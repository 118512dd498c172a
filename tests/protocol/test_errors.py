from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from protocol.errors import first_fault
from protocol.messages import SayRequest


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"agent": "pim", "text": ""}, "text", "text: is empty"),
        ({"agent": "pim"}, "text", "text: Field required"),
        ({"agent": "pim", "text": 5}, "text", "text: Input should be a valid string"),
    ],
)
def test_the_first_fault_of_a_message_is_named(
    fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        SayRequest.model_validate(fields)
    found, sentence = first_fault(caught.value)
    assert found == field
    assert sentence.startswith(words)
