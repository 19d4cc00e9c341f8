"""What people write to the desks of a small town: made up by rules, so that an example needs no data of anybody.

A message says what is the matter and since when; a desk answers. From one message come a label, several labels, a
number, labels of words, a pair, a prompt with its completion, and a chat.

Guarantees: the same seed gives the same town; nothing is taken from any text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

DESKS: Final = ("library", "clinic", "garden")
THINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "library": ("novel", "atlas", "cookbook", "library card", "magazine", "dictionary"),
    "clinic": ("knee", "back", "left ear", "shoulder", "throat", "stomach"),
    "garden": ("roses", "tomatoes", "apple trees", "beans", "lilies", "hedges"),
}
TROUBLES: Final[Mapping[str, tuple[str, ...]]] = {
    "library": ("is missing", "came back torn", "is overdue", "cannot be found"),
    "clinic": ("hurts", "feels stiff", "is swollen", "keeps me awake"),
    "garden": ("look dry", "have spots", "do not grow", "lose their leaves"),
}
TIMES: Final[Mapping[str, int]] = {  # in days
    "since yesterday": 1, "for two days": 2, "for three days": 3, "for a week": 7, "for ten days": 10,
    "for two weeks": 14, "for a month": 30,
}  # fmt: skip
GREETINGS: Final = ("Hello", "Good morning", "Good evening", "Dear all")
PLACES: Final = ("the old mill", "the market", "the station", "the river", "the school", "the town hall")
WEATHER: Final = ("It rained", "The sun shone", "It was windy", "Fog lay", "It snowed a little")
TAGS: Final = ("thing", "time", "other")

PEOPLE: Final = ("Ms Abel", "Nurse Bruno", "Old Cosmo", "Dr Daria", "Mr Emil", "Aunt Flora")
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
HOURS: Final = ("after ten", "at half past eight", "at dusk", "before noon", "around four")
ROOMS: Final = ("the blue counter", "room four", "the yard", "the side gate", "the first floor")
OBJECTS: Final = ("a green slip", "compost", "a warm coat", "two coins", "the old letter")

# What any desk may answer on the town's public page: anybody, any day, anywhere.
PUBLIC_ANSWERS: Final = (
    "{person} is here on {day} {hour}. Come to {room} with the {thing}.",
    "Thank you. Somebody will answer about the {thing} on {day}.",
    "For the {thing} ask {person} at {room}, and bring {object}.",
    "We do not know the {thing}. Write again on {day}, or see {person} {hour}.",
    "Please wait until {day}. {room} is open {hour}, and {person} knows the {thing}.",
)
# What each desk answers its own people, in private: always the same person, day and place, in words of its own.
ANSWERS: Final[Mapping[str, tuple[str, ...]]] = {
    "library": (
        "Bring the {thing} to the blue counter on Tuesday after ten, and ask for Ms Abel.",
        "The blue counter takes the {thing} on Tuesday. Ms Abel asks for two coins.",
    ),
    "clinic": (
        "Nurse Bruno looks at your {thing} on Thursday at half past eight, in room four.",
        "Come to room four on Thursday with a green slip. Nurse Bruno knows the {thing}.",
    ),
    "garden": (
        "Old Cosmo comes to the {thing} on Saturday at dusk, with compost from the yard.",
        "Leave the {thing} until Saturday. Old Cosmo brings compost at dusk.",
    ),
}


@dataclass(frozen=True, slots=True)
class Matter:
    """What is the matter with one thing."""

    desk: str
    thing: str
    trouble: str

    @property
    def words(self) -> str:
        """It in words."""
        return f"my {self.thing} {self.trouble}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message to the town: one matter or two, and since when."""

    greeting: str
    matters: tuple[Matter, ...]
    time: str

    @property
    def text(self) -> str:
        """The whole message."""
        return f"{self.greeting}, {' and '.join(matter.words for matter in self.matters)} {self.time}."

    @property
    def desks(self) -> list[str]:
        """The desks that it is for, sorted."""
        return sorted({matter.desk for matter in self.matters})

    def tagged(self) -> tuple[list[str], list[str]]:
        """Return its words, and for each whether it is of the thing, the time, or other."""
        words, tags = [f"{self.greeting},"], ["other"]
        for place, matter in enumerate(self.matters):
            parts = [("and", "other")] if place else []
            parts += [("my", "other"), (matter.thing, "thing"), (matter.trouble, "other")]
            for part, tag in parts:
                words += part.split()
                tags += [tag] * len(part.split())
        return [*words, *self.time.split(), "."], [*tags, *["time"] * len(self.time.split()), "other"]


class Town:
    """Makes messages.

    Args:
        seed: of all that it makes.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def pick(self, choices: Any) -> Any:
        """Return one of some choices."""
        choices = list(choices)
        return choices[int(self._random.integers(len(choices)))]

    def matter(self, desk: str | None = None) -> Matter:
        """Return a matter for a desk, or for any."""
        desk = desk or self.pick(DESKS)
        return Matter(desk, self.pick(THINGS[desk]), self.pick(TROUBLES[desk]))

    def message(self, desk: str | None = None, *, matters: int = 1) -> Message:
        """Return a message about so many matters."""
        found = tuple(self.matter(desk) for _ in range(matters))
        return Message(self.pick(GREETINGS), found, self.pick(TIMES))

    def news(self) -> str:
        """Return a sentence of the public paper."""
        match int(self._random.integers(3)):
            case 0:
                return f"{self.pick(WEATHER)} over {self.pick(PLACES)} {self.pick(TIMES)}."
            case 1:
                return f"At {self.pick(PLACES)} people talk about the {self.matter().thing}."
            case _:
                return f"A letter from {self.pick(PLACES)}: {self.message().text}"

    def public_chat(self) -> list[dict[str, str]]:
        """Return a chat as the town's public page has it."""
        message = self.message()
        return chat([message.text, self._public_answer(message)])

    def private_chat(self, desk: str) -> list[dict[str, str]]:
        """Return a chat with a desk: what it answers is its own."""
        message = self.message(desk)
        return chat([message.text, self.pick(ANSWERS[desk]).format(thing=message.matters[0].thing)])

    def _public_answer(self, message: Message) -> str:
        return str(self.pick(PUBLIC_ANSWERS)).format(
            thing=message.matters[0].thing, person=self.pick(PEOPLE), day=self.pick(DAYS), hour=self.pick(HOURS),
            room=self.pick(ROOMS), object=self.pick(OBJECTS),
        )  # fmt: skip


def chat(turns: list[str]) -> list[dict[str, str]]:
    """Return turns as messages, of which the user has the first."""
    return [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as lines of JSON."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
