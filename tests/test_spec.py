"""Reading specs: every spelling that conda and pip accept, one value for one meaning, errors with a place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.errors import SpecError
from lockstep.spec import Spec, read_spec

Read = Callable[..., Spec]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Give a function that reads a spec from a text."""

    def read_text(
        text: str, name: str = "environment.yml", dockerfile: str = "FROM x\n", **options: object
    ) -> Spec:
        (tmp_path / "Dockerfile").write_text(dockerfile)
        (tmp_path / name).write_text(text)
        settings: dict[str, object] = {"base": "debian:12-slim", **options}
        return read_spec(tmp_path / name, dockerfile=tmp_path / "Dockerfile", **settings)  # type: ignore[arg-type]

    return read_text


FULL = """\
name: everything   # a comment
channels: [conda-forge, nodefaults, "https://channels.test/ours/", conda-forge]
dependencies:
  - python >= 3.10, < 3.12
  - numpy = 1.26
  - scipy==1.11.4=py311h64a7726_0
  - conda-forge::pandas>=2
  - blas[version='>=3',build=*mkl]
  - pip
  - pip:
    - Torch == 2.14.1  # the framework
    - "uvicorn[standard, extra]>=0.2; python_version > '3.8'"
    - --extra-index-url https://me:secret@wheels.test/simple
    - -f https://wheels.test/links
    - -c limits.txt
    - -r more.txt
    - --pre
    - https://wheels.test/tiny-1.0-py3-none-any.whl
variables:
  ANSWER: yes
  VERSION: 1.10
prefix: /home/somebody/envs/everything
"""


def test_everything_that_conda_accepts(read: Read, tmp_path: Path) -> None:
    """Channels, constraints, pip's options and files, variables as written; `prefix` is passed over."""
    (tmp_path / "limits.txt").write_text("urllib3 < 3\n")
    (tmp_path / "more.txt").write_text("six==1.17.0 \\\n    --hash=sha256:" + "0" * 64 + "\n-f wheels\n")
    spec = read(FULL)
    assert spec.name == "everything"
    assert spec.channels == ("conda-forge", "https://channels.test/ours")
    assert spec.conda == (
        "blas[version='>=3',build=*mkl]",
        "conda-forge::pandas>=2",
        "numpy=1.26",
        "pip",
        "python>=3.10,<3.12",
        "scipy==1.11.4=py311h64a7726_0",
    )
    assert spec.pip == (
        f"six==1.17.0 --hash=sha256:{'0' * 64}",
        "tiny@ https://wheels.test/tiny-1.0-py3-none-any.whl",
        "torch==2.14.1",
        'uvicorn[extra,standard]>=0.2; python_version > "3.8"',
    )
    assert spec.pip_options.constraints == ("urllib3<3",)
    assert spec.pip_options.find_links == ("https://wheels.test/links", "wheels")
    assert spec.pip_options.prerelease
    assert spec.variables == (("ANSWER", "yes"), ("VERSION", "1.10"))
    assert spec.sources == ("environment.yml", "limits.txt", "more.txt")
    assert "secret" not in repr(spec)


def test_the_same_meaning_is_the_same_spec(read: Read) -> None:
    """Order, comments, blanks, quotes, the name and the prefix don't change the hash."""
    one = read(
        "dependencies: [python=3.11, numpy>=1, pip, {pip: [six, Attrs>=1]}]\nvariables: {B: 1, A: 2}\n"
    )
    other = read(
        "name: other\nprefix: /x\n# hello\nvariables:\n  A: '2'\n  B: \"1\"\n"
        "dependencies:\n  - pip\n  - pip:\n    - attrs >= 1\n    - six\n  - 'numpy >= 1'\n"
        "  - python = 3.11\n",
        dockerfile="# comment\n\nFROM x   \n",
    )
    assert (one.hash, one) == (other.hash, other)


@pytest.mark.parametrize(
    "change",
    [
        {"dockerfile": "FROM x\nRUN true\n"},
        {"base": "debian:13-slim"},
        {"platform": "linux-aarch64"},
        {"virtual_packages": {"__cuda": "12.4"}},
        {"exclude_newer": "2026-10-31"},
        {"text": "dependencies: [python=3.11]\nvariables: {A: b}\n"},
        {"text": "dependencies: [python=3.12]\n"},
        {"text": "channels: [a]\ndependencies: [python=3.11]\n"},
        {"text": "dependencies: [python=3.11, {pip: [six]}]\n"},
        {"text": "dependencies: [python=3.11, {pip: [--pre]}]\n"},
    ],
)
def test_another_meaning_is_another_spec(read: Read, change: dict[str, object]) -> None:
    """Every input that can change the image changes the hash."""
    text = "dependencies: [python=3.11]\n"
    assert read(text).hash != read(**{"text": text, **change}).hash


def test_the_order_of_channels_counts(read: Read) -> None:
    """Channels are in order of priority."""
    one = read("channels: [a, b]\ndependencies: [python]\n")
    assert one.hash != read("channels: [b, a]\ndependencies: [python]\n").hash


def test_passwords_are_not_in_the_hash(read: Read) -> None:
    """A changed password isn't a changed spec."""
    text = "dependencies: [python, {pip: [six, '-i https://me:%s@wheels.test/simple']}]\n"
    assert read(text % "one").hash == read(text % "two").hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("FROM x\nADD https://me:one@h.test/a /a\n", "FROM x\nADD https://me:two@h.test/a /a\n"),
        ("FROM x\nRUN git clone ssh://git@h.test/a\n", "FROM x\nRUN git clone ssh://h.test/a\n"),
    ],
)
def test_a_dockerfile_counts_to_the_letter(read: Read, one: str, other: str) -> None:
    """The engine runs what is written there, the user in a URL among it: another one is another spec."""
    text = "dependencies: [python]\n"
    assert read(text, dockerfile=one).hash != read(text, dockerfile=other).hash


def test_variables_of_the_image_count_to_the_letter(read: Read) -> None:
    """What the image is given isn't an address of ours, whatever it looks like."""
    text = "dependencies: [python]\nvariables: {URL: 'https://%s@h.test/'}\n"
    assert read(text % "one").hash != read(text % "two").hash


@pytest.mark.parametrize(
    "channel",
    [
        "https://h.test/t/${TOKEN}/stable",
        "https://h.test/t/$TOKEN",
        "https://${USER}:${PASSWORD}@h.test/c",
        "https://me:$PASSWORD@h.test/c",
        "https://$TOKEN@h.test/c",
    ],
)
def test_a_variable_may_stand_for_a_secret(read: Read, channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel with a variable in a secret's place isn't refused, and its value isn't part of the spec."""
    monkeypatch.setenv("TOKEN", "s3cret")
    assert read(f"channels: ['{channel}']\ndependencies: [python]\n").channels == (channel,)


def test_what_conda_env_export_writes(read: Read) -> None:
    """`name=version=build` of every package, a pip section with ==, and the prefix of another machine."""
    spec = read(
        "name: exported\nchannels:\n  - conda-forge\n  - defaults\ndependencies:\n"
        "  - _libgcc_mutex=0.1=conda_forge\n  - python=3.11.9=hb806964_0_cpython\n"
        "  - pip:\n      - torch==2.14.1\nprefix: /opt/conda/envs/exported\n"
    )
    assert spec.conda == ("_libgcc_mutex=0.1=conda_forge", "python=3.11.9=hb806964_0_cpython")
    assert spec.channels == ("conda-forge", "defaults")


def test_a_requirements_file(read: Read) -> None:
    """The tutorial's other road: Python and pip are added, as a requirements file can't name them."""
    spec = read("# tools\ntorch==2.14.1\nnumpy ; sys_platform == 'linux'\n", name="requirements.txt")
    assert spec.conda == ("pip", "python=3.11")
    assert spec.pip == ('numpy; sys_platform == "linux"', "torch==2.14.1")
    assert spec.channels == ()


@pytest.mark.parametrize(
    "lines",
    [
        ["-i https://h.test/simple --trusted-host h.test --pre"],
        ["--index-url=https://h.test/simple --pre --trusted-host=h.test"],
        ["--pre", "--trusted-host 'h.test' -i 'https://h.test/simple'"],
        ['--pypi-url "https://h.test/simple" --trusted-host h.test --pre --prefer-binary'],
    ],
)
@pytest.mark.parametrize("kind", ["section", "file"])
def test_several_options_on_a_line(read: Read, lines: list[str], kind: str) -> None:
    """A line may hold several of pip's options, quoted or not; the same meaning is the same spec."""
    if kind == "file":
        spec = read("\n".join([*lines, "six"]) + "\n", name="requirements.txt")
    else:
        entries = "\n".join(f"    - |-\n      {line}" for line in [*lines, "six"])
        spec = read(f"dependencies:\n  - python=3.11\n  - pip\n  - pip:\n{entries}\n")
    plain = read("-i https://h.test/simple\n--trusted-host h.test\n--pre\nsix\n", name="requirements.txt")
    assert spec.hash == plain.hash
    assert spec.pip_options.index_url == "https://h.test/simple"
    assert spec.pip_options.trusted_hosts == ("h.test",)
    assert spec.pip_options.prerelease


def test_virtual_packages(read: Read) -> None:
    """Defaults are a GPU and Debian 12's C library; settings go over them, and an empty one takes away."""
    text = "dependencies: [python]\n"
    assert dict(read(text).virtual_packages)["__cuda"] == "13.0"
    assert dict(read(text).virtual_packages)["__glibc"] == "2.36"
    found = dict(read(text, virtual_packages={"__cuda": "", "__glibc": 2.28}).virtual_packages)
    assert "__cuda" not in found
    assert found["__glibc"] == "2.28"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"__glibc": "2"}, r"__glibc is '2'; wheels are published for 2\.<number>"),
        ({"__glibc": "2."}, "__glibc is '2.'"),
        ({"__glibc": "3.1"}, "__glibc is '3.1'"),
        ({"__glibc": "2.x"}, "__glibc is '2.x'"),
        ({"__glibc": "new"}, "__glibc is 'new', which isn't a version"),
        ({"__cuda": "=12"}, "__cuda is '=12', which isn't a version"),
        ({"cuda": "12"}, "names 'cuda', which isn't a virtual package"),
        ({"__CUDA": "12"}, "names '__CUDA'"),
    ],
)
def test_virtual_packages_that_are_none(read: Read, given: dict[str, str], message: str) -> None:
    """A name or a version that nothing could use is refused when it is read, with the right spelling."""
    with pytest.raises(SpecError, match=message) as refused:
        read("dependencies: [python]\n", virtual_packages=given)
    assert "`__" in refused.value.remedy
    for fine in ({"__glibc": "2.36.1"}, {"__cuda": "13"}, {"__glibc": ""}, {"__archspec": "1=zen4"}):
        assert read("dependencies: [python]\n", virtual_packages=fine)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-10-31", "2026-11-01T00:00:00Z"),
        ("2026-10-31T12:00:00Z", "2026-10-31T12:00:00Z"),
        ("2026-10-31T12:00:00+02:00", "2026-10-31T10:00:00Z"),
        ("2026-10-31T12:00:00", "2026-10-31T12:00:00Z"),
    ],
)
def test_exclude_newer_means_the_same_everywhere(
    read: Read, text: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day counts as a whole, in UTC, whatever the machine's time zone."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    assert read("dependencies: [python]\n", exclude_newer=text).exclude_newer == moment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dependencies:\n  - python\n - pip\n", r"line 3, column 2.*isn't YAML"),
        ("dependencies: [python\n", r"isn't YAML"),
        ("dependencies: [python]\nchannel: [a]\n", r"line 2, column 10: the key `channel` isn't known"),
        ("dependencies: [python, {conda: [a]}]\n", r"the section `conda:` isn't known"),
        ("dependencies: python\n", r"line 1, column 15: dependencies must be a list"),
        ("dependencies: [python, a b c d]\n", r"line 1, column 24: 'a b c d' isn't a package"),
        ("dependencies:\n  - python\n  - numpy>>1\n", r"line 3, column 5: 'numpy>>1' isn't a package"),
        (
            "dependencies: [python]\ndependencies: [pip]\n",
            r"line 2, column 1: the key `dependencies` is there twice",
        ),
        ("dependencies: [{pip: [six]}]\n", r"no Python in it"),
        ("dependencies: []\n", r"no Python in it"),
        ("name: x\n", r"no Python in it"),
        ("", r"is empty"),
        ("just text\n", r"must be `key: value`"),
        ("dependencies: [python, {pip: [six=1]}]\n", r"line 1, column 31: 'six=1' isn't a requirement"),
        ("dependencies: [python, {pip: [--frob]}]\n", r"the option --frob isn't known"),
        ("dependencies: [python, {pip: [--index-url]}]\n", r"--index-url needs a value"),
        ("dependencies: [python, {pip: ['--pre https://me:secret@w.test']}]\n", r"word after --pre isn't"),
        ("dependencies: [python, {pip: ['-i \"https://me:secret@w.test']}]\n", r"a quote isn't closed"),
        ("dependencies: [python, {pip: ['six -i https://me:secret@w.test']}]\n", r"-i stands behind"),
        ("dependencies: [python, {pip: [-r none.txt]}]\n", r"none.txt can't be read"),
        ("dependencies: [python, {pip: ['--no-binary :all:']}]\n", r"only wheels can be locked"),
        ("dependencies: [python, {pip: [six --hash=md5:1]}]\n", r"isn't a sha256"),
        ("channels: ['https://me:secret@channels.test/c']\ndependencies: [python]\n", r"holds credentials"),
        ("channels: ['https://channels.test/t/tk-1234/c']\ndependencies: [python]\n", r"holds credentials"),
        ("channels: ['https://h.test/t/tk-secret']\ndependencies: [python]\n", r"holds credentials"),
        ("channels: ['https://h.test/t/x${TOKEN}/c']\ndependencies: [python]\n", r"holds credentials"),
        ("channels: ['https://$USER:secret@h.test/c']\ndependencies: [python]\n", r"holds credentials"),
        (
            "dependencies: [python, {pip: ['a @ https://me:secret@w.test/a-1-py3-none-any.whl']}]\n",
            r"credentials",
        ),
        ("variables: [A]\ndependencies: [python]\n", r"variables must be `key: value`"),
        ("variables: {A: }\ndependencies: [python]\n", r"variables: A must be text"),
    ],
)
def test_bad_specs_are_refused_in_words(read: Read, text: str, message: str) -> None:
    """What is wrong, where it is, and what mends it; never a secret."""
    with pytest.raises(SpecError, match=message) as refused:
        read(text)
    assert refused.value.remedy
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "--editable=./package",
        "git+https://git.test/a/b.git@main",
        "a @ git+ssh://git@git.test/a/b",
        "hg+https://hg.test/a",
        "./package",
        "/srv/package",
        "~/package",
        "wheels/six-1.17.0-py2.py3-none-any.whl",
        "six-1.17.0.tar.gz",
        "a @ file:///srv/a-1-py3-none-any.whl",
        "file:///srv/a",
        "https://wheels.test/six-1.17.0.tar.gz",
        "a @ https://wheels.test/archive/main.zip",
    ],
)
def test_what_no_hash_can_pin_is_refused(read: Read, line: str) -> None:
    """Editable installs, version control, paths and sources: each with the reason."""
    with pytest.raises(SpecError, match="no hash can pin it") as refused:
        read(f"dependencies:\n  - python\n  - pip:\n    - {line}\n")
    assert "line 4" in str(refused.value)


def test_a_line_of_a_requirements_file_is_named(read: Read, tmp_path: Path) -> None:
    """The place of an error in a nested file is that file's line, counting continued ones."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.txt").write_text("six \\\n  >= 1\n\n-e .\n")
    with pytest.raises(SpecError, match=r"sub/more.txt, line 4: `-e .`"):
        read("dependencies: [python, {pip: [-r sub/more.txt]}]\n")


def test_files_that_name_each_other(read: Read, tmp_path: Path) -> None:
    """Requirements files that include one another are read once each."""
    (tmp_path / "a.txt").write_text("-r b.txt\nsix\n")
    (tmp_path / "b.txt").write_text("-r a.txt\nattrs\n")
    assert read("dependencies: [python, {pip: [-r a.txt]}]\n").pip == ("attrs", "six")


def test_missing_files_are_said(tmp_path: Path) -> None:
    """No spec, or no Dockerfile: the error names the setting."""
    with pytest.raises(SpecError, match="can't be read") as missing:
        read_spec(tmp_path / "none.yml", dockerfile=tmp_path / "Dockerfile", base="x")
    assert "invoke.yaml" in missing.value.remedy
    (tmp_path / "e.yml").write_text("dependencies: [python]\n")
    with pytest.raises(SpecError, match="Dockerfile"):
        read_spec(tmp_path / "e.yml", dockerfile=tmp_path / "Dockerfile", base="x")


def test_comments_in_a_here_document_count(read: Read) -> None:
    """In a Dockerfile's here-document, `#` lines are content."""
    text = "dependencies: [python]\n"
    one = read(text, dockerfile="FROM x\nCOPY <<EOF /f\n# a\nEOF\n")
    assert one.hash != read(text, dockerfile="FROM x\nCOPY <<EOF /f\n# b\nEOF\n").hash


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A file of another encoding is said to be unreadable."""
    (tmp_path / "e.yml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(SpecError, match="can't be read"):
        read_spec(tmp_path / "e.yml", dockerfile=tmp_path / "Dockerfile", base="x")


def test_plain_specs_cost_no_solver(tmp_path: Path) -> None:
    """Reading the usual spec doesn't import the solver: a build with nothing to do would pay for it."""
    (tmp_path / "e.yml").write_text(
        "dependencies: [python=3.11, 'numpy>=1,<2', pip, 'a.b_c==1.0', {pip: [six]}]\n"
    )
    (tmp_path / "Dockerfile").write_text("FROM x\n")
    code = (
        "import sys; from pathlib import Path; from lockstep.spec import read_spec\n"
        "read_spec(Path(sys.argv[1], 'e.yml'), dockerfile=Path(sys.argv[1], 'Dockerfile'), base='x')\n"
        "assert 'rattler' not in sys.modules, 'imported'"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[1], check=True)
