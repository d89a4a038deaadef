"""Read product names out of venues' symbols."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.arrow import NAMES, names_of, text_of, values_of

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

BASES: Final = frozenset(
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
        "QNT",
        "LPT",
        "PNUT",
        "MOG",
        "MNT",
        "HNT",
        "ANT",
        "GOAT",
        "POPCAT",
        "MOODENG",
        "ACT",
        "BNT",
        "KARRAT",
        "CFG",
        "DRIFT",
        "GST",
        "LIT",
        "HFT",
        "ALT",
        "NOT",
        "BIT",
        "FWOG",
        "STG",
        "USDG",
    ]
)
"""Base assets that decide between two splits of a symbol, as in BNBUSD: BNB-USD, not BN-BUSD."""

_QUOTES_FIRST: Final = ("KRW", "USD", "EUR", "GBP", "JPY", "TRY", "BRL", "USDT")
"""Quote currencies that Upbit and others write before the base asset, as in KRW-BTC."""
_MONEY: Final = (*_QUOTES_FIRST, "USDC", "DAI", "TUSD", "BUSD", "FDUSD", "UST")
"""Assets that have markets in other currencies, as EUR-USDT: such a name is not turned."""

ALIASES: Final = {"XBT": "BTC", "XDG": "DOGE"}
_KRAKEN = re.compile(r"[XZ]([A-Z]{3})[XZ]([A-Z]{3})")
_KRAKEN_MONEY = re.compile(r"([A-Z0-9]{2,8})Z(USD|EUR|GBP|CAD|JPY|AUD|CHF)")
_BITFINEX = re.compile(r"t[A-Z0-9]{6,}")
_ONE_LETTER_MORE: Final = ("TUSD", "GUSD", "BUSD")
"""Quote currencies whose first letter may be the last one of the base asset, as in QNTUSD."""

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
    >>> product_of("BTCXYZ", "BTC-XYZ"), product_of("tBTCUSD"), product_of("USDTZUSD"), product_of("FOOTUSD")
    ('BTC-XYZ', 'BTC-USD', 'USDT-USD', 'FOOTUSD')
    """
    symbol = symbol.strip()
    name = (symbol[1:] if _BITFINEX.fullmatch(symbol) else symbol).upper().replace("/", "-").replace("_", "-")
    if "-" in name:
        parts = [ALIASES.get(part, part) for part in name.split("-")]
        if len(parts) == 2 and parts[0] in _QUOTES_FIRST and parts[1] in BASES and parts[1] not in _MONEY:
            parts.reverse()
        return "-".join(parts)
    if told and name == told.replace("-", ""):
        return told
    kraken = _KRAKEN.fullmatch(name)
    if kraken is not None and kraken[1] in BASES and kraken[2] in QUOTES:
        splits = [(kraken[1], kraken[2])]
    elif (money := _KRAKEN_MONEY.fullmatch(name)) is not None and money[1] in BASES and f"{money[1]}Z" not in BASES:
        splits = [(money[1], money[2])]
    else:
        splits = [(name.removesuffix(quote), quote) for quote in QUOTES if name.endswith(quote) and name != quote]
    known = [split for split in splits if split[0] in BASES]
    if not splits or len(known) > 1 or (not known and splits[0][1] in _ONE_LETTER_MORE):
        return name
    base, quote = known[0] if known else splits[0]
    return f"{ALIASES.get(base, base)}-{ALIASES.get(quote, quote)}"


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
