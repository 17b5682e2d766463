"""The messages of a saved ML program that running it needs, by field numbers.

Source: apple/coremltools, mlmodel/format/Model.proto and MIL.proto (BSD-3-Clause).
"""

from __future__ import annotations

from vlrt_runtime.mil.wire import Schema

__all__ = ["SCHEMA"]

SCHEMA: Schema = {
    "Model": {
        1: ("version", "int"),
        2: ("description", "Description"),
        502: ("program", "Program"),
    },
    "Description": {21: ("default_function", "str")},
    "Program": {2: ("functions", "{Function}")},
    "Function": {1: ("inputs", "[Named]"), 2: ("opset", "str"), 3: ("blocks", "{Block}")},
    "Block": {2: ("outputs", "[str]"), 3: ("operations", "[Operation]")},
    "Operation": {
        1: ("type", "str"),
        2: ("inputs", "{Argument}"),
        3: ("outputs", "[Named]"),
        4: ("blocks", "[bytes]"),  # control flow: known of, not read
        5: ("attributes", "{Value}"),
    },
    "Argument": {1: ("bindings", "[Binding]")},
    "Binding": {1: ("name", "str"), 2: ("value", "Value")},
    "Named": {1: ("name", "str"), 2: ("type", "Type")},
    "Type": {1: ("tensor", "TensorType"), 2: ("list", "bytes"), 5: ("state", "StateType")},
    "StateType": {1: ("wrapped", "Type")},
    "TensorType": {1: ("dtype", "int"), 2: ("rank", "int"), 3: ("dims", "[Dimension]")},
    "Dimension": {1: ("constant", "Size"), 2: ("unknown", "bytes")},
    "Size": {1: ("size", "int")},
    "Value": {2: ("type", "Type"), 3: ("immediate", "Immediate"), 5: ("blob", "Blob")},
    "Immediate": {1: ("tensor", "TensorValue"), 3: ("list", "ListValue")},
    "ListValue": {1: ("values", "[Value]")},
    "Blob": {1: ("file", "str"), 2: ("offset", "int")},
    "TensorValue": {
        1: ("floats", "Packed"),
        2: ("ints", "Integers"),
        3: ("bools", "Integers"),
        4: ("strings", "Strings"),
        5: ("long_ints", "Integers"),
        6: ("doubles", "Packed"),
        7: ("bytes", "Packed"),
    },
    "Packed": {1: ("values", "bytes")},
    "Integers": {1: ("values", "[int]")},
    "Strings": {1: ("values", "[str]")},
}
