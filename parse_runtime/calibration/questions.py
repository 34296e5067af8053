"""The questions that ship: arithmetic in words, short facts, what a line of code prints.

Made by a script: the same seed gives the same questions. Answers of code are computed here from
the numbers that the code is made of; nothing that a model writes is run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from parse_runtime.calibration.answers import Question

BRIEFLY = "Answer in one short sentence."
"""Behind every question: whether an answer that is cut off would be right is not known."""
_FACTS = (
    ("What is the capital of {}?", (
        ("France", "Paris"), ("Japan", "Tokyo"), ("Italy", "Rome"), ("Egypt", "Cairo"),
        ("Canada", "Ottawa"), ("Peru", "Lima"), ("Kenya", "Nairobi"), ("Norway", "Oslo"),
        ("Portugal", "Lisbon"), ("Australia", "Canberra"), ("Turkey", "Ankara"),
        ("Poland", "Warsaw"), ("Cuba", "Havana"), ("Austria", "Vienna"), ("Greece", "Athens"),
        ("Morocco", "Rabat"), ("Vietnam", "Hanoi"), ("Hungary", "Budapest"),
    )),
    ("What is the chemical symbol of {}?", (
        ("gold", "Au"), ("silver", "Ag"), ("iron", "Fe"), ("sodium", "Na"), ("potassium", "K"),
        ("lead", "Pb"), ("helium", "He"), ("tin", "Sn"), ("copper", "Cu"), ("tungsten", "W"),
    )),
    ("In which year did {}?", (
        ("the Second World War end", "1945"), ("humans first land on the Moon", "1969"),
        ("the Berlin Wall fall", "1989"), ("the First World War begin", "1914"),
        ("the French Revolution begin", "1789"), ("the Titanic sink", "1912"),
    )),
    ("Who wrote {}? Give the last name.", (
        ("Hamlet", "Shakespeare"), ("War and Peace", "Tolstoy"), ("1984", "Orwell"),
        ("Don Quixote", "Cervantes"), ("Pride and Prejudice", "Austen"), ("Faust", "Goethe"),
        ("The Odyssey", "Homer"), ("Moby-Dick", "Melville"),
    )),
    ("How many {}? Answer with a number.", (
        ("legs does a spider have", "8"), ("sides does a hexagon have", "6"),
        ("minutes are in two hours", "120"), ("days are in a leap year", "366"),
        ("strings does a violin have", "4"), ("planets are in the solar system", "8"),
        ("degrees are in a right angle", "90"), ("bits are in a byte", "8"),
    )),
)  # fmt: skip


def _product(r: random.Random) -> Question:
    a, b = r.randint(3, 19), r.randint(3, 19)
    return Question(f"What is {a} times {b}?", str(a * b))


def _sum(r: random.Random) -> Question:
    a, b, c = (r.randint(11, 99) for _ in range(3))
    return Question(f"Add {a}, {b} and {c}.", str(a + b + c))


def _remainder(r: random.Random) -> Question:
    a, b = r.randint(20, 99), r.randint(3, 9)
    return Question(f"What is the remainder when {a} is divided by {b}?", str(a % b))


def _percentage(r: random.Random) -> Question:
    share, whole = r.choice((5, 10, 20, 25, 50, 75)), r.randint(2, 20) * 20
    return Question(f"What is {share} percent of {whole}?", str(share * whole // 100))


def _equation(r: random.Random) -> Question:
    a, b, x = r.randint(2, 9), r.randint(1, 20), r.randint(2, 12)
    return Question(f"Solve for x: {a}x + {b} = {a * x + b}. Give the value of x.", str(x))


def _apples(r: random.Random) -> Question:
    a, b, c = r.randint(3, 9), r.randint(2, 9), r.randint(2, 6)
    text = f"Tom has {a} bags with {b} apples each. He eats {c} apples. How many are left?"
    return Question(text, str(a * b - c))


def _rectangle(r: random.Random) -> Question:
    a, b = r.randint(3, 20), r.randint(3, 20)
    text = f"A rectangle is {a} m long and {b} m wide. What is its perimeter in metres?"
    return Question(text, str(2 * (a + b)))


def _journey(r: random.Random) -> Question:
    speed, hours = r.randint(3, 12) * 10, r.randint(2, 6)
    text = f"A train goes {speed} km an hour. How many kilometres does it go in {hours} hours?"
    return Question(text, str(speed * hours))


def _line_of_code(r: random.Random) -> Question:
    a, b, c = r.randint(2, 9), r.randint(2, 9), r.randint(2, 6)
    word = "".join(r.choice("abcdefgh") for _ in range(c))
    code, printed = r.choice(
        (
            (f"len('{word}' * {b})", c * b),
            (f"sum(range({a + b}))", (a + b) * (a + b - 1) // 2),
            (f"max({a}, {b * c}, {a + c}) - min({a}, {b})", max(a, b * c, a + c) - min(a, b)),
            (f"[i * {a} for i in range({b + 1})][{b}]", a * b),
            (f"{a * b + c} // {a}", (a * b + c) // a),
            (f"{a * b + c} % {b}", (a * b + c) % b),
        )
    )
    return Question(f"What does this line of Python print? print({code})", str(printed))


def _fact(r: random.Random) -> Question:
    form, pairs = r.choice(_FACTS)
    subject, answer = r.choice(pairs)
    return Question(form.format(subject), answer)


_KINDS: tuple[Callable[[random.Random], Question], ...] = (
    _product, _sum, _fact, _remainder, _percentage, _line_of_code, _equation, _apples, _fact,
    _rectangle, _journey, _line_of_code,
)  # fmt: skip


def make(count: int, seed: int = 0) -> list[Question]:
    """That many unlike questions, of all kinds in turn."""
    chooser, found = random.Random(seed), dict[str, Question]()
    while len(found) < count:
        question = _KINDS[len(found) % len(_KINDS)](chooser)
        question = replace(question, prompt=f"{question.prompt} {BRIEFLY}")
        found.setdefault(question.prompt, question)
    return list(found.values())
