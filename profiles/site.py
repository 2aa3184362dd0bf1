"""Where devices stand: what a joule costs and emits there, and how many a site takes for each of its computers'."""

from dataclasses import dataclass
from functools import cache

from profiles import lookup
from profiles.costs import SiteFigures, load
from profiles.lookup import DATA, key

_WORLD, _INDUSTRY = "World", "industry"


@dataclass(frozen=True, slots=True)
class Site:
    """A place as a bill sees it. Fields broadcast."""

    pue: float
    """Joules of the site for each joule of the computers."""
    dollars_per_joule: float
    carbon_kilograms_per_joule: float
    assumed: tuple[str, ...] = ()
    """Figures of a larger whole, taken for want of the place's own, in words."""
    sources: tuple[str, ...] = ()


@cache
def _figures() -> dict[str, SiteFigures]:
    names = sorted(lookup.files(DATA / "costs"))
    found = {name: load(name) for name in names}
    return {name: one for name, one in found.items() if isinstance(one, SiteFigures)}


def is_known(country: str) -> bool:
    """Whether the catalog has the price or the carbon intensity of a country's electricity."""
    tables = [one.carbon_kilograms_per_joule for one in _figures().values() if not one.provider]
    tables += [one.electricity_dollars_per_joule for one in _figures().values()]
    return key(country) in {key(name) for table in tables for name in table}


def site(
    provider: str = "", region: str = "", country: str = "", *, pue: float | None = None,
    dollars_per_joule: float | None = None, carbon_kilograms_per_joule: float | None = None,
) -> Site:  # fmt: skip
    """The place of a provider's region or in a country; numbers given win over those of the catalog.

    What is known of a region comes first, then its country, then the world (of PUE: the provider, then the industry).
    """
    known = _figures()
    regions = next((one for one in known.values() if one.provider and key(one.provider) == key(provider)), None)
    if regions is not None and not country:
        country = regions.countries.get(region, "")
    assumed: list[str] = []
    used: list[SiteFigures] = []

    def pick(what: str, field: str, candidates: list[tuple[SiteFigures | None, str]], rest: str) -> float:
        for figures, name in candidates:
            table = getattr(figures, field, {})
            hit = next((one for one in table if key(one) == key(name)), None) if name else None
            if figures is not None and hit is not None:
                used.append(figures)
                if hit == rest:
                    assumed.append(f"{what} of {'the ' + rest.lower()}")
                return float(table[hit])
        raise AssertionError(f"the catalog has no {what} of {rest}")

    if pue is None:
        pue = pick("PUE", "pue", [(known["pue"], provider), (known["pue"], _INDUSTRY)], _INDUSTRY)
    if dollars_per_joule is None:
        prices = known["electricity"]
        dollars_per_joule = pick(
            "electricity price", "electricity_dollars_per_joule", [(prices, country), (prices, _WORLD)], _WORLD
        )
    if carbon_kilograms_per_joule is None:
        grids = known["carbon-countries"]
        carbon_kilograms_per_joule = pick(
            "carbon intensity", "carbon_kilograms_per_joule", [(regions, region), (grids, country), (grids, _WORLD)],
            _WORLD,
        )  # fmt: skip
    sources = tuple(dict.fromkeys(f"{one.source} ({one.as_of})" for one in used))
    return Site(pue, dollars_per_joule, carbon_kilograms_per_joule, tuple(assumed), sources)
