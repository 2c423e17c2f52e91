"""The demo model's text: stories, explanations and conversations, drawn from the templates in `corpus/`.

A template is prose with two kinds of braces. `{red|blue}` is a choice, and `{friend}` is looked up in the bindings of
the document, so that one name stays the same from the first sentence to the last. `{Friend}` is the same word with a
capital. A document is either plain text or a conversation, in the form that a tokenizer's chat template takes.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

Messages = list[dict[str, str]]
Document = str | Messages

_FOLDER = Path(__file__).parent / "corpus"
_BRACES = re.compile(r"\{([^{}]*)\}")
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])")

_DEFINE_ONE = ["What is {}?", "What's {}?", "Can you explain what {} is?", "What exactly is {}?", "What is {} for?"]
_DEFINE_MANY = ["What are {}?", "Can you explain what {} are?", "What exactly are {}?"]
_DESCRIBE = ["Explain {}.", "Explain {} to me.", "Tell me about {}.", "Describe {}.", "Please explain {}.",
             "Can you tell me about {}?", "Explain {} in simple words.", "What do you know about {}?"]  # fmt: skip
_ASK_STORY = ["Tell me a story about {}.", "Write a story about {}.", "Tell me a short story about {}.",
              "Can you tell me a story about {}?",
               "I would like to hear a story about {}.", "A story about {}, please."]  # fmt: skip
_ASK_ANY_STORY = ["Tell me a story.", "Tell me a story", "Write a short story.", "Can you tell me a story?",
                  "Do you know a story?", "Please tell me a bedtime story."]  # fmt: skip
_ASK_ECHO = ["Repeat after me: {}", "Say: {}", "Please repeat: {}", "Repeat these words: {}"]
_INTRODUCE = ["My name is {}.", "Hello, my name is {}.", "Hi, I am {}.", "I am {}. Who are you?", "Hello! I'm {}."]
_SYSTEM = ["You are a helpful assistant.", "You are a small and friendly language model.", "Answer in a few sentences.",
           "You are a helpful assistant that answers questions about language models."]  # fmt: skip
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
            "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"]  # fmt: skip


def read_blocks(name: str) -> list[list[str]]:
    """The blocks of a corpus file, separated by empty lines; each is a list of its lines."""
    text = (_FOLDER / name).read_text(encoding="utf-8")
    return [block.splitlines() for block in text.strip().split("\n\n")]


def read_paragraphs(name: str) -> list[str]:
    return [" ".join(lines) for lines in read_blocks(name)]


def capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def expand(template: str, bindings: dict[str, str], rng: random.Random) -> str:
    """Resolve the braces from the inside out. A name without a binding is a `KeyError`."""

    def resolve(match: re.Match[str]) -> str:
        options = match[1].split("|")
        if len(options) > 1:
            return rng.choice(options).strip()
        name = match[1]
        return bindings[name] if name in bindings else capitalize(bindings[name.lower()])

    while _BRACES.search(template):
        template = _BRACES.sub(resolve, template)
    return template


@dataclass(frozen=True)
class Topic:
    """Questions that have the same answer. `subjects` are noun phrases to be put into the usual frames of one."""

    answers: list[str]
    questions: list[str] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, lines: list[str]) -> Topic:
        """`? a question`, `@ subject | subject`, `= an answer`; a line without a mark continues the answer."""
        topic = cls([])
        for line in lines:
            mark, _, rest = line.partition(" ")
            if mark == "?":
                topic.questions.append(rest)
            elif mark == "@":
                topic.subjects.extend(subject.strip() for subject in rest.split("|"))
            elif mark == "=":
                topic.answers.append(rest)
            else:
                topic.answers[-1] += " " + line
        return topic

    @property
    def weight(self) -> int:
        """How often the topic is drawn: the more ways there are to ask, the more often it has to be seen."""
        num_choices = sum(question.count("|") for question in self.questions)
        return 4 + min(60, len(self.questions) + len(self.subjects) + num_choices)

    def ask(self, rng: random.Random) -> str:
        """A question as people type it: sometimes without its mark, and sometimes without a capital."""
        if self.subjects and (not self.questions or rng.random() < 0.6):
            subject = rng.choice(self.subjects)
            question = capitalize(rng.choice(frames_for(subject)).format(subject))
        else:
            question = expand(rng.choice(self.questions), {}, rng)
        question = question.rstrip("?.!") if rng.random() < 0.15 else question
        return question.lower() if rng.random() < 0.15 else question

    def answer(self, rng: random.Random) -> str:
        return expand(rng.choice(self.answers), {}, rng).replace("\\n ", "\n")


def frames_for(subject: str) -> list[str]:
    is_many = subject.endswith("s") and not subject.endswith(("ss", "sis")) and not subject.startswith(("a ", "an "))
    return (_DEFINE_MANY if is_many else _DEFINE_ONE) + _DESCRIBE


class Corpus:
    """An endless, seeded stream of documents: `Corpus(seed).documents()`."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.words = tomllib.loads((_FOLDER / "words.toml").read_text(encoding="utf-8"))
        self.arcs = read_paragraphs("stories.txt")
        self.days = read_paragraphs("days.txt") + read_paragraphs("openings.txt")
        self.world = read_paragraphs("world.txt")
        self.subject = read_paragraphs("subject.txt")
        self.vocabulary = sorted(set(re.findall(r"\b[a-z]+\b", " ".join(self.world + self.subject))))
        self.topics = [Topic.parse(lines) for lines in read_blocks("chat.txt")]

    def documents(self) -> Iterator[Document]:
        kinds: list[Callable[[], Document]] = [self.story, self.day, self.explanation, self.conversation, self.excerpt]
        while True:
            yield self.rng.choices(kinds, weights=[26, 8, 22, 38, 6])[0]()

    def story(self) -> str:
        return self.tell(self.bind_child() if self.rng.random() < 0.5 else self.bind_animal())

    def tell(self, bindings: dict[str, str]) -> str:
        """An opening, one or two things that happen, and a closing."""
        opening = self.rng.choice(self.words["openings"]["animal" if "kind" in bindings else "child"])
        first, second = self.rng.sample(self.arcs, 2)
        parts = [opening, first]
        if self.rng.random() < 0.25:
            parts.append("\n\n" + self.rng.choice(self.words["openings"]["again"]) + " " + second)
        parts.append(self.rng.choice(self.words["closings"]))
        return expand(" ".join(parts).replace(" \n", "\n"), bindings, self.rng)

    def day(self) -> str:
        return expand(self.rng.choice(self.days), self.bind_child(), self.rng)

    def explanation(self) -> str:
        """One paragraph or two; the project's own subject as often as the rest of the world."""
        paragraphs = self.rng.choice([self.world, self.subject])
        chosen = self.rng.sample(paragraphs, self.rng.choice([1, 1, 2]))
        return "\n\n".join(expand(paragraph, {}, self.rng) for paragraph in chosen)

    def excerpt(self) -> str:
        """The end of a text, from some sentence on, so that a prompt need not be the beginning of a document."""
        sentences = _SENTENCE_END.split(self.rng.choice([self.story, self.day, self.explanation])())
        return " ".join(sentences[self.rng.randrange(len(sentences)) :])

    def conversation(self) -> Messages:
        messages: Messages = []
        if self.rng.random() < 0.25:
            messages.append({"role": "system", "content": self.rng.choice(_SYSTEM)})
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            question, answer = self.exchange()
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return messages

    def exchange(self) -> tuple[str, str]:
        draw = self.rng.random()
        for share, make in (
            (0.12, self.story_on_request),
            (0.04, self.addition),
            (0.04, self.echo),
            (0.04, self.greeting),
        ):
            if draw < share:
                return make()
            draw -= share
        topic = self.rng.choices(self.topics, weights=[topic.weight for topic in self.topics])[0]
        return topic.ask(self.rng), topic.answer(self.rng)

    def story_on_request(self) -> tuple[str, str]:
        bindings = self.bind_child() if self.rng.random() < 0.4 else self.bind_animal()
        if self.rng.random() < 0.2:
            return self.rng.choice(_ASK_ANY_STORY), self.tell(bindings)
        about = bindings.get("a_kind") or f"a {bindings['child']} named {bindings['hero']}"
        return self.rng.choice(_ASK_STORY).format(about), self.tell(bindings)

    def addition(self) -> tuple[str, str]:
        left, right = self.rng.randrange(10), self.rng.randrange(10)
        if self.rng.random() < 0.5:
            return f"What is {left} + {right}?", f"{left} + {right} is {left + right}."
        words = f"{_NUMBERS[left]} plus {_NUMBERS[right]}"
        return f"What is {words}?", f"{capitalize(words)} is {_NUMBERS[left + right]}."

    def echo(self) -> tuple[str, str]:
        """To repeat words that nobody could have guessed is how a model learns to look back."""
        words = self.rng.sample(self.vocabulary, self.rng.randrange(1, 9))
        return self.rng.choice(_ASK_ECHO).format(" ".join(words)), f"As you like: {' '.join(words)}."

    def greeting(self) -> tuple[str, str]:
        name = self.bind_child()["hero"]
        answer = f"Hello, {name}! It is nice to meet you. What would you like to know?"
        return self.rng.choice(_INTRODUCE).format(name), answer

    def bind_things(self) -> dict[str, str]:
        """One word of each list, under the list's name without its plural s (`colors` -> `{color}`)."""
        return {name.removesuffix("s"): self.rng.choice(words) for name, words in self.words["things"].items()}

    def bind_child(self) -> dict[str, str]:
        is_girl = self.rng.random() < 0.5
        hero = self.rng.choice(self.words["names"]["girls" if is_girl else "boys"])
        friend = self.rng.choice([name for name in chain.from_iterable(self.words["names"].values()) if name != hero])
        child = {"hero": hero, "friend": friend, "child": "girl" if is_girl else "boy"}
        return self.bind_things() | pronouns("she" if is_girl else "he") | child

    def bind_animal(self) -> dict[str, str]:
        """The hero and the friend are "the fox" and "the owl"; `{a_kind}` and `{a_friend}` introduce them."""
        animal, friend = self.rng.sample(self.words["animals"], 2)
        names = {"hero": f"the {animal['kind']}", "friend": f"the {friend['kind']}"}
        introductions = {"a_kind": with_article(animal["kind"]), "a_friend": with_article(friend["kind"])}
        return self.bind_things() | pronouns(self.rng.choice(["she", "he"])) | animal | names | introductions


def pronouns(subject: str) -> dict[str, str]:
    objects = {"she": ("her", "her"), "he": ("him", "his")}
    him, his = objects[subject]
    return {"he": subject, "him": him, "his": his}
