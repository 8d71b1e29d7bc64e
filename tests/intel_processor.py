"""bnfold, run as on a processor of Intel's: ``python -m tests.intel_processor optimize IN OUT --provider openvino``.

OpenVINO computes on every x86-64, but the factory of its plugin for onnxruntime offers a device for Intel's alone. So
that the plugin itself runs in the tests, the vendor that onnxruntime noted is changed in the memory of this process.
pybind11 keeps the pointer to an object behind the header of its Python object, and an OrtHardwareDevice begins with its
type and its vendor, 32 bits each. Where that does not hold the exit code is 77, and the test is skipped.
"""

import ctypes
import sys

import onnxruntime

INTEL = 0x8086
UNKNOWN_LAYOUT = 77


def pretend() -> None:
    """Change the vendor. Exits where the memory is not laid out as described."""
    device = next(each.device for each in onnxruntime.get_ep_devices() if each.ep_name == "CPUExecutionProvider")
    if device.vendor_id == INTEL:
        return
    address = ctypes.c_void_p.from_address(id(device) + object.__basicsize__).value
    _, vendor = fields = (ctypes.c_uint32 * 2).from_address(address)
    if vendor != device.vendor_id:
        sys.exit(UNKNOWN_LAYOUT)
    fields[1] = INTEL
    if device.vendor_id != INTEL:
        sys.exit(UNKNOWN_LAYOUT)


if __name__ == "__main__":
    pretend()
    from bnfold.cli import main

    main()  # in one process: the threads that onnxruntime has by now would not survive a fork
