"""SQL: the text, and the text in a normal form, for comparing two statements without executing them."""

import re
from collections.abc import Sequence
from itertools import pairwise

from ssft.bench.metrics import exact

NAME = "sql"
DESCRIPTION = "exact, and the same up to spacing, case, kind of quotes and order of AND-ed conditions"
NEEDS = "texts"

STATEMENTS = {"select", "with", "insert", "update", "delete", "create", "alter", "drop"}

# Where a WHERE clause ends; a clause that ends otherwise keeps the order of its conditions.
_CLAUSE_ENDS = {"group", "having", "order", "limit", "offset", "fetch", "union", "intersect", "except", "minus"}
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
    | (?P<comment>--|/\*)
    | (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<name>`[^`]*`)
    | (?P<number>\.?\d[\w.]*)
    | (?P<word>(?:[^\W\d]|[@\#$])[\w@\#$]*)
    | (?P<operator><=>|<>|<=|>=|<<|>>|!=|==|\|\||&&|::|:=|->>|->|.)
    """,
    re.VERBOSE,
)
_ATOMS = {"quoted", "name", "number", "word"}
_COMPARISONS = {"=", "==", "<>", "!=", "<", ">", "<=", ">=", "like"}
_KEYWORDS = {"not": "N", "in": "I", "is": "S", "null": "0"}
_KINDS = {"quoted": "q", "name": "q", "number": "n", "word": "w", "group": "g"}
_SIGNS = {"+": "s", "-": "s", ".": "."}
# A number, a parenthesis of any content, or a (qualified) column, string or call.
_OPERAND = r"(?:s?n|g|[wq](?:\.[wq])*g?)"
_CONDITION = re.compile(rf"{_OPERAND}(?:N?c{_OPERAND}|N?Ig|SN?0)")


def fits(references: Sequence[Sequence[str]]) -> bool:
    """Whether all references are SQL, one each."""
    return all(len(row) == 1 and is_sql(row[0]) for row in references)


def score(text: str, references: Sequence[str]) -> dict[str, float]:
    """exact_match, and normalised_match."""
    return {**exact.score(text, references), "normalised_match": 100.0 * normalised_match(text, references)}


def is_sql(text: str) -> bool:
    """Whether a text begins as an SQL statement does."""
    words = text.split(maxsplit=1)
    return bool(words) and words[0].lower() in STATEMENTS


def normalised_match(text: str, references: Sequence[str]) -> bool:
    """Whether a text is the same SQL as any of the references up to `normalise_sql`; an empty one never is."""
    normal = normalise_sql(text)
    return bool(normal) and normal in {normalise_sql(reference) for reference in references}


def normalise_sql(text: str) -> str:
    """A normal form of one SQL statement, for comparing two without executing them. Nothing is parsed.

    What disappears:

    - white space, but for one space between tokens: `COUNT ( a,b )>=3` is `count(a, b) >= 3`; `t . a` is `t.a`;
    - case outside quotes: `Select A` is `SELECT a`;
    - the kind of quotes: `'x'` is `"x"`, and `'o''day'` is `"o'day"` (a doubled quote stands for one). Standard SQL
      takes `"x"` for a column, but data sets and models write strings so; backticks stay what they are;
    - semicolons at the end;
    - the order of the conditions of WHERE, where it cannot matter: `WHERE a = 1 AND b = 2` is `WHERE b = 2 AND a = 1`.
      Only for a single WHERE outside parentheses that runs to the end or to GROUP, HAVING, ORDER, LIMIT, OFFSET, FETCH
      or a set operation, whose conditions are joined by AND alone, and each is one comparison (LIKE, IN and IS NULL
      too) of columns, numbers, strings, calls and parentheses, which keep their inner order. With OR, BETWEEN, CASE,
      arithmetic or a leading NOT outside parentheses the order stays.

    What keeps two texts apart, besides any other token: the case and the spaces of a quoted text (`'A'`, `'a'`), the
    order of columns, `a = 1` and `1 = a`, `!=` and `<>`, `1` and `1.0`, `1` and `'1'`, an optional word (`AS`, `ASC`),
    an alias, redundant parentheses.

    A text that cannot be read for sure is only stripped: with a comment (`--`, `/*`), a quote that does not close, or
    one that touches a word or another quote (`""The End""`, `x'41'`, `'it\\'s'`).
    """
    tokens = _tokens(text)
    if tokens is None:
        return text.strip()
    while tokens and tokens[-1][1] == ";":
        tokens.pop()
    grouped = _grouped(tokens)
    return " ".join(value for _, value in (tokens if grouped is None else _sort_conditions(grouped)))


Token = tuple[str, str]
"""Kind (a group of `_TOKEN`) and normalised text."""


def _tokens(text: str) -> list[Token] | None:
    """Normalised tokens without white space; None for a text that cannot be read for sure."""
    tokens: list[Token] = []
    before = "space"
    for match in _TOKEN.finditer(text):
        kind, value = str(match.lastgroup), match.group()
        # A lone quote is one that does not close.
        if kind == "comment" or (kind == "operator" and value in "'\"`"):
            return None
        if {kind, before} <= _ATOMS and {kind, before} & {"quoted", "name"}:
            return None
        before = kind
        if kind == "quoted":
            content = value[1:-1].replace(value[0] * 2, value[0])
            value = "'" + content.replace("'", "''") + "'"
        elif kind != "name":
            value = value.lower()
        if kind != "space":
            tokens.append((kind, value))
    return tokens


def _grouped(tokens: list[Token]) -> list[Token] | None:
    """The tokens with each outermost parenthesis and its content as one of the kind "group"; None if parentheses do not
    pair."""
    found: list[Token] = []
    depth = 0
    for kind, value in tokens:
        depth += kind == "operator" and value == "("
        if depth == 0 or (depth == 1 and kind == "operator" and value == "("):
            found.append(("group" if depth else kind, value))
        else:
            found[-1] = ("group", f"{found[-1][1]} {value}")
        depth -= kind == "operator" and value == ")"
        if depth < 0:
            return None
    return found if depth == 0 else None


def _sort_conditions(tokens: list[Token]) -> list[Token]:
    """The tokens with the conditions of WHERE in sorted order, if `normalise_sql` may forget theirs."""
    words = [i for i, (kind, _) in enumerate(tokens) if kind == "word"]
    wheres = [i for i in words if tokens[i][1] == "where"]
    if len(wheres) != 1:
        return tokens
    start = wheres[0] + 1
    end = next((i for i in words if i >= start and _ends_clause(tokens, i)), len(tokens))
    ands = [i for i in words if start <= i < end and tokens[i][1] == "and"]
    conditions = sorted(tokens[left + 1 : right] for left, right in pairwise([start - 1, *ands, end]))
    if not all(_CONDITION.fullmatch("".join(map(_letter, condition))) for condition in conditions):
        return tokens
    clause = conditions[0] + [token for condition in conditions[1:] for token in [("word", "and"), *condition]]
    return tokens[:start] + clause + tokens[end:]


def _ends_clause(tokens: list[Token], index: int) -> bool:
    """Whether the word at `index` ends a WHERE clause."""
    # Data sets have columns named group and order.
    word, following = tokens[index][1], tokens[index + 1 : index + 2]
    return word in _CLAUSE_ENDS and (word not in ("group", "order") or following == [("word", "by")])


def _letter(token: Token) -> str:
    """What `_CONDITION` reads of a token."""
    kind, value = token
    if kind in ("word", "operator") and value in _COMPARISONS:
        return "c"
    if kind == "word" and value in _KEYWORDS:
        return _KEYWORDS[value]
    return _SIGNS.get(value, "?") if kind == "operator" else _KINDS[kind]
