"""MatchSpecs: what each spelling takes is what conda takes."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest
import rattler
from rattler.package import BuildString

from lockstep.spec.match_spec import normalise

VERSIONS = ("4.9", "5.0", "5.1", "5.1.0", "5.1.4", "5.1_1", "5.10", "5.2", "6.0")
BUILDS = ("0", "h1_0")


@pytest.mark.parametrize(
    ("text", "versions", "build"),
    [
        # What conda 26's own MatchSpec gave for these texts.
        ("g = 5.1.* = 0", "5.1 5.1.0 5.1.4 5.1_1", "0"),
        ("g==5.1.*=0", "5.1 5.1.0 5.1.4 5.1_1", "0"),
        ("g 5.1.* = 0", "5.1 5.1.0 5.1.4 5.1_1", "0"),
        ("g 5.1.*=h*", "5.1 5.1.0 5.1.4 5.1_1", "h1_0"),
        ("g == 5.1.*", "5.1 5.1.0 5.1.4 5.1_1", "*"),
        ("g==5.*", "5.0 5.1 5.1.0 5.1.4 5.1_1 5.10 5.2", "*"),
        ("g==5.1* h*", "5.1 5.1.0 5.1.4 5.1_1", "h1_0"),
        ("g>5.1.*", "5.1.4 5.1_1 5.10 5.2 6.0", "*"),
        ("g >5.* 0", "5.1 5.1.0 5.1.4 5.1_1 5.10 5.2 6.0", "0"),
        ("g<=5.1.*", "4.9 5.0 5.1 5.1.0", "*"),
        ("g <5.1.* = h*", "4.9 5.0", "h1_0"),
        ("g>=5.1.*", "5.1 5.1.0 5.1.4 5.1_1 5.10 5.2 6.0", "*"),
        ("g<=5.1*", "4.9 5.0", "*"),
        ("g>=5,<6 = h*", "5.0 5.1 5.1.0 5.1.4 5.1_1 5.10 5.2", "h1_0"),
        ("g>=5,!=5.1.*", "5.0 5.10 5.2 6.0", "*"),
        ("g!=5.1.*=0", "4.9 5.0 5.10 5.2 6.0", "0"),
        ("g>4,==5.1.*", "5.1 5.1.0", "*"),
        ("g==5.1.*,>5", "5.1 5.1.0 5.1.4 5.1_1", "*"),
        ("g[version='>5.1.*']", "5.1.4 5.1_1 5.10 5.2 6.0", "*"),
        ('g[version="==5.1.*",build=h*]', "5.1 5.1.0 5.1.4 5.1_1", "h1_0"),
        ("g 5.1 0", "5.1 5.1.0", "0"),
        ("g=5.1=0", "5.1 5.1.0", "0"),
        ("g =5.1 0", "5.1 5.1.0", "0"),
        ("g==5.1 = 0", "5.1 5.1.0", "0"),
        ("g=5.1", "5.1 5.1.0 5.1.4 5.1_1", "*"),
        ("g 5.1", "5.1 5.1.0", "*"),
        ("g==5.1", "5.1 5.1.0", "*"),
        ("g * = h1_0", "4.9 5.0 5.1 5.1.0 5.1.4 5.1_1 5.10 5.2 6.0", "h1_0"),
        ("g ~=5.1", "5.1 5.1.0 5.1.4 5.1_1 5.10 5.2", "*"),
        ("g 5.1.*|6.* # both", "5.1 5.1.0 5.1.4 5.1_1 6.0", "*"),
        ("g>=5 , < 6|4.9", "4.9 5.0 5.1 5.1.0 5.1.4 5.1_1 5.10 5.2", "*"),
    ],
)
def test_what_a_spelling_takes(text: str, versions: str, build: str) -> None:
    """Blanks, operators, wildcards, builds and brackets: rattler reads our spelling as conda reads theirs."""
    spec = rattler.MatchSpec(normalise(text))
    taken = {
        (version, name)
        for version in VERSIONS
        for name in BUILDS
        if spec.matches(rattler.PackageRecord("g", version, BuildString(name), 0, "linux-64", None))
    }
    assert taken == {
        (version, name) for version in versions.split() for name in BUILDS if fnmatch(name, build)
    }
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g!=5.1*", r"write `!=5\.1\.\*`"),
        ("g<=*", "matches nothing"),
        ("g~=5.1.*", "wildcard after ~="),
        ("g~=5", "two numbers"),
        ("g~=5.1_1", "with >= and <"),
        ("g>*", "incompatible"),
        ("g 5.*.4", "not supported"),
        ("g 1 2 3 4", "more than name, version and build"),
        ("g===5.1", "===5.1"),
    ],
)
def test_what_cant_be_read_as_conda_does_is_refused(text: str, reason: str) -> None:
    """A spelling that conda's tools take for different things, or for nothing, is refused with the reason."""
    with pytest.raises(ValueError, match=reason):
        normalise(text)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("python = 3.11", "python=3.11"),
        ("blas[version='>=3',build=*mkl]", "blas[version='>=3',build=*mkl]"),
        ("scipy==1.11.4=py311h64a7726_0", "scipy==1.11.4=py311h64a7726_0"),
        ("conda-forge::pandas >= 2", "conda-forge::pandas>=2"),
        ("giflib = 5.1.* = 0", "giflib=5.1.*=0"),
    ],
)
def test_spellings_that_locks_were_made_of_stay(text: str, same: str) -> None:
    """What was read right before is spelled as before, so that a lock that was made of it stays fresh."""
    assert normalise(text) == same
