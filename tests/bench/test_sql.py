"""The normal form of SQL forgets what cannot matter and keeps what may matter, case by case and over random queries."""

import random

import pytest
from exact_match import exact_match

from ssft.bench.metrics.sql import is_sql, normalise_sql, normalised_match

# What the normal form forgets

SAME = {
    "white space between words": ("SELECT a\n\t FROM  t ", "SELECT a FROM t"),
    "spaces at commas": ("SELECT a ,b,c FROM t", "SELECT a, b, c FROM t"),
    "spaces at parentheses": ("SELECT COUNT ( a ) FROM t", "SELECT COUNT(a) FROM t"),
    "spaces at operators": ("SELECT a FROM t WHERE b>=3", "SELECT a FROM t WHERE b >= 3"),
    "spaces at signs": ("SELECT a FROM t WHERE b=-3", "SELECT a FROM t WHERE b = - 3"),
    "spaces at dots": ("SELECT t . a FROM t", "SELECT t.a FROM t"),
    "spaces at quotes": ("SELECT a FROM t WHERE b='x' AND(c='y')", "SELECT a FROM t WHERE b = 'x' AND ( c = 'y' )"),
    "case of keywords and names": ("select A from T where B = 1e5", "SELECT a FROM t WHERE b = 1E5"),
    "kind of quotes": ("SELECT a FROM t WHERE b = 'x y'", 'SELECT a FROM t WHERE b = "x y"'),
    "a quote doubled inside": ("SELECT a FROM t WHERE b = 'o''day'", 'SELECT a FROM t WHERE b = "o\'day"'),
    "double quotes doubled": ("""SELECT a FROM t WHERE b = 'say "x"'""", '''SELECT a FROM t WHERE b = "say ""x"""'''),
    "a semicolon at the end": ("SELECT a FROM t ; ", "SELECT a FROM t"),
    "order of conditions": ("SELECT a FROM t WHERE b = 1 AND c = 2", "SELECT a FROM t WHERE c = 2 AND b = 1"),
    "order before what follows": (
        "SELECT a FROM t WHERE b < 1 AND c <> 'x' ORDER BY d LIMIT 1",
        "SELECT a FROM t WHERE c <> 'x' AND b < 1 ORDER BY d LIMIT 1",
    ),
    "order of all kinds of conditions": (
        "SELECT a FROM t WHERE t.b = -1 AND c IS NOT NULL AND d NOT IN (1, 2) AND MAX(e) > .5 AND f LIKE 'x'",
        "SELECT a FROM t WHERE f LIKE 'x' AND MAX(e) > .5 AND d NOT IN (1, 2) AND c IS NOT NULL AND t.b = -1",
    ),
    "order beside a subquery": (
        "SELECT a FROM t WHERE b = (SELECT MAX(b) FROM t WHERE c = 1 OR d = 2) AND e = 3",
        "SELECT a FROM t WHERE e = 3 AND b = (SELECT MAX(b) FROM t WHERE c = 1 OR d = 2)",
    ),
    "order before HAVING alone": (
        "SELECT MAX(a) FROM t WHERE b = 1 AND c = 2 HAVING MAX(a) > 3",
        "SELECT MAX(a) FROM t WHERE c = 2 AND b = 1 HAVING MAX(a) > 3",
    ),
    "order with columns named as clauses": (
        "SELECT a FROM t WHERE group = 'b' AND a = 1 AND order = 2 GROUP BY a",
        "SELECT a FROM t WHERE order = 2 AND group = 'b' AND a = 1 GROUP BY a",
    ),
    "order in a set operation's first half": (
        "SELECT a FROM t WHERE b = 1 AND c = 2 UNION SELECT a FROM s",
        "SELECT a FROM t WHERE c = 2 AND b = 1 UNION SELECT a FROM s",
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_what_cannot_matter_is_forgotten(case):
    left, right = SAME[case]
    assert not exact_match(left, [right])
    assert normalised_match(left, [right])
    assert normalised_match(right, ["SELECT other FROM t", left])


# What it must keep

DIFFERENT = {
    "case inside quotes": ("SELECT a FROM t WHERE b = 'Red'", "SELECT a FROM t WHERE b = 'red'"),
    "case inside double quotes": ('SELECT a FROM t WHERE b = "Red"', 'SELECT a FROM t WHERE b = "red"'),
    "case inside backticks": ("SELECT `A` FROM t", "SELECT `a` FROM t"),
    "spaces inside quotes": ("SELECT a FROM t WHERE b = 'x  y'", "SELECT a FROM t WHERE b = 'x y'"),
    "spaces at the ends of a quote": ("SELECT a FROM t WHERE b = 'x '", "SELECT a FROM t WHERE b = 'x'"),
    "operators inside quotes": ("SELECT a FROM t WHERE b = '1>2'", "SELECT a FROM t WHERE b = '1 > 2'"),
    "a semicolon inside quotes": ("SELECT a FROM t WHERE b = 'x;'", "SELECT a FROM t WHERE b = 'x'"),
    "AND inside quotes": ("SELECT a FROM t WHERE b = 'x AND y'", "SELECT a FROM t WHERE b = 'y AND x'"),
    "order of columns": ("SELECT a, b FROM t", "SELECT b, a FROM t"),
    "order of conditions with OR": (
        "SELECT a FROM t WHERE b = 1 OR c = 2 AND d = 3",
        "SELECT a FROM t WHERE d = 3 AND b = 1 OR c = 2",
    ),
    "order with OR alone": ("SELECT a FROM t WHERE b = 1 OR c = 2", "SELECT a FROM t WHERE c = 2 OR b = 1"),
    "order with the operators of OR": (
        "SELECT a FROM t WHERE b = 1 AND c = 2 || d = 3",
        "SELECT a FROM t WHERE c = 2 || d = 3 AND b = 1",
    ),
    "order with BETWEEN": (
        "SELECT a FROM t WHERE b BETWEEN 1 AND 2 AND c = 3",
        "SELECT a FROM t WHERE c = 3 AND b BETWEEN 1 AND 2",
    ),
    "limits of BETWEEN": ("SELECT a FROM t WHERE b BETWEEN 1 AND 2", "SELECT a FROM t WHERE b BETWEEN 2 AND 1"),
    "order in CASE": (
        "SELECT a FROM t WHERE b = CASE WHEN c = 1 AND d = 2 THEN 1 END",
        "SELECT a FROM t WHERE d = 2 THEN 1 END AND b = CASE WHEN c = 1",
    ),
    "order after a leading NOT": (
        "SELECT a FROM t WHERE NOT b = 1 AND c = 2",
        "SELECT a FROM t WHERE c = 2 AND NOT b = 1",
    ),
    "order inside a subquery": (
        "SELECT a FROM t WHERE b = (SELECT c FROM t WHERE d = 1 AND e = 2)",
        "SELECT a FROM t WHERE b = (SELECT c FROM t WHERE e = 2 AND d = 1)",
    ),
    "order inside parentheses": (
        "SELECT a FROM t WHERE (b = 1 AND c = 2)",
        "SELECT a FROM t WHERE (c = 2 AND b = 1)",
    ),
    "conditions across two WHEREs": (
        "SELECT a FROM t WHERE b = 1 AND c = 2 UNION SELECT a FROM t WHERE d = 3",
        "SELECT a FROM t WHERE c = 2 AND b = 1 UNION SELECT a FROM t WHERE d = 3",
    ),
    "conditions across WHERE and HAVING": (
        "SELECT a FROM t WHERE b = 1 AND c = 2 GROUP BY a HAVING d = 3 AND e = 4",
        "SELECT a FROM t WHERE b = 1 AND e = 4 GROUP BY a HAVING d = 3 AND c = 2",
    ),
    "order in HAVING": (
        "SELECT a FROM t GROUP BY a HAVING d = 3 AND e = 4",
        "SELECT a FROM t GROUP BY a HAVING e = 4 AND d = 3",
    ),
    "conditions across WHERE and a clause that is not known": (
        "SELECT a FROM t WHERE b = 1 AND c = 2 QUALIFY d = 3 AND e = 4",
        "SELECT a FROM t WHERE e = 4 AND c = 2 QUALIFY d = 3 AND b = 1",
    ),
    "conditions of another statement": (
        "SELECT a FROM t WHERE b = 1 AND c = 2; SELECT a FROM t HAVING d = 3 AND e = 4",
        "SELECT a FROM t WHERE e = 4 AND c = 2; SELECT a FROM t HAVING d = 3 AND b = 1",
    ),
    "order where a parenthesis does not close": (
        "SELECT a FROM t WHERE b = 1 AND c = 2 GROUP BY (a",
        "SELECT a FROM t WHERE c = 2 AND b = 1 GROUP BY (a",
    ),
    "order where a parenthesis does not open": (
        "SELECT a) FROM (t WHERE b = 1 AND c = 2",
        "SELECT a) FROM (t WHERE c = 2 AND b = 1",
    ),
    "a condition given twice": ("SELECT a FROM t WHERE b = 1 AND b = 1", "SELECT a FROM t WHERE b = 1"),
    "sides of a comparison": ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE 1 = b"),
    "values of two conditions": (
        "SELECT a FROM t WHERE b = 1 AND c = 2",
        "SELECT a FROM t WHERE b = 2 AND c = 1",
    ),
    "another operator": ("SELECT a FROM t WHERE b != 1", "SELECT a FROM t WHERE b <> 1"),
    "another way to write a number": ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 1.0"),
    "a number and a string": ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = '1'"),
    "a name and a string": ("SELECT a FROM t WHERE b = c", "SELECT a FROM t WHERE b = 'c'"),
    "a space within a word": ("SELECT a b FROM t", "SELECT ab FROM t"),
    "a space within a number": ("SELECT a FROM t WHERE b = 1 5", "SELECT a FROM t WHERE b = 15"),
    "a space within an operator": ("SELECT a FROM t WHERE b < > 1", "SELECT a FROM t WHERE b <> 1"),
    "a statement between": ("SELECT a FROM t; SELECT b FROM t", "SELECT a FROM t SELECT b FROM t"),
    "two strings and one with a quote": ("SELECT 'a' 'b'", "SELECT 'a''b'"),
    "a comment and its line end": ("SELECT a -- b\nFROM t", "SELECT a -- b FROM t"),
    "case in a comment": ("SELECT a /* B */ FROM t", "SELECT a /* b */ FROM t"),
    "case where a quote does not close": ("SELECT a FROM t WHERE b = 'Red", "SELECT a FROM t WHERE b = 'red"),
    "case where quotes touch a word": (
        'SELECT a FROM t WHERE b = ""The End""',
        'SELECT a FROM t WHERE b = ""the end""',
    ),
    "case after a backslash": (r"SELECT a FROM t WHERE b = 'it\'s Red'", r"SELECT a FROM t WHERE b = 'it\'s red'"),
    "a prefix of a string": ("SELECT x'41'", "SELECT x '41'"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_may_matter_is_kept(case):
    left, right = DIFFERENT[case]
    assert not normalised_match(left, [right])
    assert not normalised_match(right, [left])
    assert normalised_match(f" {left}\n", [left])


def test_the_normal_form_itself():
    assert normalise_sql("SELECT  Count(A),`B` FROM t;") == "select count ( a ) , `B` from t"
    assert normalise_sql('select a from t where c=2 and b="X";') == "select a from t where b = 'X' and c = 2"
    assert normalise_sql(" SELECT A -- why\n") == "SELECT A -- why"
    assert normalise_sql(";") == normalise_sql(" ") == ""


def test_an_empty_text_matches_nothing():
    assert not normalised_match("", [";", "SELECT a"])
    assert not normalised_match(" ; ", [";"])


# Properties over random queries


def random_query(draw):
    """Tokens of a query, its conditions apart, and each literal's place."""
    strings = ["'Red  Wine'", '"o\'Day"', "'AND x = 1'", "'%'", '"a;b"']
    conditions = [
        [draw.choice(["a", "T.b", "max ( c )"]), draw.choice(["=", "<>", "<=", "LIKE"]), draw.choice([*strings, "7"])]
        for _ in range(draw.randint(1, 4))
    ]
    tail = draw.choice([[], ["ORDER", "BY", "a"], ["GROUP", "BY", "a", "HAVING", "b", ">", "1", "AND", "c", "=", "2"]])
    return ["SELECT", "a", ",", "b", "FROM", "t", "WHERE"], conditions, tail


def written(draw, head, conditions, tail):
    """The query with random white space, case, quotes of another kind where that is the same, and a semicolon."""
    tokens = [*head, *conditions[0], *(token for c in conditions[1:] for token in ["AND", *c]), *tail]
    text = ""
    for token in tokens:
        if token[0] not in "'\"":
            token = draw.choice([token, token.upper(), token.lower(), token.swapcase()])
        elif token[0] == '"' and draw.random() < 0.5:
            token = "'" + token[1:-1].replace("'", "''") + "'"
        tight = token in {",", "=", "<>", "<=", ">"} or text[-1:] in set(",=>")
        text += draw.choice(["", " ", "\n "] if tight else [" ", "\t", "  "]) + token
    return text + draw.choice(["", ";", " ; "])


@pytest.mark.parametrize("seed", range(50))
def test_any_way_to_write_a_query_has_one_normal_form(seed):
    draw = random.Random(seed)
    head, conditions, tail = random_query(draw)
    shuffled = draw.sample(conditions, len(conditions))
    one, other = written(draw, head, conditions, tail), written(draw, head, shuffled, tail)
    assert normalise_sql(one) == normalise_sql(other)
    assert normalise_sql(normalise_sql(one)) == normalise_sql(one)
    changed = [list(condition) for condition in conditions]
    place = draw.choice(changed)
    place[2] = draw.choice(["'red  Wine'", "'Red Wine'", '"o\'day"', "8"])
    assert normalise_sql(written(draw, head, changed, tail)) != normalise_sql(one)


@pytest.mark.parametrize("seed", range(50))
def test_any_text_has_a_normal_form_that_is_its_own(seed):
    draw = random.Random(seed)
    parts = ["'", '"', "`", "a", "B", " ", "1", ".", "--", "(", ")", ";", "where", "and", "=", "\n", "€", "¹", "or"]
    for _ in range(40):
        text = "".join(draw.choices(parts, k=draw.randint(0, 12)))
        normal = normalise_sql(text)
        assert normalise_sql(normal) == normal, text


def test_a_long_broken_text_takes_no_long_time():
    assert normalise_sql("'" + "''" * 20000 + "a(" * 20000).startswith("'")
    assert normalise_sql("( " * 5000 + "A").endswith("( a")


@pytest.mark.parametrize(
    ("text", "sql"), [("SELECT a", True), (" with x", True), ("selected", False), ("{}", False), ("", False)]
)
def test_is_sql(text, sql):
    assert is_sql(text) is sql
