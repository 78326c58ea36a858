"""Prompts as users type them, made from templates: something for a chat model to answer where you have no prompts.

    ssft distill smollm2-135m --questions 400 --keep-cut-off --max-new-tokens 128 --output asked.jsonl
    python examples/chat_prompts.py --count 800 --texts asked.jsonl --output prompts.jsonl
    ssft distill smollm2-135m --data prompts.jsonl --keep-cut-off --max-new-tokens 128 --output answers.jsonl

Seven kinds take turns: short questions, questions about a passage, summaries, translations, sums in words, things to
write, and things to extract. A row has `messages` and its `category`. The seed decides what is drawn. `--texts` is a
file of texts to summarise or to ask about: a row's `prompt`, or the last message of its chat, as in the rows that
`ssft distill` writes. Without it, the passages are made up, too.
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssft.recipes.records import records


def _listed(text: str) -> list[str]:
    """What the commas of a text separate."""
    return [part.strip() for part in " ".join(text.split()).split(",")]


NAMES = _listed(
    """
    Ana, Ben, Chloe, David, Elena, Farid, Grace, Hugo, Ines, Jonas, Kira, Liam, Mona, Nils, Olga, Pablo, Rosa,
    Sam, Tara, Viktor
    """
)
PLACES = _listed(
    """
    Lisbon, Oslo, Nairobi, Kyoto, Quito, Halifax, Riga, Perth, Tunis, Leeds, Bergen, Cusco, Ghent, Malmo,
    Austin, Turin
    """
)
THINGS = _listed(
    """
    apples, books, pencils, tickets, shells, coins, stickers, eggs, bottles, chairs, marbles, cookies, stamps,
    plants
    """
)
TOPICS = _listed(
    """
    photosynthesis, the French Revolution, black holes, the stock market, vaccines, volcanoes, the Roman Empire,
    solar power, sleep, the water cycle, jazz, chess, machine learning, coral reefs, the printing press,
    inflation, honey bees, earthquakes, the human heart, recycling, the Silk Road, electric cars, democracy,
    glaciers, antibiotics, the moon, tea, migration of birds
    """
)
ASKED = _listed(
    """
    What is {topic}?, How does {topic} work?, Why is {topic} important?, Who first studied {topic}?, When did
    people first learn about {topic}?, What are the main parts of {topic}?, What should a child know about
    {topic}?, Where can I see {topic}?, what is the difference between {topic} and {other}, Is {topic}
    dangerous?, Give me three facts about {topic}.
    """
)
WRITTEN = (
    "Write a short email to {name} that asks to move the meeting about {topic} to next week.",
    "Write a blog post of two paragraphs about a visit to {place}.",
    "Write a short story about {name}, who finds {number} {things} in {place}.",
    "Write a poem about {topic}.",
    "Explain {topic} to a ten-year-old child.",
    "Give me five ideas for a talk about {topic}.",
    "Write a Python function that counts the {things} in a list.",
    "Write a product description for a box of {things} that is made in {place}.",
    "What are the advantages and disadvantages of {topic}? Give a list.",
)
SUMS = (
    "{name} has {number} {things} and buys {small} more bags with {few} {things} each. How many {things} "
    "does {name} have now?",
    "A shop in {place} sells {things} for {few} dollars each. {name} buys {small} of them and pays with a "
    "note of {number} dollars. How much change does {name} get?",
    "{name} reads {few} pages a day. How many days does it take to read a book of {number} pages?",
    "There are {number} {things} in a box. {name} takes {few} and {other_name} takes twice as many. How many are left?",
    "{name} earns {few} dollars an hour and works {small} hours a day. How much does {name} earn in {few} days?",
    "A train to {place} goes {number} kilometres in {small} hours. How far does it go in {few} hours?",
)
SUBJECTS = _listed(
    """
    Der Bürgermeister, Die neue Regierung, Meine Schwester, Der Trainer, Die Firma aus Hamburg, Ein Sprecher der
    Polizei, Die junge Ärztin, Der Präsident, Die Europäische Union, Das Team, Unser Lehrer, Die Bank
    """
)
VERBS = _listed(
    """
    hat {} angekündigt, möchte {} verhindern, konnte {} erklären, wird {} prüfen, soll {} bezahlen, hatte {}
    vergessen
    """
)
OBJECTS = _listed(
    """
    den neuen Plan, die hohen Preise, das Ergebnis der Wahl, den Bau der Brücke, die Reise nach Berlin, den
    Vertrag mit den Arbeitern, die Folgen des Sturms, das Spiel am Samstag, den Bericht über das Klima, die
    Arbeit an der Schule
    """
)
ENDS = (
    "",
    " , obwohl niemand daran glaubte",
    " , weil das Geld dafür fehlt",
    " , und nach einem langen Gespräch war auch der Rat einverstanden",
    " , bevor der Winter beginnt",
    " , sagte gestern eine Zeitung aus München",
)
TRANSLATED = ("Translate German to English: {}", "Translate into English: {}", "What does this mean in English? {}")
SUMMARISED = ("Summarize: {}", "Summarize the following text in two sentences.\n\n{}", "{}\n\nWhat is this text about?")
EXTRACTED = (
    "Extract all names and numbers from this text as a list.\n\n{}",
    "Read the text and answer in JSON with the keys who, where and when.\n\n{}",
)


LONGEST = 1200
"""Characters of a text that is taken from a file, at most: small models have short contexts."""


def words(rng: random.Random) -> dict[str, str]:
    """What the places of a template hold."""
    return {
        "name": rng.choice(NAMES),
        "other_name": rng.choice(NAMES),
        "place": rng.choice(PLACES),
        "things": rng.choice(THINGS),
        "topic": rng.choice(TOPICS),
        "other": rng.choice(TOPICS),
        "number": str(rng.randrange(40, 900)),
        "small": str(rng.randrange(2, 9)),
        "few": str(rng.randrange(3, 25)),
    }


def passage(rng: random.Random) -> str:
    """A made-up text of some sentences."""
    facts = [
        "{name} was born in {place} in 19{few:0>2} and moved to {other_place} at the age of {few}.",
        "The museum of {place} shows {number} {things} that {name} collected over {small} years.",
        "In the year 18{few:0>2} a fire destroyed {number} houses, and {other_name} led the work to build them again.",
        "Every summer, {few} thousand people come to {place} for a festival about {topic}.",
        "The river is {number} kilometres long and has {small} bridges, the oldest of which was built by {name}.",
        "A study of {topic} by {other_name} found that {few} of {number} people had never heard of it.",
        "The company {name} & {other_name} makes {things} and sells them in {small} countries.",
    ]
    rng.shuffle(facts)
    held = words(rng) | {"other_place": rng.choice(PLACES)}
    return " ".join(fact.format(**(held | {"few": str(rng.randrange(3, 25))})) for fact in facts[: rng.randrange(3, 7)])


def german(rng: random.Random) -> str:
    """A German sentence."""
    verb = rng.choice(VERBS).format(rng.choice(OBJECTS))
    return f"{rng.choice(SUBJECTS)} {verb}{rng.choice(ENDS)} ."


def makers(rng: random.Random, texts: list[str]) -> dict[str, Callable[[], str]]:
    """What makes a prompt of each category."""

    def text() -> str:
        return rng.choice(texts) if texts and rng.random() < 0.7 else passage(rng)

    def filled(templates: tuple[str, ...] | list[str]) -> str:
        return rng.choice(templates).format(**words(rng))

    return {
        "qa": lambda: filled(ASKED),
        "rag": lambda: f"{text()}\n{filled(ASKED[:6])}",
        "summarization": lambda: rng.choice(SUMMARISED).format(text()),
        "translation": lambda: rng.choice(TRANSLATED).format(german(rng)),
        "math_reasoning": lambda: filled(SUMS),
        "writing": lambda: filled(WRITTEN),
        "extraction": lambda: rng.choice(EXTRACTED).format(text()),
    }


def text_of(row: dict[str, Any]) -> str:
    """The text that a row of `--texts` holds."""
    return str(row["prompt"] if "prompt" in row else row["messages"][-1]["content"]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=800, help="number of prompts")
    parser.add_argument("--texts", type=Path, help="file of rows with a text: `prompt`, or a chat's last message")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file that is written")
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    texts = [] if asked.texts is None else [text_of(row) for _, row in records(asked.texts)]
    texts = [text for text in texts if len(text) <= LONGEST]
    kinds = makers(rng, texts)
    rows: dict[str, str] = {}
    while len(rows) < asked.count:
        category = list(kinds)[len(rows) % len(kinds)]
        rows.setdefault(kinds[category](), category)
    with asked.output.open("w", encoding="utf-8") as file:
        for prompt, category in rows.items():
            row = {"messages": [{"role": "user", "content": prompt}], "category": category}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{asked.output}: {len(rows):,} prompts of {len(kinds)} categories")


if __name__ == "__main__":
    main()
