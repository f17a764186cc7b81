"""The first promise: the same lock gives the same image ID on any machine, any day, for any user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from lockstep.home import Home
from lockstep.lock import dump_lock
from tests.golden import FILE, golden
from tests.packages import PLACEHOLDER, Made, conda, lock_of, put, python_package, wheel

BUILD = """
import os, sys, tempfile
from pathlib import Path
from lockstep.layers.assemble import assemble
from lockstep.home import Home
from lockstep.image import compose
from lockstep.lock import read_lock
from lockstep.image.store import Store
from tests.golden import golden
from tests.packages import base_image
if len(sys.argv) > 3:
    # Another user may not be able to read this one's Python: load all of it first.
    with tempfile.TemporaryDirectory() as folder:
        golden(Home(Path(folder)))
    os.setgroups([]), os.setgid(int(sys.argv[3])), os.setuid(int(sys.argv[3]))
os.umask(int(os.environ["TEST_UMASK"], 8))
lock, home = read_lock(Path(sys.argv[1])), Home(Path(sys.argv[2]))
layers = assemble(lock, {x.sha256: home.package(x.sha256) for x in lock.packages}, home)
print(compose(base_image(Store(home)), layers, lock).id, *(x.diff_id for x in layers))
"""

SOURCE = """\
class A:
    names = {'a', 'b', None, 1.5}
    def f(self, x=frozenset('xyz')):
        return x in {'p', 'q'}
"""


def environment() -> list[Made]:
    """Return an environment with bytecode, prefixes, a noarch package and one big enough for its own layer."""
    return [
        python_package(),
        wheel("code", files={f"code/m{x}.py": SOURCE.replace("A", f"A{x}") for x in range(20)}),
        wheel("big", files={"big.bin": os.urandom(16) * 400_000, "big.py": SOURCE}, compression=0),
        conda("noarch", files={"site-packages/na.py": SOURCE}, noarch=True, entry_points=["na = na:f"]),
        conda("binary", files={"lib/b": b"\0" + PLACEHOLDER.encode() + b"\0", "etc/c": PLACEHOLDER}),
    ]


def test_the_golden_image_is_the_same_as_ever(tmp_path: Path) -> None:
    """An environment made in code gives the committed digests. If it mustn't any more: see tests/golden.py."""
    assert golden(Home(tmp_path)) == json.loads(FILE.read_text())


def test_who_builds_where_and_when_does_not_matter(tmp_path: Path) -> None:
    """Time zone, umask, folder, home, hash seed, locale, user, order of work: none has a say in the ID."""
    packages = environment()
    lock = dump_lock(lock_of(*packages))
    root = Path(__file__).parents[1]
    places = [
        ("plain", {"TZ": "UTC", "TEST_UMASK": "022", "PYTHONHASHSEED": "0"}, None),
        (
            "a path with spaces/ünï",
            {"TZ": "Asia/Kathmandu", "TEST_UMASK": "077", "PYTHONHASHSEED": "77"},
            None,
        ),
        ("third", {"TZ": "America/New_York", "TEST_UMASK": "002", "PYTHONHASHSEED": "4"}, 12345),
    ]
    told = []
    for name, environment_, uid in places:
        home = Home(tmp_path / name / "home")
        put(home, *packages)
        path = home.path / "lock.yml"
        path.write_bytes(lock)
        cwd = tmp_path / name / "cwd"
        cwd.mkdir()
        user = []
        if uid and os.getuid() == 0:
            user = [str(uid)]
            subprocess.run(["chown", "-R", f"{uid}:{uid}", str(tmp_path / name)], check=True)
            for parent in (tmp_path, *list(tmp_path.parents)[:2]):
                parent.chmod(0o755)
        variables = {
            **environment_,
            "PATH": os.environ["PATH"],
            "HOME": str(cwd),
            "PYTHONPATH": str(root),
            "LANG": "C.UTF-8" if uid else "C",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-c", BUILD, str(path), str(home.path), *user]
        ran = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        told.append(ran.stdout)
    assert told[0] == told[1] == told[2]
    assert len(told[0].split()) > 3
