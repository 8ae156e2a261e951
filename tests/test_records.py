"""Records from and to plain values: typed, and exact about what is wrong."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from ner_service.errors import ConfigError
from ner_service.records import structure, unstructure


@dataclass(frozen=True, kw_only=True)
class Cat:
    kind: Literal["cat"] = "cat"
    lives: int = 9


@dataclass(frozen=True, kw_only=True)
class Fish:
    kind: Literal["fish"] = "fish"
    depth_m: float


@dataclass(frozen=True, kw_only=True)
class Home:
    owner: str
    pets: tuple[Cat | Fish, ...] = ()
    rooms: Mapping[str, float] = field(default_factory=dict)
    colours: frozenset[str] = frozenset()
    size: Literal["small", "large"] = "small"
    garden: bool = False
    floor: int | None = None
    favourite: Cat | None = None
    rent: float | Literal["free"] = 0.0
    notes: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.floor is not None and self.floor < 0:
            raise ValueError(f"floor is {self.floor}, expected 0 or more")


FULL = Home(
    owner="Ann",
    pets=(Cat(lives=7), Fish(depth_m=2.5)),
    rooms={"kitchen": 12.5, "厅": 20.0},
    colours=frozenset({"red", "blue"}),
    size="large",
    garden=True,
    floor=3,
    favourite=Cat(),
    rent="free",
    notes={"any": [1, {"thing": None}]},
)


def test_a_record_goes_through_json_and_back() -> None:
    assert structure(Home, json.loads(json.dumps(unstructure(FULL)))) == FULL


def test_plain_values_are_what_a_person_would_write() -> None:
    assert unstructure(Home(owner="Ann", pets=(Fish(depth_m=1.0),), colours=frozenset("ba"))) == {
        "owner": "Ann",
        "pets": [{"kind": "fish", "depth_m": 1.0}],
        "rooms": {},
        "colours": ["a", "b"],
        "size": "small",
        "garden": False,
        "rent": 0.0,
        "notes": {},
    }


def test_a_record_is_read_from_toml() -> None:
    text = 'owner = "Ann"\nrent = 5\nfloor = 2\n[favourite]\nlives = 1\n[[pets]]\nkind = "fish"\ndepth_m = 3\n'
    expected = Home(owner="Ann", rent=5.0, floor=2, favourite=Cat(lives=1), pets=(Fish(depth_m=3.0),))
    found = structure(Home, tomllib.loads(text))
    assert found == expected
    assert isinstance(found.pets[0], Fish)
    assert isinstance(found.pets[0].depth_m, float)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "owner: missing"),
        ([], "value: found [], expected a table"),
        ({"owner": 3}, "owner: found 3, expected a string"),
        ({"owner": "A", "ownr": "B"}, "ownr: unknown key; did you mean 'owner'?"),
        ({"owner": "A", "xyzzy": 1}, "xyzzy: unknown key; known keys: owner, pets"),
        ({"owner": "A", "floor": 1.0}, "floor: found 1.0, expected a whole number"),
        ({"owner": "A", "floor": True}, "floor: found True, expected a whole number"),
        ({"owner": "A", "floor": -1}, "Home: floor is -1, expected 0 or more"),
        ({"owner": "A", "garden": 1}, "garden: found 1, expected true or false"),
        ({"owner": "A", "size": "huge"}, "size: found 'huge', expected 'small' or 'large'"),
        ({"owner": "A", "rooms": {"hall": "big"}}, "rooms.hall: found 'big', expected a number"),
        ({"owner": "A", "rooms": {"hall": True}}, "rooms.hall: found True, expected a number"),
        ({"owner": "A", "rooms": []}, "rooms: found [], expected a table"),
        ({"owner": "A", "colours": "red"}, "colours: found 'red', expected a list"),
        ({"owner": "A", "pets": {"kind": "cat"}}, "pets: found {'kind': 'cat'}, expected a list"),
        ({"owner": "A", "pets": [{"kind": "dog"}]}, "pets[0].kind: found 'dog', expected 'cat' or 'fish'"),
        ({"owner": "A", "pets": [{}]}, "pets[0].kind: found None, expected 'cat' or 'fish'"),
        ({"owner": "A", "pets": [{"kind": "cat"}, {"kind": "fish"}]}, "pets[1].depth_m: missing"),
        ({"owner": "A", "pets": ["cat"]}, "pets[0]: found 'cat', expected a table"),
        ({"owner": "A", "favourite": {"life": 3}}, "favourite.life: unknown key; did you mean 'lives'?"),
        ({"owner": "A", "rent": "cheap"}, "rent: found 'cheap', expected 'free'"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        structure(Home, value)
    assert str(caught.value).startswith(message)
