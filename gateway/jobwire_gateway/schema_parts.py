"""What JSON Schemas are put together from."""

from collections.abc import Mapping


def whole_below(bound: int) -> str:
    """A pattern of the whole numbers from 0 to the one before `bound`, without leading zeros."""
    return f"(0|{_from_one_below(bound)})"


def at_least_zero(seconds: int) -> str:
    """A pattern of lengths of time from 0 to `seconds`, which is not matched itself."""
    return rf"^{whole_below(seconds)}(\.[0-9]{{1,9}})?s$"


def at_least_1ms(seconds: int) -> str:
    """The same from 1 ms on."""
    return rf"^(0\.0{{0,2}}[1-9][0-9]{{0,6}}|{_from_one_below(seconds)}(\.[0-9]{{1,9}})?)s$"


def at_least_100ms(seconds: int) -> str:
    """The same from 100 ms on."""
    return rf"^(0\.[1-9][0-9]{{0,8}}|{_from_one_below(seconds)}(\.[0-9]{{1,9}})?)s$"


def at_least_1s(seconds: int) -> str:
    """The same from 1 s on."""
    return rf"^{_from_one_below(seconds)}(\.[0-9]{{1,9}})?s$"


def _from_one_below(bound: int) -> str:
    """1 to bound - 1: shorter ones, and of the same length those that are smaller at some digit and equal before it."""
    digits = str(bound)
    ways = [f"[1-9][0-9]{{0,{len(digits) - 2}}}"] if len(digits) > 1 else []
    for place, digit in enumerate(digits):
        low = 1 if place == 0 else 0
        if int(digit) > low:
            rest = len(digits) - place - 1
            ways.append(f"{digits[:place]}[{low}-{int(digit) - 1}]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return f"({'|'.join(ways)})"


def ref(name: str) -> dict[str, str]:
    """A pointer to the schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def closed(properties: Mapping[str, object], *, required: tuple[str, ...] = (), **more: object) -> dict[str, object]:
    """An object with these members and no others: what a request may hold."""
    return {**given(properties, required=required), "additionalProperties": False, **more}


def given(properties: Mapping[str, object], *, required: tuple[str, ...] = ()) -> dict[str, object]:
    """An object with these members: what an answer holds. Later versions may add some."""
    schema: dict[str, object] = {"type": "object", "properties": dict(properties)}
    return {**schema, "required": list(required)} if required else schema


def text(description: str, **more: object) -> dict[str, object]:
    """A string."""
    return {"type": "string", "description": description, **more}


def whole(description: str, **more: object) -> dict[str, object]:
    """A whole number."""
    return {"type": "integer", "description": description, **more}


def number(description: str, **more: object) -> dict[str, object]:
    """A number."""
    return {"type": "number", "description": description, **more}


def length(description: str, pattern: str) -> dict[str, object]:
    """A length of time."""
    return text(description, pattern=pattern, examples=["1.5s"])


def date(description: str) -> dict[str, object]:
    """A date of RFC 3339."""
    return text(description, format="date-time")


def listing(name: str, item: object, **more: object) -> dict[str, object]:
    """One page of a list."""
    token = text("For the next page, as `pageToken`. Not there on the last.")
    return given({name: {"type": "array", "items": item}, "nextPageToken": token, **more}, required=(name,))
