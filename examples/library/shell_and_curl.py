"""Shell commands and HTTP requests as jobs. The payload is the command or the URL.

    python examples/library/shell_and_curl.py

It starts a web server of its own, so it needs no network. It runs until Ctrl-C.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from scheduledjob import CurlJob, Every, Fixed, Scheduler, ShellJob

scheduler = Scheduler("memory:")
scheduler.register(ShellJob(), trigger=Every(2.0), backoff=Fixed([10.0, 60.0]))  # the kind "shell"
scheduler.register(CurlJob(headers={"Accept": "text/plain"}), trigger=Every(2.0))  # the kind "curl"
scheduler.register(CurlJob(method="POST"), name="webhook")  # the same job under another name


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = (await reader.readuntil(b"\r\n\r\n")).decode()
    print("served:", request.splitlines()[0], flush=True)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
    await writer.drain()
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        async with server, scheduler:
            # The environment of a shell job contains only PATH, HOME, LANG, TZ, USER, LOGNAME, SHELL
            # and the details of its run.
            command = f'echo "$SCHEDULEDJOB_NAME, attempt $SCHEDULEDJOB_ATTEMPT" >> {log}'
            await scheduler.schedule("greet", "shell", payload=command.encode(), delay=0.0)
            await scheduler.schedule("ping", "curl", payload=f"{url}/health".encode(), delay=0.0)
            await scheduler.schedule("notify", "webhook", payload=f"{url}/notify".encode(), delay=0.5)
            while not log.exists():  # noqa: ASYNC110  # there is no event for a new file
                await asyncio.sleep(0.1)
            print("the command wrote:", log.read_text().strip(), flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
