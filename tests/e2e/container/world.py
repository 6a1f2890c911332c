"""What surrounds the container: a TPM and a development KBS with one resource, in the container's network.

Says on standard output where the TPM's socket is.
"""

from __future__ import annotations

import asyncio

from agent.devkit.guests import guest
from agent.devkit.kbs import DevKbs, Settings

PORT = 8080
SECRET = b"a secret of the broker"


async def main() -> None:
    async with guest("tpm") as machine, DevKbs(Settings(roots=machine.roots), port=PORT) as kbs:
        kbs.put("default/key/1", SECRET)
        print(f"{machine.sysroot}/dev/tpmrm0", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
