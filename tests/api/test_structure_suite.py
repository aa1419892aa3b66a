"""A thousand answers of the demo to schemas of JSON-Schema-Test-Suite: those that end validate."""

from __future__ import annotations

from collections import Counter
from itertools import cycle, islice

import jsonschema
import pytest
from helpers.schema_suite import NEEDED, Case, cases

import elm_mlx
from elm_mlx.errors import NotEnforceable

OUTPUTS, TOGETHER, LENGTH = 1000, 24, 48
# In patterns: what Python's re, and so jsonschema, does not know, or understands as Unicode's where JSON schema has
# ECMAScript's letters and digits.
FOREIGN = ("\\p{", "\\W", "\\D")
CLOSING = ('"', "}", "]")


def enforced(lm: elm_mlx.LanguageModel) -> list[Case]:
    """The schemas of the suite that can be enforced."""
    found = []
    for case in cases():
        if any(one in str(case.schema).replace("\\\\", "\\") for one in FOREIGN):
            continue
        try:
            form = lm.request("x", None, schema=case.schema).constraint
            assert form
            form()  # compiles it
        except NotEnforceable:
            continue
        found.append(case)
    return found


@NEEDED
@pytest.mark.slow
def test_of_a_thousand_answers_most_end_and_all_that_end_validate() -> None:
    with elm_mlx.load(rows=8) as lm:
        favoured = [lm.tokenizer.encode_inside(text)[0] for text in CLOSING] + sorted(lm.stop_ids)
        options = {"temperature": 1.5, "logit_bias": dict.fromkeys(favoured, 6.0)}
        ended, counts = 0, dict[str, Counter[str]]()
        numbered = enumerate(islice(cycle(enforced(lm)), OUTPUTS))
        while part := list(islice(numbered, TOGETHER)):
            streams = [(case, lm.submit("It is", LENGTH, schema=case.schema, seed=n, **options)) for n, case in part]
            for case, stream in streams:
                done = stream.result()
                counts.setdefault(case.subject, Counter())[done.finish_reason] += 1
                if done.finish_reason == "stop":
                    ended += 1
                    jsonschema.validate(done.parsed, case.schema)
                else:
                    assert done.parsed is None
    for subject, count in counts.items():
        print(f"{subject:36}{dict(count)}")
    print(f"{ended} of {OUTPUTS} answers ended, and all of them validate.")
    assert ended >= 600
