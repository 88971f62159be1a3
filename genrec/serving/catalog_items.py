"""The items of a catalog: from ids or titles of the user to item numbers, and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy import ndarray

from genrec.errors import InputError, counted
from genrec.id_matching import Ids, likely_cause
from genrec.terminal_text import printable

TITLE = "title:"  # prefix of a text that is searched in titles only, also if it is an item's id
ID = "id:"  # prefix of a text that is an id and no title, such as id:title:7 for the item with the id title:7
NO_TITLE = "(no title)"  # on the screen
SHOWN = 10  # candidates that a message lists
SHOWN_TITLE = 80  # characters of a title in a message
MAX_COMPARED = 100_000  # ids that are compared with a misspelt one


@dataclass(frozen=True, eq=False)
class CatalogItems:
    """The items 1..N of a data set by number, entry i - 1 is item i."""

    ids: tuple[str, ...]  # ids in the source
    titles: tuple[str, ...]  # titles, or texts where there is no title; "" where there is neither, which no search finds
    num_interactions: ndarray  # int64 [N], in training; 0 is a cold item

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each id."""
        return {name: place + 1 for place, name in enumerate(self.ids)}

    def number_of(self, text: str) -> int:
        """Return the number of the item with this id, or of the only item with this title, or with all of these words in its title.

        A number, such as `12`, is only an id, and so is `id:TEXT`; `title:TEXT` is only searched in titles. Raises InputError if there
        is none, with the nearest titles, or if several titles match, with their ids.
        """
        if text.startswith(ID):
            plain = text.removeprefix(ID)
            return self.numbers[text] if plain not in self.numbers and text in self.numbers else self.number_of_id(plain, text)
        if not text.startswith(TITLE) and text in self.numbers:
            return self.numbers[text]
        if text.strip().isdecimal():
            raise InputError(f"{self._no_id(text)}; a number is not searched in titles, write '{TITLE}{text}' for that")
        wanted = text.removeprefix(TITLE).strip()
        found = self.search(wanted, whole_words=True)
        if len(found) == 1:
            return found[0]
        also = f"\n  the item with the id {text!r} is named {ID + text!r}" if text in self.numbers else ""
        if found:
            more = f"\n  and {len(found) - SHOWN:,} more; give more words" if len(found) > SHOWN else ""
            listed = "".join(f"\n  {self.described(number)}" for number in found[:SHOWN])
            raise InputError(f"{wanted!r} is in the titles of {len(found):,} items; give the id of one of them:{listed}{more}{also}")
        raise InputError(f"{self._unknown(wanted)}{also}")

    def number_of_id(self, item: str, owner: str) -> int:
        """Return the number of the item with this id. Raises InputError if there is none; `owner` says where the id stands."""
        if item not in self.numbers:
            raise InputError(f"{owner}: {self._no_id(item)}")
        return self.numbers[item]

    def search(self, text: str, whole_words: bool = False) -> list[int]:
        """Return the numbers of the items with this title, or else with all words of the text in their title, in any case of letters.

        A word may be a part of one in the title, unless `whole_words` is set. Items with the most training interactions come first.
        """
        wanted = _plain(text)
        if not wanted:
            return []
        exact = [place for place, title in enumerate(self._plain_titles) if title == wanted]
        words = wanted.split()
        found = exact or [place for place, title in enumerate(self._plain_titles) if all(word in title for word in words)]
        if whole_words and not exact:
            whole = [re.compile(rf"(?:(?<!\w)|(?!\w)){re.escape(word)}(?:(?!\w)|(?<!\w))") for word in words]  # (1942) begins anywhere
            found = [place for place in found if all(word.search(self._plain_titles[place]) for word in whole)]
        return [place + 1 for place in self._most_popular(found)]

    def nearest(self, text: str, count: int = SHOWN) -> list[int]:
        """Return the numbers of up to `count` items with similar words in their title, the most similar ones first.

        A word that no title has stands for the most similar word of the titles.
        """
        known = self._words
        words = {word if word in known else next(iter(difflib.get_close_matches(word, known, 1, 0.7)), "") for word in _words(text)}
        words.discard("")
        if not words:
            return []
        common = np.array([len(words.intersection(_words(title))) for title in self._plain_titles])
        best = np.flatnonzero(common == common.max()) if common.any() else np.array([], dtype=np.int64)
        return [place + 1 for place in self._most_popular(best.tolist())[:count]]

    def described(self, number: int) -> str:
        """Return an item's id and title in one line, for messages."""
        return f"{self.ids[number - 1]}  {shortened(self.titles[number - 1], SHOWN_TITLE) or NO_TITLE}"

    def is_cold(self, number: int) -> bool:
        """Return whether an item has no training interaction."""
        return not self.num_interactions[number - 1]

    @cached_property
    def _plain_titles(self) -> list[str]:
        return [_plain(title) for title in self.titles]

    @cached_property
    def _words(self) -> set[str]:
        """All words of the titles."""
        return {word for title in self._plain_titles for word in _words(title)}

    def _most_popular(self, places: Sequence[int]) -> list[int]:
        return sorted(places, key=lambda place: (-int(self.num_interactions[place]), place))

    def _unknown(self, text: str) -> str:
        """Return the message about a text that is neither an id nor in a title."""
        is_title = len(text.split()) > 1  # several words are meant as a title, though they may end like an id
        near = (self.search(text) or self.nearest(text))[:SHOWN] if is_title or not self._cause(text) else []
        if not near:
            return self._no_id(text)
        listed = "".join(f"\n  {self.described(number)}" for number in near)
        return f"no item has the id {text!r}, and no title has these words; the nearest titles are:{listed}"

    def _cause(self, item: str) -> str | None:
        """Return the likely cause of an unknown id, such as missing leading zeros, or None."""
        return likely_cause(Ids("your items", [item]), Ids("the data", self.ids))

    def _no_id(self, item: str) -> str:
        cause = self._cause(item)
        near = difflib.get_close_matches(item, self.ids[:MAX_COMPARED], 1)
        hint = cause or (f"the nearest id is {near[0]!r}" if near else "search a title with 'genrec recommend NAME --search TEXT'")
        items = f"the {counted(len(self), 'item')} of the catalog"
        left_out = "items without events and items that a filter removed are not in it"
        return f"no item has the id {item!r} among {items}; {left_out}; {hint}"


def shortened(text: str, length: int) -> str:
    """Return a text in one line without characters that a terminal would act on, cut to a length; 0 keeps all of it."""
    plain = printable(text)
    return plain if not length or len(plain) <= length else f"{plain[: max(0, length - 3)]}..."


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> Iterator[str]:
    """Iterate over the words of a text, without punctuation."""
    yield from re.findall(r"\w+", text.casefold())
