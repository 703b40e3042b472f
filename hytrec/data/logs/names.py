"""Names of columns that logs commonly have, and which column plays which role."""

from __future__ import annotations

from dataclasses import dataclass

from hytrec.data.logs.options import LogOptions
from hytrec.errors import DataError

__all__ = ["ROLES", "Roles", "chosen_columns", "is_well_known", "well_known"]

ROLES = ("user", "item", "time", "behavior")
_WELL_KNOWN: dict[str, tuple[str, ...]] = {
    "user": (
        *("userid", "user", "visitorid", "visitor", "customerid", "customer", "reviewerid", "memberid", "accountid"),
        *("profileid", "listenerid", "uid", "sessionid", "session"),
    ),
    "item": (
        *("itemid", "item", "movieid", "parentasin", "asin", "productid", "product", "sku", "articleid", "trackid"),
        *("songid", "artistid", "bookid", "isbn", "businessid", "gmapid", "videoid", "newsid", "adid", "poiid"),
        *("venueid", "gameid", "appid", "contentid", "iid"),
    ),
    "time": (
        *(
            "timestamp",
            "time",
            "ts",
            "unixreviewtime",
            "eventtime",
            "eventtimestamp",
            "datetime",
            "timems",
            "timestampms",
        ),
        *("createdat", "unixtime", "date", "eventdate"),
    ),
    "behavior": (
        "behavior",
        "behaviour",
        "event",
        "eventtype",
        "behaviortype",
        "behaviourtype",
        "action",
        "actiontype",
    ),
}
"""Lower case, without "_", "-", "." and blanks; the first that is there is taken."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Positions of the columns that are read, and how they were found.

    Args:
        positions: by role, from 0; no "behavior" where the log has none.
        recognised: roles whose column was recognised by its name.
        notes: sentences about choices the user may want otherwise.
    """

    positions: dict[str, int]
    recognised: frozenset[str]
    notes: tuple[str, ...]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "_-. ")


def is_well_known(name: str) -> bool:
    """Whether a column of this name would be recognised."""
    return any(_plain(name) in names for names in _WELL_KNOWN.values())


def chosen_columns(path: str, names: list[str] | None, width: int, options: LogOptions, *, found: str) -> Roles:
    """Which column is the user, the item, the time and the behavior.

    Args:
        path: of the file, for messages.
        names: of its columns; None where it has no header.
        width: number of columns.
        found: what was found in the file, for messages.

    Raises:
        DataError: a column is missing, named twice, stands for two roles, or none is recognised.
    """
    positions: dict[str, int] = {}
    notes: list[str] = []
    for role in ROLES:
        given = options.named(role)
        if given is not None:
            positions[role] = _position(path, names, width, given, role=role, found=found)
    if names is None and (missing := [role for role in ROLES[:3] if role not in positions]):
        raise DataError(
            f"{path} has no header to know the {missing[0]} column by ({found}); say which columns are user, item and "
            "time, as --columns 1,2,3, or give --header"
        )
    recognised = [role for role in ROLES if role not in positions]
    for role in recognised:
        fitting = _fitting(names or [], role, taken=set(positions.values()))
        if fitting:
            positions[role] = fitting[0]
            notes += _note(role, [(names or [])[place] for place in fitting])
        elif role != "behavior":
            raise DataError(
                f"{path}: no column is known to be the {role} ({found}); name it with --{role}-column, or all with "
                "--columns"
            )
    _check_different(path, names, positions)
    return Roles(
        positions=positions,
        recognised=frozenset(role for role in recognised if role in positions),
        notes=tuple(notes),
    )


def _position(path: str, names: list[str] | None, width: int, given: str, *, role: str, found: str) -> int:
    if names is not None and given in names:
        if names.count(given) > 1:
            raise DataError(
                f"{path} has {names.count(given)} columns {given!r}; name one by its number, as --{role}-column "
                f"{names.index(given) + 1}"
            )
        return names.index(given)
    if given.isdigit() and 1 <= int(given) <= width:
        return int(given) - 1
    if names is None:
        raise DataError(
            f"{path} has no header, so no column {given!r} ({found}); give numbers from 1 to {width}, as "
            "--columns 1,2,3, or --header"
        )
    raise DataError(
        f"{path} has no column {given!r}; it has {', '.join(names) or 'none'}; name the column to use with "
        f"--{role}-column, or all with --columns"
    )


def well_known(role: str, names: list[str]) -> list[str]:
    """Those of the names that stand for a role, the best known first."""
    return [names[place] for place in _fitting(names, role, taken=set())]


def _fitting(names: list[str], role: str, *, taken: set[int]) -> list[int]:
    plain = [_plain(name) for name in names]
    places = [place for known in _WELL_KNOWN[role] for place, name in enumerate(plain) if name == known]
    return [place for place in places if place not in taken]


def _note(role: str, names: list[str]) -> list[str]:
    if len(names) < 2:
        return []
    return [f"{names[0]} is taken for the {role}; {', '.join(names[1:])} would fit too (--{role}-column)"]


def _check_different(path: str, names: list[str] | None, positions: dict[str, int]) -> None:
    roles: dict[int, str] = {}
    for role, place in positions.items():
        if place in roles:
            name = repr(names[place]) if names else f"number {place + 1}"
            raise DataError(
                f"{path}: column {name} is given for the {roles[place]} and for the {role}; each needs its own, name "
                f"another with --{role}-column"
            )
        roles[place] = role
