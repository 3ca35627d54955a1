"""Deny sign-ups from some continents, in the person's language."""

from gate import Api, Event

CONTINENTS = {
    "AF": "africa",
    "AN": "antarctica",
    "AS": "asia",
    "EU": "europe",
    "NA": "north_america",
    "OC": "oceania",
    "SA": "south_america",
}

MESSAGES = {
    "en": "You cannot register from where you are.",
    "es": "No puedes registrarte desde donde estás.",
}


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Deny if the request comes from one of `config.continents`."""
    continent = event.request.geoip.continent_code

    if continent is not None and continent in event.config["continents"]:
        language = (event.request.language or "en").partition("-")[0]
        api.access.deny(f"no_signups_from_{CONTINENTS.get(continent, continent)}", MESSAGES.get(language, MESSAGES["en"]))
