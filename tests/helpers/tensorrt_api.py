"""Every name of TensorRT's Python interface that builder and runtime use: data for the test that looks each of them up.

The test looks in TensorRT-RTX, which is installed where tests run, and in lists of names that were read from NVIDIA's
wheels of TensorRT 10.9, 10.16 and 11.4 (`tests/engines/tensorrt_names.json`), so that a name which does not exist is
found without a GPU. A second test reads our source and finds names that are missing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Names = Mapping[str, tuple[str, ...]]

BOTH: Final[Names] = {
    "": ("Builder", "OnnxParser", "Runtime"),
    "ILogger": ("Severity", "log"),
    "ILogger.Severity": ("ERROR", "INTERNAL_ERROR", "WARNING"),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "Builder": (
        "get_plugin_registry",
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ),
    "IPluginRegistry": ("all_creators", "load_library"),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "OnnxParser": ("parse", "num_errors", "get_error"),
    "ParserError": ("node_name", "node_operator", "desc"),
    "INetworkDefinition": ("num_layers", "get_layer"),
    "ILayer": ("name", "type", "num_inputs", "get_input", "num_outputs", "get_output"),
    "LayerType": ("PLUGIN_V3",),
    "ITensor": ("name", "dtype", "shape"),
    "IOptimizationProfile": ("set_shape",),
    "IBuilderConfig": (
        "add_optimization_profile",
        "builder_optimization_level",
        "clear_flag",
        "create_timing_cache",
        "get_timing_cache",
        "plugins_to_serialize",
        "profiling_verbosity",
        "progress_monitor",
        "set_memory_pool_limit",
        "set_timing_cache",
    ),
    "ITimingCache": ("combine", "serialize"),
    "BuilderFlag": ("TF32",),
    "MemoryPoolType": ("WORKSPACE",),
    "ProfilingVerbosity": ("DETAILED",),
    "IHostMemory": ("nbytes",),
}
"""Class or enumeration ("" is the module) and its members, in TensorRT 10.9 to 11 and in TensorRT-RTX alike."""

TENSORRT: Final[Names] = {
    "": ("init_libnvinfer_plugins",),
    "IBuilderConfig": ("hardware_compatibility_level", "set_flag"),
    "BuilderFlag": ("VERSION_COMPATIBLE",),
    "HardwareCompatibilityLevel": ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
}
"""What only the target tensorrt uses."""

RUNTIME: Final[Names] = {
    "": ("Runtime",),
    "ILogger": ("Severity", "log"),
    "ILogger.Severity": ("ERROR", "INTERNAL_ERROR", "WARNING"),
    "Runtime": ("engine_host_code_allowed", "get_plugin_registry", "deserialize_cuda_engine"),
    "IPluginRegistry": ("all_creators", "load_library"),
    "ICudaEngine": (
        "create_engine_inspector",
        "create_execution_context",
        "device_memory_size_v2",
        "get_tensor_dtype",
        "get_tensor_location",
        "get_tensor_name",
        "get_tensor_shape",
        "num_io_tensors",
        "num_optimization_profiles",
    ),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "TensorLocation": ("DEVICE",),
    "DataType": ("FLOAT", "INT32", "UINT8"),
    "IExecutionContext": (
        "execute_async_v3",
        "set_device_memory",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_tensor_address",
        "temporary_allocator",
    ),
    "IGpuAsyncAllocator": ("allocate_async", "deallocate_async", "reallocate"),
}
"""What runs a plan, here and for `--dump-layers`; the lean runtime has it as well."""

INSPECTOR: Final[Names] = {
    "EngineInspector": ("get_engine_information",),
    "LayerInformationFormat": ("JSON",),
}
"""What it uses to look into the plan; the lean runtime lacks it."""

RTX: Final[Names] = {
    "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability"),
    "ComputeCapability": ("SM80", "SM86", "SM89", "SM120", "SM121"),
}
"""What only the target rtx uses."""

REGISTRY: Final[Names] = {
    "": ("PluginField", "PluginFieldCollection", "get_plugin_registry"),
    "IPluginRegistry": ("get_creator", "load_library"),
    "IPluginCreatorV3One": ("create_plugin",),
    "PluginFieldType": ("FLOAT32", "INT32"),
    "TensorRTPhase": ("BUILD",),
}
"""What the self-test asks of the plugin registry; the lean runtime has it as well."""
