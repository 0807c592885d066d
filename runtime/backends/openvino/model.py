"""Reading an exported model for OpenVINO: our operators for one picture, and arithmetic in bfloat16 where asked."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from algm_trt.plugins import spec
from algm_trt.runtime.backends.onnx_model import path_text
from algm_trt.runtime.backends.onnx_scores import without_labels
from algm_trt.runtime.backends.openvino.errors import telling_line
from algm_trt.runtime.backends.openvino.operators import CONVERTERS
from algm_trt.runtime.engine import EngineError

if TYPE_CHECKING:
    import openvino

FP32_WEIGHTS: Final = ("decoder.head.",)
"""Linear layers whose results are class scores: rounded to bfloat16 they would tie."""


def read_model(path: Path, *, bf16: bool) -> openvino.Model:
    """Read an ONNX file of algm-export for pictures one at a time, without its labels.

    The types in the model are those to compute in (`INFERENCE_PRECISION_HINT: dynamic` keeps them). With `bf16` they
    follow PyTorch's autocast: linear layers and attention in bfloat16; normalisations, sums and merging in float32. All
    that the local merge sees stays in float32 too: it orders tokens by similarity, the global merge pairs them by that
    order, and one swap would change both.

    Args:
        path: of the file.
        bf16: whether linear layers behind the local merge, or all in a dense model, compute in bfloat16.

    Raises:
        EngineError: not an ONNX file, at a path that is not UTF-8, or with operators that are not known here.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.onnx import ConversionExtension

    frontend = FrontEndManager().load_by_framework("onnx")
    try:
        lowering = _Lowering()
        for name, (builder, arguments) in CONVERTERS.items():
            after = lowering.begin if bf16 and name == spec.LOCAL_MERGE.name else None
            convert = _converter(builder, arguments, after)
            frontend.add_extension(ConversionExtension(name, spec.DOMAIN, convert))
        for name, method in lowering.methods().items() if bf16 else ():
            frontend.add_extension(ConversionExtension(name, _standard_converter(method)))
        # A model in memory is converted with the extensions that there are when it is loaded.
        scores = without_labels(path)
        source = frontend.load(path_text(path) if scores is None else io.BytesIO(scores))
        if not any("threshold" in place.get_names() for place in source.get_inputs()):
            lowering.begin()  # a dense model: there is no local merge to begin behind
        _one_picture(source)
        return frontend.convert(source)
    except EngineError:
        raise
    except Exception as error:  # OpenVINO raises classes of its own that share no base but Exception
        raise EngineError(f"{path}: not a model that OpenVINO can open ({telling_line(error)})") from error


def options_for(model: openvino.Model) -> dict[str, object]:
    """What a model is to be compiled with, beside the options of an engine.

    OpenVINO 2026.4 fuses attention with the transposes around it, and where there are as many tokens as heads it leaves
    them out: class scores were wrong by their own size. Such a network is tiny, and compiled without that fusion.
    """
    shapes = [node.input(0).get_partial_shape() for node in model.get_ops() if node.get_type_name() == "Softmax"]
    square = any(shape.is_static and len(shape) == 4 and shape[1] == shape[2] for shape in shapes)
    return {"SNIPPETS_MODE": "DISABLE"} if square else {}


class _Lowering:
    """Standard operators of the exported graph in bfloat16, from where it is told to begin.

    Nodes come in the order of the graph. Where types meet, bfloat16 and float32 give float32, except that a linear
    layer's bias and a scale take the type of what they are applied to.
    """

    def __init__(self) -> None:
        self._active = False

    def begin(self) -> None:
        """Lower what comes from here on."""
        self._active = True

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Converter of each operator, by its ONNX name."""
        return {
            "MatMul": self._matmul,
            "Add": self._add,
            "Mul": self._multiply,
            "Div": self._divide,
            "ReduceL2": self._length,
        }

    def _matmul(self, a: Any, b: Any) -> Any:
        from openvino import opset15 as op

        if self._active and _is_constant(b) and not b.get_node().get_friendly_name().startswith(FP32_WEIGHTS):
            a, b = op.convert(a, "bf16"), op.convert(b, "bf16")
        else:
            a, b = _promoted(a, b)
        return op.matmul(a, b, False, False)

    def _add(self, a: Any, b: Any) -> Any:
        from openvino import opset15 as op

        return op.add(*_met(a, b))

    def _multiply(self, a: Any, b: Any) -> Any:
        from openvino import opset15 as op

        return op.multiply(*_met(a, b))

    def _divide(self, a: Any, b: Any) -> Any:
        from openvino import opset15 as op

        return op.divide(_restored(a), _restored(b))

    def _length(self, x: Any, axes: Any) -> Any:
        from openvino import opset15 as op

        return op.reduce_l2(_restored(x), axes, True)


def _met(a: Any, b: Any) -> tuple[Any, Any]:
    """Operands of one type; a constant vector or number takes the other's."""
    from openvino import opset15 as op

    if a.get_element_type() != b.get_element_type() and _is_constant(b) and len(b.get_partial_shape()) < 2:
        return a, op.convert_like(b, a)
    return _promoted(a, b)


def _promoted(a: Any, b: Any) -> tuple[Any, Any]:
    """Operands as they are if they are of one type, else both in float32."""
    from openvino import opset15 as op

    if a.get_element_type() == b.get_element_type():
        return a, b
    return op.convert(a, "f32"), op.convert(b, "f32")


def _restored(x: Any) -> Any:
    """Float32 where it is bfloat16."""
    from openvino import opset15 as op

    return op.convert(x, "f32") if x.get_element_type().get_type_name() == "bf16" else x


def _is_constant(x: Any) -> bool:
    return bool(x.get_node().get_type_name() == "Constant")


def _converter(
    builder: Callable[..., list[Any]], arguments: Mapping[str, str], after: Callable[[], None] | None
) -> Callable[[Any], list[Any]]:
    """What OpenVINO calls for an operator of ours: node context to outputs."""

    def convert(context: Any) -> list[Any]:
        inputs = [context.get_input(index) for index in range(context.get_input_size())]
        outputs = builder(*inputs, **{name: context.get_attribute(key) for name, key in arguments.items()})
        if after:
            after()
        return [output.output(0) for output in outputs]

    return convert


def _standard_converter(method: Callable[..., Any]) -> Callable[[Any], list[Any]]:
    """What OpenVINO calls for a standard operator."""

    def convert(context: Any) -> list[Any]:
        return [method(*(context.get_input(index) for index in range(context.get_input_size()))).output(0)]

    return convert


def _one_picture(source: Any) -> None:
    """Fix the batch at one: every dimension but the numbers of tokens left is then known when it is compiled."""
    from openvino import PartialShape

    for place in source.get_inputs():
        if "images" in place.get_names():
            _, *rest = source.get_partial_shape(place)
            source.set_partial_shape(place, PartialShape([1, *rest]))
