"""How a network is compiled: flags, the GPU, memory, profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec_export.errors import BuildError, OptionError
from hytrec_export.exporters.tensorrt.log import Log
from hytrec_export.exporters.tensorrt.package import MODULES, TensorRT
from hytrec_export.exporters.tensorrt.profiles import Profile
from hytrec_export.options import EngineOptions, Target

WORKSPACE_BYTES = 16 << 30
"""Maximum scratch memory of a kernel; less where the GPU has less."""


def check_options(target: Target, options: EngineOptions) -> None:
    """Reject options that the target's compiler does not have, before it starts.

    Raises:
        OptionError: TensorRT for RTX is asked for engines of other GPUs or versions than those it compiles for.
    """
    if target is Target.TENSORRT_RTX and options.hardware_compatibility:
        raise OptionError(
            "target tensorrt-rtx has no --hardware-compatibility; leave it out and build for each GPU with "
            "--compute-capability"
        )
    if target is Target.TENSORRT_RTX and options.version_compatible:
        raise OptionError(
            "target tensorrt-rtx has no --version-compatible, its engines run on the version that compiled them alone; "
            "leave it out and build again with each version"
        )


def check_capability(tensorrt: TensorRT, options: EngineOptions) -> None:
    """Reject a GPU that the package does not build for.

    Raises:
        BuildError: it does not.
    """
    if not tensorrt.ahead_of_time:
        return
    known = sorted(_capabilities(tensorrt.module))
    if options.compute_capability not in known:
        raise BuildError(
            f"compute capability is {options.compute_capability}; {MODULES[tensorrt.target]} {tensorrt.version} "
            f"builds for {', '.join(known)}"
        )


def configure(tensorrt: TensorRT, builder: Any, options: EngineOptions) -> Any:
    """A builder's configuration, still without profiles.

    Raises:
        BuildError: the package does not build for the compute capability, or lacks what an option asks for.
    """
    check_capability(tensorrt, options)
    trt = tensorrt.module
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # set by default; it would round the state to ten bits at every step
    workspace = trt.MemoryPoolType.WORKSPACE
    config.set_memory_pool_limit(workspace, min(WORKSPACE_BYTES, config.get_memory_pool_limit(workspace)))
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility:
        levels = trt.HardwareCompatibilityLevel
        config.hardware_compatibility_level = levels.AMPERE_PLUS
        if config.hardware_compatibility_level != levels.AMPERE_PLUS:
            raise BuildError(
                f"{tensorrt.target.value} {tensorrt.version} has no hardware compatibility; "
                "build without --hardware-compatibility"
            )
    if tensorrt.ahead_of_time:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capabilities(trt)[str(options.compute_capability)], 0)
    else:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector then shows types
    return config


def add_profiles(builder: Any, config: Any, profiles: Sequence[Profile], *, graph: str, log: Log) -> None:
    """Add a graph's optimization profiles, in order.

    Raises:
        BuildError: TensorRT refuses one.
    """
    for number, profile in enumerate(profiles):
        made = builder.create_optimization_profile()
        for name, shapes in profile.items():
            made.set_shape(name, shapes.minimum, shapes.optimum, shapes.maximum)
        if config.add_optimization_profile(made) != number:
            raise BuildError(
                f"TensorRT refuses profile {number} of {graph} ({log.reason()}); check the limits of the build"
            )


def _capabilities(trt: Any) -> dict[str, Any]:
    """What TensorRT for RTX builds for, by NVIDIA's names, as sm86."""
    return {name.lower(): member for name, member in trt.ComputeCapability.__members__.items() if name[:2] == "SM"}
