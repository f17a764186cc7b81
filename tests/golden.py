"""Make tests/golden.json anew: `.venv/bin/python -m tests.golden`.

The file holds the diff IDs and the image ID of a small environment. When they change, every image that
anybody built changes: raise `lockstep.image.layer.FORMAT`, say so in CHANGELOG.md, and only then run this.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

from lockstep.home import Home
from lockstep.image import compose
from lockstep.image.store import Store
from lockstep.layers.assemble import assemble
from tests.packages import PLACEHOLDER, File, Made, base_image, conda, lock_of, put, wheel

FILE = Path(__file__).with_name("golden.json")

# Stored and bzip2, since other compressors' versions change the packages' hashes, which are in the lock.
PACKAGES: tuple[Made, ...] = (
    conda(
        "python",
        "3.11.4",
        {"bin/python3.11": File(b"\x7fELF", executable=True), "bin/python": File(link="python3.11")},
    ),
    conda(
        "binary",
        "1.2",
        {
            "lib/lib.so.1": b"\x7fELF\0" + PLACEHOLDER.encode() + b"/lib\0\0",
            "lib/lib.so": File(link="lib.so.1"),
            "etc/conf": f"prefix={PLACEHOLDER}\n",
        },
    ),
    conda(
        "noarch",
        "3",
        {"site-packages/noarch/data.txt": "data\n"},
        noarch=True,
        entry_points=["na = noarch:main"],
    ),
    wheel(
        "scripts",
        "0.1",
        {
            "scripts/data.txt": "text\n",
            "scripts/" + "a-long-name-" * 20 + ".txt": "pax\n",
            "scripts-0.1.data/scripts/run": "#!python\nprint()\n",
            "scripts-0.1.data/headers/h.h": "",
            "scripts-0.1.data/data/share/text": "t",
        },
        entry_points="[console_scripts]\nscripts = scripts:main\n",
        compression=zipfile.ZIP_STORED,
    ),
    wheel("big", "1", {"big/data.bin": bytes(range(256)) * 20_000}, compression=zipfile.ZIP_STORED),
)


def golden(home: Home) -> dict[str, object]:
    """Build the environment and return its identities."""
    lock = lock_of(*PACKAGES, variables=(("NAME", "value"),))
    layers = assemble(lock, put(home, *PACKAGES), home)
    image = compose(base_image(Store(home)), layers, lock)
    return {"image_id": image.id, "diff_ids": [x.diff_id for x in layers]}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        FILE.write_text(json.dumps(golden(Home(Path(folder))), indent=2) + "\n")
    sys.stdout.write(f"{FILE} is new: see its diff.\n")
