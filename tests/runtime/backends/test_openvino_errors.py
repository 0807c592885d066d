"""The one line of OpenVINO's messages that users see; the messages are those of version 2026.4."""

from __future__ import annotations

import pytest

from algm_trt.runtime.backends.openvino.errors import telling_line

UNKNOWN_OPERATOR = """Check 'false' failed at src/frontends/common_translators/src/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
Model wasn't fully converted. Failed operations detailed log:
-- algm.AlgmUnmerge with a message:
While validating ONNX node '<Node(AlgmUnmerge): decoder/unmerge>': RuntimeError: Exception from src/shape_util.cpp:66:
Summary:
-- No conversion rule found for operations: algm.Novelty
-- Conversion is failed for: algm.AlgmUnmerge
To facilitate the conversion of unsupported operations, refer to Frontend Extension documentation"""

CASES = {
    UNKNOWN_OPERATOR: "-- No conversion rule found for operations: algm.Novelty",
    UNKNOWN_OPERATOR.replace("No conversion rule", "x"): "-- algm.AlgmUnmerge with a message:",
    "Check 'm_model' failed at a.cpp:563:\nFrontEnd API failed with GeneralFailure:\nModel can't be parsed\n\n": (
        "Model can't be parsed"
    ),
    "Exception from a.cpp:27:\nmissing node not found in graph cache\n": "missing node not found in graph cache",
    "Exception from a.cpp:1:\nCheck 'x' failed at b.cpp:2:\n\n  out of memory\nat c.cpp:3": "out of memory",
    "Exception from a.cpp:1:": "Exception from a.cpp:1:",
    "": "RuntimeError",
}


@pytest.mark.parametrize("said", CASES, ids=range(len(CASES)))
def test_the_line_says_what_failed(said: str) -> None:
    assert telling_line(RuntimeError(said)) == CASES[said]
