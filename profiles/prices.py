"""Every offer by name: those of the catalog's price lists, and those that a user adds or replaces."""

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from profiles.files import read_table, validated
from profiles.lookup import DATA, UnknownName, files, key
from profiles.offer import Offer, PriceList

_NUM_NEIGHBOURS = 5


@cache
def catalogued() -> Mapping[str, Offer]:
    """Name -> offer, of every price list of the catalog; raises BadFile for a faulty list."""
    found: dict[str, Offer] = {}
    for _, path in sorted(files(DATA / "prices").items()):
        found |= {offer.name: offer for offer in validated(PriceList, read_table(path), path).offers}
    return found


def read_offers(path: Path) -> tuple[Offer, ...]:
    """The offers of a user's price list: a .toml with [[offers]]; raises BadFile naming offer, field and value."""
    return parse_offers(read_table(path), path)


def parse_offers(values: Mapping[str, Any], where: Path | str) -> tuple[Offer, ...]:
    """As `read_offers`, from a table already read; what a user leaves out is said to be the user's own."""
    own = {"name": "own", "provider": "own", "source": f"stated in {where}"}
    return validated(PriceList, own | dict(values), where).offers


def offers(own: Sequence[Offer] = ()) -> dict[str, Offer]:
    """Name -> offer: the catalog's, with a user's `own` added; of one name the user's counts."""
    return {**catalogued(), **{offer.name: offer for offer in own}}


def offer(name: str, own: Sequence[Offer] = ()) -> Offer:
    """The offer called `name`; raises UnknownName with the closest ones."""
    known = offers(own)
    by_key = {key(one): one for one in known}
    if key(name) in by_key:
        return known[by_key[key(name)]]
    words = set(key(name).split("-"))
    close = difflib.get_close_matches(key(name), by_key, n=_NUM_NEIGHBOURS, cutoff=0.5)
    holding = [one for one in by_key if words <= set(one.split("-"))]
    neighbours = ", ".join([by_key[one] for one in dict.fromkeys([*holding, *close])][:_NUM_NEIGHBOURS])
    hint = f"close names: {neighbours}" if neighbours else "`meshwise profiles list offers` shows all"
    raise UnknownName(f"no offer is called {name!r}; {hint}")
