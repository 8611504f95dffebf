"""How an iteration's queries are shared out: to the search, to responses in any case, to rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .errors import ConfigurationError

MOST_PROBE_QUERIES = 600  # the paper's
PROBE_SHARE = 1 / 8  # of an iteration's queries, at every temperature of a grid
MOST_IN_SLICES = 1 / 4  # of an iteration's queries, in all slices together; where rounds could save on them:
SLICES_SHARE = 1 / 16  # so many,
FEWEST_IN_SLICE = 3  # but that many in each slice
FEWEST_EVEN = 24  # queries get K responses at the winner in any case: a threshold chosen on fewer loses (docs/luck.md)

Search = Literal["slices", "grid"]


@dataclass(frozen=True)
class Shares:
    """Numbers of queries of an iteration.

    Args:
        search (`str`): `"slices"` or `"grid"`.
        num_queries (`int`): queries that the temperature is chosen on.
    """

    search: Search
    num_queries: int

    def num_even(self, at_winner: int) -> int:
        """How many of the other queries get K responses at the winner, whatever comes of them.

        Args:
            at_winner (`int`): queries that have them from the search.
        """
        return max(self.num_queries, FEWEST_EVEN - at_winner)

    @classmethod
    def of(
        cls,
        most: int,
        num_temperatures: int,
        *,
        search: Search | None,
        num_queries: int | None,
        may_slice: bool,
        in_rounds: bool,
    ) -> Shares:
        """The shares of `most` queries.

        Args:
            most (`int`): N, queries of an iteration.
            num_temperatures (`int`): candidates; with a single one nothing is searched.
            search (`str`, *optional*): what the user asks for. `None`: slices where `may_slice` and they are a choice
                that leaves three quarters of the queries to the winner, else a grid.
            num_queries (`int`, *optional*): what the user asks for. `None`: see the constants above.
            may_slice (`bool`): whether slices are a choice.
            in_rounds (`bool`): whether a query outside the slices may get fewer responses.

        Raises:
            ConfigurationError: the search wants more queries than there are, or slices fewer than temperatures.
        """
        fit = may_slice and (num_queries or most * MOST_IN_SLICES) >= num_temperatures
        search = search or ("slices" if fit else "grid")
        if search == "slices":
            usual = max(most * MOST_IN_SLICES, num_temperatures)
            if in_rounds:
                usual = min(usual, max(most * SLICES_SHARE, num_temperatures * FEWEST_IN_SLICE))
        else:
            usual = most * PROBE_SHARE
        queries = num_queries or min(MOST_PROBE_QUERIES, max(1, math.floor(usual)))
        if queries > most and num_queries:
            raise ConfigurationError(
                f"num_queries of the search must be in 1..{most} (queries_per_iteration), got {queries}"
            )
        if min(queries, most) < num_temperatures > 1 and search == "slices":
            raise ConfigurationError(
                f"search='slices' needs a query for each of {num_temperatures} temperatures, got "
                f"num_queries={min(queries, most)}: give it more queries or fewer temperatures, or use search='grid'"
            )
        return cls(search, queries)
