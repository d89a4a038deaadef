"""Make the first `volatility-ml` through Dagster while the baseline serves.

With a champion of the feature spec, nothing is done. Without one, the lake gets simulated days of 2010, when nobody
exchanged bitcoin for dollars on a market: no recorded trade is ever in-sample. Each step is a run with a page in
Dagster.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError

from data.models.registry import Registry
from data.names import RegistryAway, RegistryError
from data.process.running import AGAIN, REFUSED
from offline.settings import OfflineSettings
from orchestration.local.dagster.client import DagsterRefused, failure_of, launch, open_local, wait
from orchestration.settings import WebserverSettings

MODEL = "volatility-ml"
PRODUCTS = ["BTC-USD", "ETH-USD"]
FIRST_DAY, LAST_DAY = "2010-01-04", "2010-01-10"
DAYS = 7
STEPS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    (
        "simulate",
        f"{DAYS} days of {' and '.join(PRODUCTS)} are simulated into the lake, with features and training sets",
        {"ops": {"simulate_days": {"config": {"products": PRODUCTS, "first_day": FIRST_DAY, "days": DAYS}}}},
    ),
    (
        "retrain",
        "both models are trained and tested on them",
        {"ops": {"models": {"config": {"products": PRODUCTS, "first_day": FIRST_DAY, "last_day": LAST_DAY}}}},
    ),
    (
        "promote",
        f"{MODEL} goes through the gate",
        {"ops": {"promote_model": {"config": {"model": MODEL, "why": "the first model: there was no champion"}}}},
    ),
)
ANSWERS_WITHIN_S = 15.0
"""Limit for the API to answer with the new champion: the API looks for another champion several times a second."""


def serving(api: str) -> str:
    """Return the model in the API's answers, such as `volatility-ml 1`; empty: no answer, or no model."""
    try:
        with open_local(f"{api}/version", 2.0) as answer:
            model = json.load(answer)["model"]  # null until a model serves
    except (OSError, ValueError, KeyError):
        return ""
    return f"{model['name']} {model['version']}" if model else ""


def is_away(error: Exception) -> bool:
    """Return whether the registry or Dagster does not answer or fails (5xx): a refused request is refused again."""
    if isinstance(error, HTTPError):
        return error.code >= 500
    return isinstance(error, RegistryAway | OSError)


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestration.local.dagster.first_model", description=main.__doc__)
    parser.add_argument("--dagster", required=True, help="URL of the Dagster UI")
    parser.add_argument("--api", required=True, help="URL of the prediction API")
    arguments = parser.parse_args()
    settings = OfflineSettings()
    uri = settings.mlflow_tracking_uri
    webserver = WebserverSettings()
    dagster, pages = webserver.with_login(arguments.dagster), webserver.dagster_public_url or arguments.dagster
    try:
        champion = Registry(uri).champion(MODEL)
        if champion is not None and champion.tags.get("spec_id") == settings.spec().spec_id:
            say(f"{MODEL} version {champion.version} is champion: nothing to do")
            return 0
        lacking = "" if champion is None else f" of the feature spec {settings.spec().spec_id}"
        say(f"there is no {MODEL}{lacking} yet: the baseline answers while Dagster makes one")
        for job, what, config in STEPS:
            run_id = launch(dagster, job, config)
            say(f"{what}: {pages}/runs/{run_id}")
            began = time.monotonic()
            # Also over a restart of Dagster: another start of this process would launch all runs again.
            if (ended := wait(dagster, run_id, patience_s=math.inf)) != "SUCCESS":
                say(f"{job} ended with {ended}: {failure_of(dagster, run_id)}")
                say("The baseline serves on. Look at that run; what is done is kept, so launch the rest from the UI.")
                return REFUSED
            say(f"{job} took {time.monotonic() - began:.0f} s")
    except DagsterRefused as error:
        say(f"{MODEL} is not made, the baseline serves on: {error}")
        return REFUSED
    except (RegistryError, OSError) as error:
        say(f"{MODEL} is not made yet, the baseline serves on: {error}")
        return AGAIN if is_away(error) else 1
    promoted = time.monotonic()
    while not (now := serving(arguments.api)).startswith(MODEL) and time.monotonic() - promoted < ANSWERS_WITHIN_S:
        time.sleep(0.2)
    if now.startswith(MODEL):
        say(f"{now.replace(' ', ' version ')} answers now")
    else:
        say(f"{MODEL} is champion; the API answers with {now or 'nothing'}: MODEL_VARIANT chooses")
    return 0


if __name__ == "__main__":
    sys.exit(main())
