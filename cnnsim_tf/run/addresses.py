"""Whether a Dask scheduler answers at an address, and what is said where none does."""

import asyncio
import socket
from typing import Any

import distributed
from distributed import Security
from distributed.core import rpc

from cnnsim_tf.errors import StudyError

CONNECT_SECONDS = 10


def check_scheduler(address: str) -> None:
    """Ask for a scheduler's name and versions: a client that cannot connect takes a minute and more to say so.

    Raises:
        StudyError: there is none, it is something else, TLS is not set up for it, or its Dask is another one.
    """

    async def ask() -> tuple[dict[str, Any], dict[str, Any]]:
        security = Security()
        async with rpc(address, connection_args=security.get_connection_args("client")) as scheduler:
            return await scheduler.identity(), await scheduler.versions()

    async def ask_in_time() -> tuple[dict[str, Any], dict[str, Any]]:
        return await asyncio.wait_for(ask(), CONNECT_SECONDS)

    try:
        identity, versions = asyncio.run(ask_in_time())
    except Exception as error:  # of sockets, ssl, files of certificates, and of messages that are none of Dask's
        raise StudyError(no_scheduler(address, error)) from error
    if identity.get("type") != "Scheduler":
        raise StudyError(
            f"at {address} is no Dask scheduler but a {identity.get('type', 'program')}: give the address that "
            "`dask scheduler` prints when it starts"
        )
    here, there = distributed.__version__, versions["packages"]["distributed"]
    if here != there:
        raise StudyError(
            f"the Dask scheduler at {address} is of another version ({there}) than this environment ({here}): start "
            "one with `dask scheduler` in this project's environment"
        )


def no_scheduler(address: str, error: BaseException) -> str:
    """Return a sentence on an address at which no scheduler answers, with the reason and what to do."""
    reason = _unreachable(address) or " ".join(str(error.__cause__ or error).split())[:200]
    reason = reason or f"not within {CONNECT_SECONDS} s"
    if address.startswith("tls://"):
        return (
            f"no Dask scheduler answers at {address} by TLS ({reason}): start one with certificates, and set "
            "distributed.comm.tls.ca-file, client.cert and client.key in Dask's configuration to those of its network"
        )
    return (
        f"no Dask scheduler answers at {address} ({reason}): start one with `dask scheduler` and workers with "
        f"`dask worker {address}`, or leave scheduler=local"
    )


def _unreachable(address: str) -> str:
    """Return why no connection to an address can be made, in the system's words; nothing if it only takes long."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return ""
    except TimeoutError:
        return ""
    except OverflowError:
        return "a port is at most 65535"
    except OSError as error:
        return error.strerror or str(error)
