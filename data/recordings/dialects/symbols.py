"""Read product names out of venues' symbols and file names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.arrow import NAMES, names_of, text_of, values_of
from data.names import PRODUCT_ID

QUOTES: Final = tuple(
    sorted(
        [
            "FDUSD",
            "USDT",
            "USDC",
            "TUSD",
            "BUSD",
            "USDP",
            "GUSD",
            "PYUSD",
            "RLUSD",
            "USDS",
            "USD",
            "EUR",
            "GBP",
            "AUD",
            "CAD",
            "CHF",
            "JPY",
            "BRL",
            "TRY",
            "KRW",
            "MXN",
            "PLN",
            "DAI",
            "EURC",
            "EURI",
            "EURT",
            "BTC",
            "XBT",
            "ETH",
            "BNB",
        ],
        key=lambda quote: (-len(quote), quote),
    )
)
"""Quote currencies at the end of a symbol without a separator, longest first."""

_BASES: Final = frozenset(
    [
        "BTC",
        "XBT",
        "ETH",
        "LTC",
        "BCH",
        "BSV",
        "XRP",
        "XLM",
        "XMR",
        "ZEC",
        "ETC",
        "EOS",
        "ADA",
        "SOL",
        "DOT",
        "DOGE",
        "XDG",
        "SHIB",
        "MATIC",
        "POL",
        "AVAX",
        "LINK",
        "UNI",
        "ATOM",
        "ALGO",
        "AAVE",
        "COMP",
        "MKR",
        "SNX",
        "YFI",
        "CRV",
        "GRT",
        "FIL",
        "ICP",
        "NEAR",
        "APT",
        "ARB",
        "AR",
        "OP",
        "SUI",
        "SEI",
        "TIA",
        "INJ",
        "RNDR",
        "RENDER",
        "FET",
        "WLD",
        "PEPE",
        "WIF",
        "BONK",
        "FLOKI",
        "JUP",
        "PYTH",
        "TRX",
        "TON",
        "BNB",
        "CAKE",
        "FTM",
        "SAND",
        "MANA",
        "AXS",
        "APE",
        "GMT",
        "GALA",
        "CHZ",
        "ENJ",
        "BAT",
        "ZRX",
        "KNC",
        "LRC",
        "IMX",
        "LDO",
        "RPL",
        "STX",
        "EGLD",
        "HBAR",
        "VET",
        "THETA",
        "FLOW",
        "XTZ",
        "KAVA",
        "KSM",
        "DASH",
        "NEO",
        "QTUM",
        "ONT",
        "IOTA",
        "WAVES",
        "ZIL",
        "ICX",
        "OMG",
        "REP",
        "MLN",
        "GNO",
        "STORJ",
        "OXT",
        "BAND",
        "BAL",
        "SUSHI",
        "CVX",
        "FXS",
        "RUNE",
        "ROSE",
        "MINA",
        "CELO",
        "ANKR",
        "SKL",
        "NU",
        "KEEP",
        "DYDX",
        "ENS",
        "JASMY",
        "BLUR",
        "PAXG",
        "WBTC",
        "STETH",
        "USDT",
        "USDC",
        "DAI",
        "TUSD",
        "BUSD",
        "FDUSD",
        "EUR",
        "GBP",
        "LUNA",
        "UST",
        "FTT",
        "ORDI",
        "STRK",
        "ENA",
        "ETHFI",
        "ONDO",
        "PENDLE",
        "TAO",
        "KAS",
        "S",
        "TRUMP",
        "VIRTUAL",
        "PENGU",
        "XDC",
        "CRO",
        "OKB",
        "LEO",
        "HYPE",
    ]
)
"""Base assets that decide between two splits of a symbol, as in BNBUSD: BNB-USD, not BN-BUSD."""

_ALIASES: Final = {"XBT": "BTC", "XDG": "DOGE"}
_KRAKEN = re.compile(r"[XZ]([A-Z]{3})[XZ]([A-Z]{3})")

SYMBOL_RULE: Final = (
    "must be named like BTC-USD, BTC/USD or BTCUSD; of a symbol without a separator PRODUCT_ID can tell base and quote"
)


@lru_cache(1_000)
def product_of(symbol: str, told: str = "") -> str:
    """Return the product of a symbol; the symbol in capitals, without a hyphen, if base and quote cannot be told.

    Args:
        told: a product whose symbol without a separator is known thereby.

    >>> product_of("btcusd"), product_of("ETH/BTC"), product_of("BTCBUSD"), product_of("XXBTZUSD"), product_of("what")
    ('BTC-USD', 'ETH-BTC', 'BTC-BUSD', 'BTC-USD', 'WHAT')
    >>> product_of("BTCXYZ", "BTC-XYZ")
    'BTC-XYZ'
    """
    name = symbol.strip().upper().replace("/", "-").replace("_", "-")
    if "-" in name:
        return "-".join(_ALIASES.get(part, part) for part in name.split("-"))
    if told and name == told.replace("-", ""):
        return told
    kraken = _KRAKEN.fullmatch(name)
    if kraken is not None and kraken[1] in _BASES and kraken[2] in QUOTES:
        splits = [(kraken[1], kraken[2])]
    else:
        splits = [(name.removesuffix(quote), quote) for quote in QUOTES if name.endswith(quote) and name != quote]
    known = [split for split in splits if split[0] in _BASES]
    if not splits or len(known) > 1:
        return name
    base, quote = known[0] if known else splits[0]
    return f"{_ALIASES.get(base, base)}-{_ALIASES.get(quote, quote)}"


def products_of(column: pa.Array, told: str) -> pa.Array:
    """Return a column of symbols as a column of products, see `product_of`."""
    if column.type != NAMES or column.null_count:
        texts = pc.fill_null(column.cast(pa.string()), text_of(""))
        column = texts.dictionary_encode()
    names = [product_of(text.decode(errors="backslashreplace"), told) for text in _distinct(column)]
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}  # two symbols can name one product
    code = np.array([place[name] for name in names], np.int32)[values_of(column.indices, np.int32)]
    return names_of(code, list(place))


def _distinct(column: pa.DictionaryArray) -> Sequence[bytes]:
    found: list[bytes] = column.dictionary.cast(pa.binary()).to_pylist()
    return found


_DUMP_NAMES: Final = (
    re.compile(r"([A-Z0-9]{5,20})-(?:trades|aggTrades|\d{1,2}(?:s|m|h|d|w|mo))-\d{4}-\d\d(?:-\d\d)?"),  # Binance
    re.compile(r"([A-Z0-9]{5,12})(?:_\d{1,5})?"),  # Kraken
    re.compile(r"([A-Z0-9]{5,20})[_-]\d{4}-\d\d(?:-\d\d)?"),  # Bybit
    re.compile(r"([A-Z0-9]{2,10}_[A-Z0-9]{2,10})-\d{6,8}"),  # Gate
    re.compile(r"([A-Z0-9]{2,10}-(?:USD|EUR|GBP))"),  # Yahoo
    re.compile(r"([A-Z0-9]{2,10}_[A-Z0-9]{2,10})-(?:trades|\d{1,2}[mhdwM])"),  # freqtrade
)

_BITCOINCHARTS: Final = re.compile(
    r"(?:bitstamp|kraken|coinbase|btce|bitfinex|mtgox|btcn|itbit|cex|localbtc|bitflyer|zaif|okcoin|hitbtc|korbit|"
    r"coincheck|gemini|bitbay|btcc|bitkonan|rock)([A-Z]{3})"
)
"""Name of a dump of bitcoincharts: an exchange, and the quote currency of bitcoin."""


def product_in_name(path: Path, told: str = "") -> str | None:
    """Return the product that a venue's dump names in its file name; None if the name is not of that form.

    >>> product_in_name(Path("BTCUSDT-trades-2025-01-01.csv.gz")), product_in_name(Path("trades.csv"))
    ('BTC-USDT', None)
    """
    stem = path.name.split(".")[0]
    if (chart := _BITCOINCHARTS.fullmatch(stem)) is not None and chart[1] in QUOTES:
        return f"BTC-{chart[1]}"
    for form in _DUMP_NAMES:
        if (found := form.fullmatch(stem)) is not None and PRODUCT_ID.fullmatch(name := product_of(found[1], told)):
            return name
    return None
