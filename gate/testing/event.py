"""A small, believable event, of which a test says only what it is about."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

DEFAULT_EVENT: Final[Mapping[str, Any]] = {
    "tenant": {"id": "orchard-books"},
    "client": {"client_id": "shop-web-3Tn8", "name": "Orchard Books", "metadata": {}},
    "connection": {"id": "con_5rQk71", "name": "readers", "strategy": "auth0", "metadata": {}},
    "request": {
        "method": "POST",
        "hostname": "login.orchard.example",
        "ip": "198.51.100.23",
        "language": "en",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "geoip": {
            "continentCode": "EU",
            "countryCode": "IE",
            "countryCode3": "IRL",
            "countryName": "Ireland",
            "cityName": "Galway",
            "latitude": 53.2707,
            "longitude": -9.0568,
            "timeZone": "Europe/Dublin",
        },
        "body": {},
    },
    "user": {
        "email": "nora.byrne@mail.example",
        "given_name": "Nora",
        "family_name": "Byrne",
        "name": "Nora Byrne",
        "user_metadata": {},
        "app_metadata": {},
    },
}


def build_event(**changes: Any) -> dict[str, Any]:
    """Return the event of somebody in Ireland who signs up for a book shop, changed.

    Objects are merged key by key, everything else is replaced, None is null: `build_event(request={"geoip": {"countryCode":
    "FR"}})` is the same event from France. Keys are Auth0's JSON names.
    """
    return _merged(DEFAULT_EVENT, changes)


def _merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: copy.deepcopy(value) for key, value in before.items() if key not in changes}

    for key, value in changes.items():
        old = before.get(key)

        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(old, value)
        else:
            merged[key] = copy.deepcopy(value)

    return merged
