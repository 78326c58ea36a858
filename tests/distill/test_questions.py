"""Which questions are kept: what loops, what is short, and what was nearly asked before."""

import pytest

from ssft.distill.questions import Asked, fault_of


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("Why?", "too short"),
        ("why not " * 20, "repetitive"),
        ("How do I bake bread without an oven, and how long does it take?", ""),
        ("请问如何在没有烤箱的情况下做面包，需要多长时间？", ""),
    ],
)
def test_what_makes_a_question_unfit(question, fault):
    assert fault_of(question) == fault


def test_nearly_the_same_question_is_known_and_another_is_not():
    asked = Asked()
    assert not asked.knows("How do I bake bread without an oven?")
    asked.add("How do I bake bread without an oven?")
    asked.add("Which planet has the most moons?")
    assert asked.knows("how do I  bake bread, without an oven?")
    assert asked.knows("Which planet has the most moons, then?")
    assert not asked.knows("How do I bake a cake?")
    assert not asked.knows("Why")
