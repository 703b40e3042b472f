"""Graphs compiled to engines, by either package with TensorRT's Python API: tensorrt or tensorrt_rtx.

`build` is where a reader begins. Every step of it runs in continuous integration, with tensorrt_rtx; what only tensorrt
takes (hardware and version compatibility, timings in the cache) and what only a GPU shows (the inspector, the runner)
is written against NVIDIA's documentation of 10.12 to 11 and tested on fakes. No module here imports either package at
its top: `module.find_tensorrt` does.
"""

from hytrec_export.exporters.tensorrt.build import build_engines as build_engines
from hytrec_export.exporters.tensorrt.package import TensorRT as TensorRT
from hytrec_export.exporters.tensorrt.package import find_tensorrt as find_tensorrt
from hytrec_export.exporters.tensorrt.record import EngineRecord as EngineRecord
from hytrec_export.exporters.tensorrt.record import check_engine_version as check_engine_version
