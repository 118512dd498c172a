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
        ({"agent": "pim"}, "text", "text: is missing"),
        (
            {"agent": "pim", "text": "Hi.", "temperature": -2.0},
            "temperature",
            "temperature: is -2.0; it should be greater than or equal to 0",
        ),
        (
            {"agent": "pim", "text": "Hi.", "actions": ["give"]},
            "actions.0",
            "actions.0: is 'give'; it should be a valid dictionary",
        ),
        ({"agent": "pim", "text": 5}, "text", "text: is 5; it should be a valid string"),
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
