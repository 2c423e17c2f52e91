"""The texts that the tiny models learn from."""

from __future__ import annotations

import random

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
ONES = f"{_ONES} seventeen eighteen nineteen".split()
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_EINS = "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn"
EINS = f"{_EINS} siebzehn achtzehn neunzehn".split()
ZEHN = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]


def english(number: int) -> str:
    """A number below 1000 in words: ``three hundred and forty two``."""
    if number >= 100:
        rest = f" and {english(number % 100)}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    if number < 20:
        return ONES[number]
    return TENS[number // 10 - 2] + (f" {ONES[number % 10]}" if number % 10 else "")


def german(number: int) -> str:
    """A number below 1000 in words: ``dreihundertzweiundvierzig``."""
    if number >= 100:
        return f"{EINS[number // 100]}hundert{german(number % 100) if number % 100 else ''}"
    if number < 20:
        return "eins" if number == 1 else EINS[number]
    return (f"{EINS[number % 10]}und" if number % 10 else "") + ZEHN[number // 10 - 2]


THINGS = ["film", "book", "song", "restaurant", "hotel", "phone", "camera", "game", "lamp", "chair", "soup", "coffee"]
GOOD = ["good", "great", "wonderful", "excellent", "lovely", "brilliant", "delightful", "superb", "fine", "beautiful"]
BAD = ["bad", "terrible", "awful", "poor", "dreadful", "boring", "dull", "horrible", "weak", "disappointing"]
REVIEWS = (
    "The {thing} was {word}.",
    "A {word} {thing}!",
    "What a {word} {thing}.",
    "I found the {thing} {word}.",
    "We had a {word} time with this {thing}.",
    "This {thing} is {word}, and I would say so again.",
)
DENIALS = ("The {thing} was not {word}.", "I did not find the {thing} {word}.", "It is not a {word} {thing}.")


def review(draw: random.Random) -> tuple[str, int]:
    """A review, and whether it is positive."""
    is_good, is_denied = draw.random() < 0.5, draw.random() < 0.3
    form = draw.choice(DENIALS if is_denied else REVIEWS)
    text = form.format(thing=draw.choice(THINGS), word=draw.choice(GOOD if is_good else BAD))
    return text, int(is_good != is_denied)


PLACES = ["Berlin", "Paris", "London", "Madrid", "Rome", "Vienna", "Lisbon", "Dublin", "Prague", "Warsaw", "Athens"]
QUESTIONS = {
    "people": ("How many people live in {}?", "What is the population of {}?"),
    "river": ("Which river flows through {}?", "On which river is {}?"),
    "food": ("What do people eat in {}?", "What is a typical dish of {}?"),
    "travel": ("How do I get to {}?", "Is there a train to {}?"),
    "weather": ("Is it cold in {}?", "What is the weather like in {}?"),
    "sights": ("What should I see in {}?", "Which museums does {} have?"),
}
DOCUMENTS = {
    "people": ("{} has many inhabitants.", "The number of inhabitants of {} grows every year."),
    "river": ("The water in the middle of {} is crossed by bridges.", "Boats sail through {} to the sea."),
    "food": ("Soup and bread are on every table in {}.", "Restaurants in {} serve fish and potatoes."),
    "travel": ("There are fast trains to {} every hour.", "The airport of {} is an hour from the centre."),
    "weather": ("Winters in {} are long, and summers are warm.", "It rains in {} in autumn."),
    "sights": ("Visitors of {} go to the old castle first.", "The gallery in {} shows famous paintings."),
}
