"""Refuse addresses at providers of throw-away mailboxes."""

from gate import Api, Event

THROW_AWAY = {f"mailbox{number}.example" for number in range(1000)}


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Ask for another address."""
    domain = (event.user.email or "").rpartition("@")[2]
    if domain in THROW_AWAY:
        api.validation.error("throw_away_mailbox", "Please use another e-mail address.")
