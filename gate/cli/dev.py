"""`gate dev`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gate.cli.options import Flags, takes

if TYPE_CHECKING:
    from gate.chain.runner import Chain
    from gate.config import Settings
    from gate.tools.dev import Here


@takes("chain", "http_port", "mode", "log_level", "log_format")
def dev(
    flags: Flags,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which Kafka keeps its data, used again next time; without it nothing is kept.", show_default=False
        ),
    ] = None,
) -> None:
    """Start Kafka, topics and a worker on this machine, until Ctrl-C.

    Without --chain and an actions/chain.toml it runs the sample actions that come with the gate.
    """
    from gate import log
    from gate.chain.texts import load_texts
    from gate.cli.running import run, until_signal
    from gate.tools.dev import refuse_second

    settings = flags.settings()
    load_texts(settings.messages)  # before anything is started
    refuse_second()
    log.configure(settings.log_level, settings.log_format)
    run(until_signal(_dev(settings, data_dir)))


async def _dev(settings: Settings, data_dir: Path | None) -> None:
    from gate.chain.loader import chain_files
    from gate.cli.output import say
    from gate.tools.dev import PREFERRED_PORT, everything_here, load_chain_here, sample_chain_or
    from gate.tools.user_service import UserService

    path, samples = sample_chain_or(settings)
    service = UserService()
    try:

        def load() -> Chain:
            return load_chain_here(path, service, secrets_dir=settings.secrets_dir)

        chain = load()
        say("starting Kafka")
        async with (
            service,
            everything_here(
                settings,
                chain,
                load=load,
                chain_files=lambda: chain_files(path, secrets_dir=settings.secrets_dir),
                data_dir=data_dir,
                prefer_port=PREFERRED_PORT,
                write_dev_file=True,
                progress=say,
            ) as here,
        ):
            say(_how_to_try(here, path, samples))
            await here.watch()
    finally:
        service.close()


def _how_to_try(here: Here, chain: Path, samples: bool) -> str:
    return f"""
Kafka     {here.bootstrap}
chain     {chain}{" (the samples; copy that folder to actions/ to change them)" if samples else ", loaded anew when it changes"}
metrics   {here.http_url}/metrics

Try, in another terminal in this folder:
  gate ask ana@mail.example
  gate ask bob@mail.example --from denver
  gate load --rate 200 --duration 10

Ctrl-C stops everything.
"""
