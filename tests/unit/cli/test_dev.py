from __future__ import annotations

import subprocess
import sys


def test_without_its_web_server_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from agent.cli.main import main; sys.argv = ['coco-agent', 'dev']; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs aiohttp" in done.stderr
    assert "pip install '.[devkit]'" in done.stderr
    assert "Traceback" not in done.stderr
