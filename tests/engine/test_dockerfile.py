"""The operating system's Dockerfile: read right, built, normalised, and nothing of the build kept."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import trustme

from lockstep.engine import ContainerRun, Engine, adds_nothing, depends_on_day
from lockstep.engine.normalise import DROPPED, normalise
from lockstep.errors import SpecError
from lockstep.home import Home
from lockstep.image import Image
from lockstep.image.layer import EPOCH
from lockstep.image.store import Store

FROM = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"


@pytest.mark.parametrize(
    ("text", "nothing", "day"),
    [
        (FROM, True, False),
        ("# escape=`\narg BASE_IMAGE\n\n# note\nfrom $BASE_IMAGE\n", True, False),
        (FROM + "# RUN apt-get install -y vim\n", True, False),
        (FROM + "ENV A=1\n", False, False),
        (FROM + "COPY a /a\n", False, False),
        (FROM + "run true\n", False, True),
        (FROM + "RUN apt-get update && \\\n  # a comment\n  apt-get install x\n", False, True),
        (FROM + "ADD https://example.org/x /x\n", False, True),
        (FROM + "ADD x.tar /x\n", False, False),
        ("ARG BASE_IMAGE\nFROM other AS b\nFROM ${BASE_IMAGE}\nCOPY --from=b /a /a\n", False, True),
        ("ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS b\nFROM b\nCOPY --from=b /a /a\n", False, False),
        (FROM + "COPY --from=other/image /a /a\n", False, True),
    ],
)
def test_what_a_dockerfile_adds(text: str, nothing: bool, day: bool) -> None:
    """Whether an engine is needed, and whether the image then depends on the day."""
    assert adds_nothing(text) is nothing
    assert depends_on_day(text) is day


@pytest.mark.parametrize("text", ["", "FROM debian:12\n", "ARG BASE_IMAGE\nFROM debian\nRUN $BASE_IMAGE\n"])
def test_base_that_is_not_pinned_is_refused(text: str) -> None:
    """A Dockerfile that starts from something else says what to write."""
    with pytest.raises(SpecError, match=r"FROM \$\{BASE_IMAGE\}"):
        adds_nothing(text)


@pytest.fixture
def dockerfile(tmp_path: Path) -> Path:
    """A Dockerfile with a RUN, a COPY and an ENV, and a context of which a part is ignored."""
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "kept.txt").write_text("kept")
    (folder / "secret.txt").write_text("secret")
    (folder / ".dockerignore").write_text("# what stays here\nsecret.*\n")
    path = folder / "Dockerfile"
    path.write_text(
        FROM
        + "ENV COLOUR=blue\n"
        + "COPY . /context/\n"
        + "RUN mkdir -p /opt/x /var/log /var/cache/apt && echo $SOURCE_DATE_EPOCH > /opt/x/epoch && "
        + "echo noise > /var/log/noise && chmod 600 /opt/x/epoch && chown 7:8 /opt/x/epoch\n"
        + "RUN echo only noise > /var/log/more\n"
        + "WORKDIR /opt/x\n"
    )
    return path


@pytest.mark.engine
def test_build_adds_to_the_base_and_normalises(
    engine: Engine, image: Image, store: Store, dockerfile: Path, name: str
) -> None:
    """The base's layers stay as they are; what is added has no times, no noise and nothing of the build."""
    built = engine.build_system(image, store, dockerfile).image
    assert built.layers[: len(image.layers)] == image.layers
    config = json.loads(built.config)
    assert "COLOUR=blue" in config["config"]["Env"]
    assert config["config"]["WorkingDir"] == "/opt/x"
    assert engine.build_system(image, store, dockerfile).depends_on_day
    assert not any("BASE_IMAGE" in line or "SSL" in line for line in config["config"]["Env"])
    entries = {}
    for layer in built.layers[len(image.layers) :]:
        with tarfile.open(store.blob(layer.digest)) as tar:
            entries.update({member.name: member for member in tar})
    assert {"context/kept.txt", "opt/x/epoch"} <= set(entries)
    assert not [path for path in entries if "noise" in path or "secret" in path or "lockstep" in path]
    assert {member.mtime for member in entries.values()} == {EPOCH}
    epoch = entries["opt/x/epoch"]
    assert (epoch.mode, epoch.uid, epoch.gid) == (0o600, 7, 8)
    assert len(config["history"]) == len(built.layers)
    assert not any("SSL_CERT" in json.dumps(step) for step in config["history"])
    engine.deliver(built, store, name)
    lines: list[bytes] = []
    run = ContainerRun(name, ("sh", "-c", "cat epoch; echo $COLOUR; cat /context/kept.txt"), user="7:8")
    assert engine.run(run, lines.append).code == 0
    assert lines == [str(EPOCH).encode(), b"blue", b"kept"]


@pytest.mark.engine
def test_same_dockerfile_gives_the_same_image_elsewhere(
    engine: Engine, image: Image, store: Store, dockerfile: Path, tmp_path: Path
) -> None:
    """Built again in another store, the image has the same ID; once made, it isn't built again."""
    first = engine.build_system(image, store, dockerfile).image
    other = Store(Home(tmp_path / "other"))
    for layer in image.layers:
        with other.incoming(layer.digest) as file:
            file.write(store.blob(layer.digest).read_bytes())
    (dockerfile.parent / "kept.txt").touch()
    assert engine.build_system(image, other, dockerfile).image.id == first.id
    assert engine.image_id(first.id) is None  # the engine keeps nothing of the build
    engine.api.build, build = None, engine.api.build
    try:
        assert engine.build_system(image, store, dockerfile).image == first
    finally:
        engine.api.build = build
    (dockerfile.parent / "kept.txt").write_text("changed")
    assert engine.build_system(image, store, dockerfile).image.id != first.id


@pytest.mark.engine
def test_failing_step_is_shown(engine: Engine, image: Image, store: Store, dockerfile: Path) -> None:
    """A RUN that fails is the Dockerfile's error, with what the step printed."""
    before = {told["Id"] for told in engine.api.images(all=True)}
    dockerfile.write_text(FROM + "ENV A=1\nRUN echo so much for that; exit 3\n")
    with pytest.raises(SpecError, match=r"non-zero code: 3(.|\n)*so much for that"):
        engine.build_system(image, store, dockerfile)
    assert image.id not in {told["Id"] for told in engine.api.images(all=True)} - before


@pytest.mark.engine
def test_certificate_authorities_reach_the_build_only(
    engine: Engine,
    image: Image,
    store: Store,
    dockerfile: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RUN steps find all of this machine's certificate authorities and its proxy; the image has neither."""
    named = {"SSL_CERT_FILE": trustme.CA(), "REQUESTS_CA_BUNDLE": trustme.CA()}
    for variable, authority in named.items():
        authority.cert_pem.write_to_path(str(tmp_path / variable))
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "pip.conf").write_text("[global]\nproxy = http://user:secret@127.0.0.1:1\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    dockerfile.write_text(
        FROM
        + 'RUN cat "$SSL_CERT_FILE" "$APT_CONFIG" > /seen && echo "$https_proxy" "$HTTPS_PROXY" | cat > /etc/proxy\n'
    )
    built = engine.build_system(image, store, dockerfile).image
    (layer,) = built.layers[len(image.layers) :]
    with tarfile.open(store.blob(layer.digest)) as tar:
        seen = tar.extractfile("seen").read()  # type: ignore[union-attr]
        assert all(authority.cert_pem.bytes().strip() in seen for authority in named.values())
        proxies = tar.extractfile("etc/proxy").read()  # type: ignore[union-attr]
        assert proxies.split() == [b"http://user:secret@127.0.0.1:1"] * 2
        assert not [path for path in tar.getnames() if "lockstep" in path]
    assert b"secret" not in built.config
    assert b"SSL_CERT_FILE" not in built.config.replace(b'\\"$SSL_CERT_FILE\\"', b"")


def test_links_whiteouts_and_noise(store: Store) -> None:
    """Hard links follow what they link to, whiteouts stay but for noise, and a layer of noise is none."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path, kind, link in [
            ("./z", tarfile.REGTYPE, ""),
            ("./a", tarfile.LNKTYPE, "./z"),
            ("./etc/.wh.gone", tarfile.REGTYPE, ""),
            ("./var/cache/apt/.wh.x", tarfile.REGTYPE, ""),
            ("./var/cache/apt/archives/y.deb", tarfile.REGTYPE, ""),
        ]:
            info = tarfile.TarInfo(path)
            info.type, info.linkname, info.mtime, info.uname = kind, link, 12345, "me"
            tar.addfile(info)
    data.seek(0)
    layer = normalise(data, store)
    with tarfile.open(store.blob(layer.digest)) as tar:
        assert tar.getnames() == ["etc/.wh.gone", "z", "a"]
        assert tar.getmember("a").linkname == "z"
        assert {(member.mtime, member.uname) for member in tar} == {(EPOCH, "")}
    noise = io.BytesIO()
    with tarfile.open(fileobj=noise, mode="w") as tar:
        folder = tarfile.TarInfo("var/log")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("var/log/apt.log"))
    noise.seek(0)
    assert normalise(noise, store) is None


def in_tar(*members: tuple[str, bytes, str, bytes]) -> io.BytesIO:
    """Return a tar of entries: path, tar type, target, content."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path, kind, link, content in members:
            info = tarfile.TarInfo(path)
            info.type, info.linkname, info.size = kind, link, len(content)
            tar.addfile(info, io.BytesIO(content))
    data.seek(0)
    return data


def test_a_link_to_what_is_left_out_holds_the_content(store: Store) -> None:
    """A file in /tmp that other names link to is there under the first of these."""
    source = in_tar(
        ("tmp/download", tarfile.REGTYPE, "", b"content"),
        ("usr/b", tarfile.LNKTYPE, "tmp/download", b""),
        ("usr/a", tarfile.LNKTYPE, "tmp/download", b""),
    )
    layer = normalise(source, store)
    with tarfile.open(store.blob(layer.digest)) as tar:
        assert tar.getnames() == ["usr/a", "usr/b"]
        assert tar.extractfile("usr/a").read() == tar.extractfile("usr/b").read() == b"content"


@pytest.mark.parametrize(
    ("path", "kind", "link", "content"),
    [
        ("etc/.wh.passwd", tarfile.REGTYPE, "", b"x"),
        ("etc/.wh.passwd", tarfile.DIRTYPE, "", b""),
        ("etc/.wh.passwd", tarfile.SYMTYPE, "x", b""),
        ("etc/.wh.d/x", tarfile.REGTYPE, "", b""),
    ],
)
def test_a_whiteout_that_removes_nothing_is_refused(
    path: str, kind: bytes, link: str, content: bytes, store: Store
) -> None:
    """What a step made under such a name isn't the engine's word for a removal."""
    with pytest.raises(SpecError, match=r"makes 'etc/\.wh\."):
        normalise(in_tar((path, kind, link, content)), store)


@pytest.mark.parametrize("path", ["etc/passwd", "var/log", "usr/share/run/x", "tmp", "var/lib/dpkg/status"])
def test_what_is_kept(path: str) -> None:
    """Only what concerns the build alone is left out."""
    assert not DROPPED.fullmatch(path)
