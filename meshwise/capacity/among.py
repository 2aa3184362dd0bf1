"""Among which offers: the filters that the questions of training and of serving share, and the offers they leave."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from profiles import catalog, prices
from profiles.lookup import key
from profiles.offer import Offer
from profiles.units import HOUR

_FIELDS = {
    "clusters": "cluster",
    "accelerators": "accelerator",
    "providers": "provider",
    "terms": "terms",
    "regions": "region",
}
"""Filters of offers -> the field of an offer that they look at."""


def _words(value: object) -> object:
    """`a,b` as a list of words; what is no text is left to validation."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class Among(BaseModel):
    """Which offers are looked at; an empty filter leaves all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clusters: Words = ()
    offers: Words = ()
    accelerators: Words = ()
    providers: Words = ()
    terms: Words = ()
    regions: Words = ()
    price: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """Dollars per device hour of `clusters`, in place of offers."""


def chosen_offers(among: Among, own: Sequence[Offer], usual_clusters: Sequence[str] = ()) -> tuple[Offer, ...]:
    """The offers that all stated filters leave, `own` ones beside the catalog's.

    `usual_clusters` are looked at where no clusters are stated. Raises ValueError for a filter that names nothing, or
    where none is left.
    """
    files = [Path(name) for name in among.offers if name.lower().endswith(".toml")]
    listed = [offer for path in files for offer in prices.read_offers(path)]
    own = (*own, *listed)
    known = prices.offers(own)
    clusters = among.clusters or tuple(usual_clusters)
    if among.price is not None:
        if not clusters:
            raise ValueError(f"price: {among.price:g} is of no cluster; name some with --clusters")
        known = {one.name: one for one in (_at_price(cluster, among.price) for cluster in clusters)}
        clusters = ()
    named = [prices.offer(name, own).name for name in among.offers if not name.lower().endswith(".toml")]
    names = [*named, *(offer.name for offer in listed)]
    found = [known[name] for name in names] if names else list(known.values())
    filters = among.model_dump(include=set(_FIELDS)) | {"clusters": clusters}
    for plural, field_name in _FIELDS.items():
        if words := filters[plural]:
            _check_known(plural, words, {getattr(one, field_name) for one in known.values()})
            found = [one for one in found if key(getattr(one, field_name)) in {key(word) for word in words}]
    if not found:
        raise ValueError("offers: none is left by all of the filters together; drop one of them")
    return tuple(found)


def _at_price(cluster: str, dollars_per_device_hour: float) -> Offer:
    accelerator = catalog.cluster(cluster).accelerator.name
    return Offer(
        name=f"own-{key(cluster)}", provider="own", source="stated as price", accelerator=accelerator, cluster=cluster,
        terms="on-demand", dollars_per_device_second=dollars_per_device_hour / HOUR,
    )  # fmt: skip


def _check_known(field_name: str, words: Sequence[str], known: Iterable[str]) -> None:
    names = {key(one): one for one in known if one}
    for word in words:
        if key(word) not in names:
            raise ValueError(f"{field_name}: no offer has {word!r}; there are {', '.join(sorted(names.values()))}")
