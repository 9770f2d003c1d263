// What csrc/cuda/device.h includes in an emulated build: the shim, and the runtime of fake devices.
#pragma once

#include_next "cuda_host.h"
#include "fake_runtime.h"
