"""Flags that set settings: declared once, taken by the commands that name them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gate.config import Settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

_PANEL = "Settings"
_HELP = {
    "bootstrap_servers": "host:port of the Kafka brokers, comma-separated.",
    "chain": "Manifest, folder or single action file.",
    "http_port": "Port of /metrics, /healthz and /readyz; 0 for any free one.",
    "group_id": "Consumer group of the workers.",
    "mode": "strict, or at_least_once.",
    "log_level": "debug, info, warning or error.",
    "log_format": "auto, json or console.",
}
"""Settings that have a flag of their own. The texts are here, not read from gate.config, so that `--help` need not load it."""

KAFKA = ("bootstrap_servers",)
WORKER = ("chain", "bootstrap_servers", "http_port", "group_id", "mode", "log_level", "log_format")


@dataclass(frozen=True, slots=True)
class Flags:
    """The settings that the command line gave, and the file that it named."""

    values: dict[str, object]
    file: Path | None

    def settings(self) -> Settings:
        """Load the settings; raise SettingsError with all problems."""
        from gate.config import load

        return load(self.values, file=self.file)


def takes(*settings: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the flags of these settings, `--set` and `--config` to a command, which gets them as `flags`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = [
            parameter.replace(annotation=_evaluated(parameter.annotation, command))
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "flags"
        ]
        for name in settings:
            option = typer.Option(f"--{name.replace('_', '-')}", help=_HELP[name], show_default=False, rich_help_panel=_PANEL)
            parameters.append(_keyword(name, Annotated[str | None, option], None))
        parameters.append(
            _keyword(
                "set_",
                Annotated[
                    list[str],
                    typer.Option(
                        "--set", metavar="NAME=VALUE", help="Any setting, by its name in `gate config`.", rich_help_panel=_PANEL
                    ),
                ],
                [],
            )
        )
        parameters.append(
            _keyword(
                "config_file",
                Annotated[
                    Path | None,
                    typer.Option(
                        "--config",
                        metavar="FILE",
                        help="Settings file instead of ./gate.toml.",
                        show_default=False,
                        rich_help_panel=_PANEL,
                    ),
                ],
                None,
            )
        )

        def run(**arguments: Any) -> None:
            values: dict[str, object] = dict(_pair(text) for text in arguments.pop("set_"))
            values |= {name: value for name in settings if (value := arguments.pop(name)) is not None}
            command(flags=Flags(values, arguments.pop("config_file")), **arguments)

        run.__name__ = command.__name__
        run.__doc__ = command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # typer reads parameters from it
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _evaluated(annotation: Any, command: Callable[..., None]) -> Any:
    return eval(annotation, command.__globals__) if isinstance(annotation, str) else annotation  # noqa: S307 - our own source


def _keyword(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
    return name.strip().lower().removeprefix("gate_"), value
