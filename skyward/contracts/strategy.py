"""The base class of selection strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from skyward.model.offer import Offer
from skyward.model.requirements import Requirements


class Strategy(ABC):
    """Ranks offers that already fit. Pure: equal inputs give equal orders."""

    name: ClassVar[str]
    needs_price: ClassVar[bool] = False
    """Whether offers of unknown price are refused before ranking."""

    @abstractmethod
    def rank(self, offers: Sequence[Offer], requirements: Requirements) -> Sequence[Offer]:
        """The same offers, best first. Ties keep the order given."""
