"""Names of trtexec: each means the same as an option of the command, and what means something else is refused."""

from __future__ import annotations

import pytest

from algm_trt.engines.cli import _options, _parser
from algm_trt.engines.options import BuildOptions


def options(*arguments: str) -> BuildOptions:
    return _options(_parser().parse_args(arguments))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["--timingCacheFile=a.cache"], ["--timing-cache", "a.cache"]),
        (["--builderOptimizationLevel=5"], ["--optimization-level", "5"]),
        (["--builderOptimizationLevel", "0"], ["--optimization-level", "0"]),
        (["--hardwareCompatibilityLevel=ampere+"], ["--hardware-compatibility", "ampere-plus"]),
        (
            ["--hardwareCompatibilityLevel=sameComputeCapability"],
            ["--hardware-compatibility", "same-compute-capability"],
        ),
        (["--hardwareCompatibilityLevel=none"], []),
        (["--versionCompatible"], ["--version-compatible"]),
        (["--memPoolSize=workspace:512"], ["--workspace", "512"]),
        (["--memPoolSize=workspace:512M"], ["--workspace", "512"]),
        (["--memPoolSize=workspace:1.5g"], ["--workspace", "1536"]),
        (["--memPoolSize=workspace:2048K"], ["--workspace", "2"]),
        (["--memPoolSize=workspace:1048576B"], ["--workspace", "1"]),
    ],
)
def test_a_name_of_trtexec_means_the_same(theirs: list[str], ours: list[str]) -> None:
    assert options("--fp16", *theirs) == options("--fp16", *ours)


def test_every_name_means_something() -> None:
    changed = options(
        "--timingCacheFile=a.cache",
        "--builderOptimizationLevel=5",
        "--hardwareCompatibilityLevel=ampere+",
        "--versionCompatible",
        "--memPoolSize=workspace:512",
    )
    default = options()
    for name in (
        "timing_cache",
        "optimization_level",
        "hardware_compatibility",
        "version_compatible",
        "workspace_mib",
    ):
        assert getattr(changed, name) != getattr(default, name) == getattr(BuildOptions(), name)


def test_the_last_one_given_counts() -> None:
    assert options("--workspace", "1", "--memPoolSize=workspace:2").workspace_mib == 2
    assert options("--memPoolSize=workspace:2", "--workspace", "1").workspace_mib == 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--hardwareCompatibilityLevel=ampere-plus", "must be none, ampere+ or sameComputeCapability"),
        ("--builderOptimizationLevel=high", "invalid int value"),
        *(
            (f"--memPoolSize={pools}", "must be workspace:N, N whole MiB")
            for pools in (
                *("512", "dlaSRAM:1", "workspace:1,dlaSRAM:1", "workspace:", "workspace:1T", "workspace:-1"),
                *(
                    "workspace:0",
                    "workspace:0.5",
                    "workspace:1025K",
                    "workspace:1e3",
                    "workspace:1\N{KELVIN SIGN}",
                    f"workspace:{'9' * 5000}",
                ),
            )
        ),
    ],
)
def test_what_means_something_else_is_refused(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        options(argument)
    assert f"argument {argument.split('=')[0]}: {message}" in capsys.readouterr().err


def test_help_gives_each_name_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--help")
    text = capsys.readouterr().out
    for action in _parser()._actions:
        assert all(name in text for name in action.option_strings)
    assert text.count("--memPoolSize") == text.count("--timingCacheFile") == 1
