"""Read the product out of the name of a file, for recordings that name none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from data.names import PRODUCT_ID
from data.recordings.dialects.symbols import ALIASES, BASES, QUOTES, product_of

DEFAULT_PRODUCT: Final = "BTC-USD"
"""Product of a recording that names none, where nobody tells another."""

_BITFINEX: Final = r"t([A-Z0-9]{6,12})"
"""Symbols of Bitfinex, as tBTCUSD."""
_DUMP_NAMES: Final = (
    re.compile(r"([A-Z0-9]{5,20})-(?:trades|aggTrades|\d{1,2}(?:s|m|h|d|w|mo))-\d{4}-\d\d(?:-\d\d)?"),  # Binance
    re.compile(r"([A-Z0-9]{5,12})(?:_\d{1,5})?"),  # Kraken
    re.compile(r"([A-Z0-9]{5,20})[_-]\d{4}-\d\d(?:-\d\d)?"),  # Bybit
    re.compile(r"([A-Z0-9]{2,10}_[A-Z0-9]{2,10})-\d{6,8}"),  # Gate
    re.compile(r"([A-Z0-9]{2,10}-(?:USD|EUR|GBP))"),  # Yahoo
    re.compile(r"([A-Z0-9]{2,10}_[A-Z0-9]{2,10})-(?:trades|\d{1,2}[mhdwM])"),  # freqtrade
    re.compile(rf"{_BITFINEX}(?:[_-].*)?"),
)

_BITCOINCHARTS: Final = re.compile(
    r"(?:bitstamp|kraken|coinbase|btce|bitfinex|mtgox|btcn|itbit|cex|localbtc|bitflyer|zaif|okcoin|hitbtc|korbit|"
    r"coincheck|gemini|bitbay|btcc|bitkonan|rock)([A-Z]{3})"
)
"""Name of a dump of bitcoincharts: an exchange, and the quote currency of bitcoin."""


_WORDS: Final = re.compile(r"[^\W_]+")
_DOLLARS: Final = ("USD", "USDT", "USDC", "BUSD", "FDUSD", "TUSD")
"""Quote currencies at which no word of a language ends."""
_ASSETS: Final = ("BTC", "XBT", "ETH", "LTC", "BCH", "XRP", "XLM", "XMR", "ZEC", "ETC", "DOGE", "ADA", "BNB", "AVAX")
"""Base assets that are no words: alone in a name, they name a product whose quote currency is unknown."""
_FEWEST = 2
"""Letters of a base asset in a name; the letter S before ETH is a first name."""


def product_in_name(path: Path, told: str = DEFAULT_PRODUCT) -> str | None:
    """Return the product that the name of a file tells; None if the name tells none.

    Args:
        told: product of recordings without product names; another one than the default holds for an unclear name.

    Raises:
        ValueError: the name tells something like a product, but not clearly.

    >>> product_in_name(Path("BTCUSDT-trades-2025-01-01.csv.gz")), product_in_name(Path("trades.csv"))
    ('BTC-USDT', None)
    >>> product_in_name(Path("trades-btc-eur.json")), product_in_name(Path("FOOUSDT-agg.json"), "SOL-EUR")
    ('BTC-EUR', None)
    """
    stem = path.name.split(".")[0]
    if (chart := _BITCOINCHARTS.fullmatch(stem)) is not None and chart[1] in QUOTES:
        return f"BTC-{chart[1]}"
    for form in _DUMP_NAMES:
        if (found := form.fullmatch(stem)) is not None and PRODUCT_ID.fullmatch(name := product_of(found[1], told)):
            return name
    words = _WORDS.findall(path.name)
    if len(known := list(dict.fromkeys(_known_products(words)))) == 1:
        return known[0]
    unclear = known or list(dict.fromkeys(_unclear_products(words, told)))
    if not unclear or told != DEFAULT_PRODUCT:
        return None
    raise ValueError(
        f"has no product in its rows, and its name tells {' or '.join(unclear)}, which is not clear: set PRODUCT_ID "
        "(--product) to the product, or name the file like BTC-USD.csv"
    )


def _known_products(words: list[str]) -> Iterator[str]:
    """Yield the products of known base assets and quote currencies, in one word or in two that stand together."""
    for symbol in [*words, *map("-".join, pairwise(words))]:
        base, _, quote = product_of(symbol).partition("-")
        is_pair = quote in QUOTES and base in BASES and len(base) >= _FEWEST
        if is_pair and (base, quote) != ("BTC", "ETH"):  # two base assets: the market is ETH-BTC
            yield f"{base}-{quote}"


def _unclear_products(words: list[str], told: str) -> Iterator[str]:
    """Yield what may be products: an unknown base asset before a dollar, and a base asset alone.

    Before USD, and in two words, a base asset has capitals: `trades_usd` names none.
    """
    for symbol in [*words, *map("-".join, pairwise(words))]:
        base, _, quote = product_of(symbol).partition("-")
        is_symbol = symbol.isupper() or (symbol in words and quote != "USD")
        if is_symbol and quote in _DOLLARS and len(base) >= _FEWEST and not base.isdigit():
            yield f"{base}-{quote}"
        if symbol.isupper() and not quote and symbol.endswith("USD") and len(symbol) >= len("FOOUSD"):
            yield f"{symbol.removesuffix('USD')}-USD"  # or a base asset and TUSD
    for word in words:
        if bitfinex := re.fullmatch(_BITFINEX, word):
            yield bitfinex[1]
        asset = word.upper()
        if asset in _ASSETS and ALIASES.get(asset, asset) != told.partition("-")[0]:
            yield f"{asset} with an unknown quote currency"
