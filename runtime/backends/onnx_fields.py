"""Numbers of the fields of ONNX's messages, as far as they are read without the package onnx; from onnx.proto."""

from __future__ import annotations

from enum import IntEnum


class ModelField(IntEnum):
    """ModelProto."""

    GRAPH = 7
    OPSET_IMPORT = 8
    METADATA_PROPS = 14
    FUNCTIONS = 25


class GraphField(IntEnum):
    """GraphProto."""

    NODE = 1
    INITIALIZER = 5
    INPUT = 11
    OUTPUT = 12


class NodeField(IntEnum):
    """NodeProto."""

    INPUT = 1
    OUTPUT = 2
    OP_TYPE = 4
    ATTRIBUTE = 5
    DOMAIN = 7


class AttributeField(IntEnum):
    """AttributeProto."""

    GRAPH = 6
    GRAPHS = 11


class FunctionField(IntEnum):
    """FunctionProto."""

    NAME = 1
    DOMAIN = 10


class OpsetField(IntEnum):
    """OperatorSetIdProto."""

    DOMAIN = 1
    VERSION = 2


class EntryField(IntEnum):
    """StringStringEntryProto."""

    KEY = 1
    VALUE = 2


class TensorField(IntEnum):
    """TensorProto."""

    DATA_TYPE = 2
    FLOAT_DATA = 4
    NAME = 8
    RAW_DATA = 9
    DATA_LOCATION = 14


class ValueField(IntEnum):
    """ValueInfoProto."""

    NAME = 1
    TYPE = 2


class TypeField(IntEnum):
    """TypeProto."""

    TENSOR_TYPE = 1


class TensorTypeField(IntEnum):
    """TypeProto.Tensor."""

    ELEM_TYPE = 1
    SHAPE = 2


class DimensionField(IntEnum):
    """TensorShapeProto.Dimension."""

    VALUE = 1
    PARAM = 2
