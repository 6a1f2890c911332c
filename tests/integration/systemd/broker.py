"""A development KBS with one resource, in whatever network namespace it is started; says when it listens."""

from __future__ import annotations

import asyncio

from agent.devkit.kbs import DevKbs

PORT = 8080
SECRET = b"a secret of the broker"


async def main() -> None:
    async with DevKbs(port=PORT) as kbs:
        kbs.put("default/key/1", SECRET)
        print("listening", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
