"""The strategies everybody has: `first`, `cheapest` and `available`. Imports public names only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from skyward import Offer, Requirements, Strategy, hookimpl


class First(Strategy):
    """Providers in the order they were named; of each, the cheapest machine first."""

    name = "first"

    def rank(self, offers: Sequence[Offer], requirements: Requirements) -> Sequence[Offer]:
        place, price = _place(requirements), _price(offers, requirements)
        return sorted(offers, key=lambda offer: (place(offer), *price(offer)))


class Cheapest(Strategy):
    """The lowest price of all nodes together, whoever sells them; unknown prices are refused."""

    name = "cheapest"
    needs_price = True

    def rank(self, offers: Sequence[Offer], requirements: Requirements) -> Sequence[Offer]:
        return sorted(offers, key=_price(offers, requirements))


class Available(Strategy):
    """What was seen available first, then the order in which providers were named, then the price."""

    name = "available"

    def rank(self, offers: Sequence[Offer], requirements: Requirements) -> Sequence[Offer]:
        place, price = _place(requirements), _price(offers, requirements)
        return sorted(
            offers, key=lambda offer: (offer.availability != "available", place(offer), *price(offer))
        )


@hookimpl
def skyward_strategies() -> Iterable[type[Strategy]]:
    return (First, Cheapest, Available)


def _place(requirements: Requirements) -> Callable[[Offer], int]:
    """The provider's position in the list the user gave; without a list all are equal."""
    places = {name: number for number, name in enumerate(requirements.providers)}
    return lambda offer: places.get(offer.provider, len(places))


Price = tuple[bool, bool, float, bool]


def _price(offers: Sequence[Offer], requirements: Requirements) -> Callable[[Offer], Price]:
    """Keys that sort by the price of all nodes; unknown prices last, and at one price what cannot be taken away first.

    Under a share of spot, a spot offer is priced with its on-demand counterpart, and on-demand offers come last:
    they are what is left when there is no spot to be had.
    """
    share = requirements.allocation if isinstance(requirements.allocation, float) else None
    on_demand = _cheapest_on_demand(offers) if share is not None else {}

    def key(offer: Offer) -> Price:
        nodes = requirements.nodes_of(offer)
        price, spot = offer.price or 0.0, offer.pricing in ("spot", "interruptible")
        total = price * nodes
        if share is not None and spot:
            some = int(share * nodes + 0.5)
            total = price * some + on_demand.get(_machine(offer), price) * (nodes - some)
        return (share is not None and not spot, offer.price is None, total, spot)

    return key


def _cheapest_on_demand(offers: Sequence[Offer]) -> dict[tuple[str, str, str], float]:
    found: dict[tuple[str, str, str], float] = {}
    for offer in offers:
        if offer.pricing == "on-demand" and offer.usd_per_hour:
            key = _machine(offer)
            found[key] = min(offer.usd_per_hour, found.get(key, offer.usd_per_hour))
    return found


def _machine(offer: Offer) -> tuple[str, str, str]:
    return (offer.provider, offer.region, offer.instance_type)
