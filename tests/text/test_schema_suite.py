"""Every schema of JSON-Schema-Test-Suite is refused by name, or takes none of the values that are wrong."""

from __future__ import annotations

from collections import Counter

import pytest
from helpers.forms import compact, demo_tokenizer, schema_form, takes
from helpers.schema_suite import NEEDED, SHAPES, cases

from elm_mlx.errors import NotEnforceable
from elm_mlx.text.grammar import Grammars


@NEEDED
@pytest.mark.slow
def test_a_schema_of_the_suite_is_refused_or_takes_no_wrong_value() -> None:
    grammars, counts, wrong = Grammars(demo_tokenizer(), 2048), dict[str, Counter[str]](), []
    reasons: list[str] = []
    for case in cases():
        count = counts.setdefault(case.subject, Counter())
        try:
            form = schema_form(case.schema)
            taken = [(value, valid, takes(grammars, form, compact(value))) for value, valid in case.values]
        except NotEnforceable as error:
            reasons.append(str(error))
            count["refused"] += 1
            continue
        count["enforced"] += 1
        count["valid values taken"] += sum(valid and took for _, valid, took in taken)
        count["valid values not taken"] += sum(valid and not took for _, valid, took in taken)
        wrong += [(case, value) for value, valid, took in taken if took and not valid and case.subject not in SHAPES]
    for subject, count in counts.items():
        print(f"{subject:36}{dict(count)}")
    print("in all:", dict(sum(counts.values(), Counter())))
    assert not wrong
    assert all(one.startswith(("The schema", "No JSON value", "The form of the answer cannot be")) for one in reasons)
    assert sum(count["enforced"] for count in counts.values()) >= 180
    assert not counts["not"]["enforced"] + counts["uniqueItems"]["enforced"] + counts["contains"]["enforced"]
