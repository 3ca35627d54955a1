"""Make the event of a believable signup from an e-mail address, for `gate ask`, `gate demo` and `gate load`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a person signs up from."""

    continent_code: str
    country_code: str
    country_code3: str
    country_name: str
    city_name: str
    subdivision_code: str
    subdivision_name: str
    latitude: float
    longitude: float
    time_zone: str
    language: str
    ip: str  # of the blocks reserved for documentation (RFC 5737)

    def geoip(self) -> dict[str, Any]:
        """Return `request.geoip`."""
        return {
            "continentCode": self.continent_code,
            "countryCode": self.country_code,
            "countryCode3": self.country_code3,
            "countryName": self.country_name,
            "cityName": self.city_name,
            "subdivisionCode": self.subdivision_code,
            "subdivisionName": self.subdivision_name,
            "latitude": self.latitude,
            "longitude": self.longitude,
            "timeZone": self.time_zone,
        }


LISBON: Final = Place(
    continent_code="EU",
    country_code="PT",
    country_code3="PRT",
    country_name="Portugal",
    city_name="Lisbon",
    subdivision_code="11",
    subdivision_name="Lisbon",
    latitude=38.7169,
    longitude=-9.1395,
    time_zone="Europe/Lisbon",
    language="pt",
    ip="192.0.2.41",
)
NAIROBI: Final = Place(
    continent_code="AF",
    country_code="KE",
    country_code3="KEN",
    country_name="Kenya",
    city_name="Nairobi",
    subdivision_code="30",
    subdivision_name="Nairobi County",
    latitude=-1.2841,
    longitude=36.8155,
    time_zone="Africa/Nairobi",
    language="en",
    ip="192.0.2.88",
)
OSAKA: Final = Place(
    continent_code="AS",
    country_code="JP",
    country_code3="JPN",
    country_name="Japan",
    city_name="Osaka",
    subdivision_code="27",
    subdivision_name="Osaka",
    latitude=34.6938,
    longitude=135.5011,
    time_zone="Asia/Tokyo",
    language="ja",
    ip="198.51.100.17",
)
LIMA: Final = Place(
    continent_code="SA",
    country_code="PE",
    country_code3="PER",
    country_name="Peru",
    city_name="Lima",
    subdivision_code="LMA",
    subdivision_name="Lima Province",
    latitude=-12.0432,
    longitude=-77.0282,
    time_zone="America/Lima",
    language="es",
    ip="198.51.100.140",
)
DENVER: Final = Place(
    continent_code="NA",
    country_code="US",
    country_code3="USA",
    country_name="United States",
    city_name="Denver",
    subdivision_code="CO",
    subdivision_name="Colorado",
    latitude=39.7392,
    longitude=-104.9847,
    time_zone="America/Denver",
    language="en",
    ip="203.0.113.20",
)
MERIDA: Final = Place(
    continent_code="NA",
    country_code="MX",
    country_code3="MEX",
    country_name="Mexico",
    city_name="Mérida",
    subdivision_code="YUC",
    subdivision_name="Yucatán",
    latitude=20.9670,
    longitude=-89.6237,
    time_zone="America/Merida",
    language="es",
    ip="203.0.113.77",
)

WELCOME: Final = (LISBON, NAIROBI, OSAKA, LIMA)
"""Places from which the sample chain lets people register."""

REFUSED: Final = (DENVER, MERIDA)
"""Places from which `actions/deny_by_location.py` refuses them, in English and in Spanish."""


def build_event(email: str, *, place: Place = LISBON) -> dict[str, Any]:
    """Return the event of a person who fills in the signup form of a web shop with this address.

    All but the person is the same for every call, so that two calls with one address and place are the same attempt.
    """
    name = email.partition("@")[0]
    given, _, family = name.replace("_", ".").replace("-", ".").partition(".")
    given, family = given.capitalize(), (family or "Example").replace(".", " ").title()
    return {
        "tenant": {"id": "acme-shop"},
        "client": {"client_id": "web-8Qz41", "name": "Acme Shop", "metadata": {"channel": "web"}},
        "connection": {"id": "con_u7Wd92", "name": "customers", "strategy": "auth0", "metadata": {}},
        "custom_domain": {"domain": "login.acme.example", "domain_metadata": {}},
        "request": {
            "method": "POST",
            "hostname": "login.acme.example",
            "ip": place.ip,
            "language": place.language,
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
            "geoip": place.geoip(),
            "body": {"ulp-newsletter": "yes"},
        },
        "transaction": {
            "acr_values": [],
            "locale": place.language,
            "ui_locales": [place.language],
            "requested_scopes": ["openid", "profile", "email"],
            "protocol": "oidc-basic-profile",
            "redirect_uri": "https://shop.acme.example/callback",
            "response_mode": "query",
            "response_type": ["code"],
            "prompt": ["login"],
            "login_hint": email,
        },
        "security_context": {
            "ja3": "5f2c7b1a90d34e68b7c1f05a2e9d4836",
            "ja4": "t13d1715h2_8f0c2ab7d914_3e61c05b7af2",
        },
        "user": {
            "email": email,
            "username": name,
            "name": f"{given} {family}",
            "given_name": given,
            "family_name": family,
            "nickname": name,
            "user_metadata": {"newsletter": True},
            "app_metadata": {},
        },
    }
